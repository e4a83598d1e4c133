//! `policy test`: what the policies say of a connection, and why.

use std::path::Path;

use crate::admin::client;
use crate::admin::reply::{PolicyTestReply, SCHEMA};
use crate::policy::{Explanation, Modes, Question, Rules, STRICT, Step};

use super::arguments::{Output, PolicyTest, Socket};
use super::table::table;
use super::{Exit, ask, complain, fail, pretty, say, socket};

pub(super) fn test(asked: &PolicyTest) -> Exit {
    let question = Question {
        from: asked.from.clone(),
        ip: asked.ip,
        workload: asked.to.workload.clone(),
        port: asked.to.port,
    };
    if let Some(config) = &asked.config {
        return offline(config, &question, asked.output);
    }
    let socket = socket(&Socket {
        socket: asked.socket.clone(),
        config: crate::config::DEFAULT_PATH.into(),
    });
    ask(
        asked.output,
        client::policy_test(&socket, &question),
        |reply| show(&reply.explanation),
        |reply| judge(&reply.explanation),
    )
}

/// By what the files say now.
fn offline(config: &Path, question: &Question, output: Output) -> Exit {
    let loaded = match crate::config::read(config) {
        Ok(loaded) => loaded,
        Err(mistakes) => return fail(&mistakes.to_string()),
    };
    for warning in loaded.warnings.lines() {
        complain(&format!("warning: {warning}"));
    }
    if loaded.config.kubernetes.is_some() {
        complain(
            "warning: this is by files alone: the running daemon knows the cluster's policies",
        );
    }
    let rules = Rules::new(loaded.config.authorization.clone());
    let modes = Modes::new(&loaded.config, &[]);
    let explanation = match question.ask(&modes, &rules, &loaded.config, &[]) {
        Ok(explanation) => explanation,
        Err(none) => return fail(&none.to_string()),
    };
    let judged = judge(&explanation);
    let said = match output {
        Output::Human => say(&show(&explanation)),
        Output::Json => {
            let reply = PolicyTestReply {
                schema: SCHEMA,
                explanation,
            };
            match serde_json::to_vec(&reply) {
                Ok(json) => say(&pretty(&json)),
                Err(error) => fail(&error.to_string()),
            }
        }
    };
    match said {
        Exit::Done => judged,
        broken => broken,
    }
}

fn judge(explanation: &Explanation) -> Exit {
    match explanation.allowed {
        true => Exit::Done,
        false => Exit::Failed,
    }
}

fn show(explanation: &Explanation) -> String {
    const HEAD: [&str; 5] = ["RULE", "ACTION", "MATCHES", "DIFFERS IN", "WRITTEN"];
    let row = |step: &Step| {
        let mut action = step.action.clone();
        if step.dry_run {
            action.push_str(" (dry run)");
        }
        let matches = if step.matches { "yes" } else { "no" };
        let differs = step.differs.as_deref().unwrap_or("-");
        let cells = [&step.rule, &action, matches, differs, &step.written];
        cells.map(str::to_owned).to_vec()
    };
    let mut out = match explanation.steps.as_slice() {
        [] if explanation.rule == STRICT => String::new(),
        [] => "no policy selects the workload\n".to_owned(),
        steps => table(&HEAD, steps.iter().map(row)),
    };
    out.push_str(&verdict(explanation.allowed, &explanation.rule));
    if let Some(dry_run) = &explanation.dry_run {
        out.push_str("with the dry runs in force: ");
        out.push_str(&verdict(dry_run.allowed, &dry_run.rule));
    }
    out
}

fn verdict(allowed: bool, rule: &str) -> String {
    let verdict = if allowed { "allowed" } else { "denied" };
    match rule {
        "no_policy" => format!("{verdict}: no ALLOW policy selects the workload\n"),
        "no_rule" => {
            format!(
                "{verdict}: ALLOW policies select the workload, and no rule of theirs matches\n"
            )
        }
        STRICT => format!(
            "{verdict}: the workload is strict at that port, and the caller has proved nothing\n"
        ),
        rule => format!("{verdict} by {rule}\n"),
    }
}
