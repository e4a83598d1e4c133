//! `uninstall`: has all daemons of a DaemonSet detach, and waits until they have.

use std::fmt::Write as _;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::{Instant, sleep};

use crate::api_server::{self, LoginError};
use crate::kubernetes::{self, Asked, Progress, UninstallError};

use super::arguments::Uninstall;
use super::humane::count;
use super::{Exit, complain, fail, say, wait_for};

/// Between two looks.
const PAUSE: Duration = Duration::from_secs(1);

pub(super) fn command(asked: &Uninstall) -> Exit {
    match wait_for(run(asked)) {
        Ok(exit) => exit,
        Err(error) => fail(&format!("starting a runtime: {error}")),
    }
}

async fn run(what: &Uninstall) -> Exit {
    let deadline = Instant::now() + what.timeout;
    let asked = match ask(what, deadline).await {
        Ok(asked) => asked,
        Err(NotAsked(why)) => {
            complain(&format!("no daemon was asked to detach: {why}"));
            return fail(&remedy(what, &Progress::default()));
        }
    };
    let mut last = (Progress::default(), None);
    loop {
        match Box::pin(asked.progress()).await {
            Ok(progress) => {
                let said = say(&news(&last.0, &progress));
                if said != Exit::Done {
                    return said;
                }
                if progress.is_done() {
                    return say(&done(&progress));
                }
                last = (progress, None);
            }
            // It may answer in a moment.
            Err(error) => last.1 = Some(error.to_string()),
        }
        if Instant::now() + PAUSE > deadline {
            break;
        }
        sleep(PAUSE).await;
    }
    let (progress, trouble) = last;
    if let Some(trouble) = trouble {
        complain(&format!("what follows may be old: {trouble}"));
    }
    complain(&missing(&progress, what.timeout));
    complain(&remedy(what, &progress));
    Exit::TimedOut
}

struct NotAsked(String);

/// Again and again while it may still come to something.
async fn ask(what: &Uninstall, deadline: Instant) -> Result<Asked, NotAsked> {
    let login = api_server::client(what.kubeconfig.as_deref()).await;
    let client = login.map_err(|error: LoginError| NotAsked(error.to_string()))?;
    let request = Timestamp::now().to_string();
    loop {
        let (namespace, daemonset) = (&what.namespace, &what.daemonset);
        let asked = Asked::ask(client.clone(), namespace, daemonset, request.clone()).await;
        match asked {
            Ok(asked) => return Ok(asked),
            Err(error @ UninstallError::Missing(..)) => return Err(NotAsked(error.to_string())),
            Err(error) if Instant::now() + PAUSE > deadline => {
                return Err(NotAsked(error.to_string()));
            }
            Err(_) => sleep(PAUSE).await,
        }
    }
}

/// A line for each node of which something new is known.
fn news(before: &Progress, now: &Progress) -> String {
    let mut text = String::new();
    for node in now.detached.difference(&before.detached) {
        let _ = writeln!(text, "{node}: detached");
    }
    for (node, why) in &now.failing {
        if before.failing.get(node) != Some(why) {
            let _ = writeln!(text, "{node}: not yet: {why}");
        }
    }
    text
}

fn done(progress: &Progress) -> String {
    match progress.detached.len() {
        0 => "no node has a pod of the DaemonSet: there was nobody to ask\n".to_owned(),
        nodes => format!(
            "{} detached: nothing is enforced any more\n",
            count(nodes, "node")
        ),
    }
}

/// Who has not answered.
fn missing(progress: &Progress, waited: Duration) -> String {
    let without_pod = progress.without_pod;
    let mut text = format!(
        "{} not detached within {} s:",
        count(progress.missing().count() + without_pod, "node"),
        waited.as_secs()
    );
    for (node, why) in progress.missing() {
        let _ = write!(text, "\n  {node}: {why}");
    }
    if without_pod > 0 {
        let _ = write!(
            text,
            "\n  {} without a pod of the DaemonSet",
            count(without_pod, "node")
        );
    }
    text
}

fn remedy(what: &Uninstall, progress: &Progress) -> String {
    let Uninstall {
        namespace: ns,
        daemonset: name,
        ..
    } = what;
    let missing: Vec<&str> = progress.missing().map(|(node, _)| node).collect();
    let nodes = match missing.is_empty() {
        true => "each node where a daemon ran".to_owned(),
        false => missing.join(", "),
    };
    format!(
        "Nothing was deleted. What is attached there goes on to refuse connections of pods that were enrolled; other nodes stay detached.\n\
         Mend it and uninstall again; or do without: `helm uninstall {name} -n {ns} --no-hooks`, and then on {nodes}: \
         `rm -r /sys/fs/bpf/mtls-daemon` once no daemon runs there (or reboot), and take mtls-daemon out of the first file in /etc/cni/net.d if it is there.\n\
         If it is to stay after all: `helm rollback {name} REVISION -n {ns}` to the last one of `helm history`, or `kubectl annotate daemonset/{name} -n {ns} {}-`.",
        kubernetes::UNINSTALL
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn progress(detached: &[&str], failing: &[(&str, &str)], silent: &[(&str, &str)]) -> Progress {
        let named = |nodes: &[(&str, &str)]| {
            let named = nodes.iter();
            named
                .map(|&(node, why)| (node.to_owned(), why.to_owned()))
                .collect()
        };
        Progress {
            detached: detached.iter().map(|&node| node.to_owned()).collect(),
            failing: named(failing),
            silent: named(silent),
            without_pod: 0,
        }
    }

    #[test]
    fn each_node_has_a_line_as_it_comes() {
        let first = progress(&[], &[], &[("a", "silent"), ("b", "silent")]);
        // Nobody could have answered yet.
        assert_eq!(news(&Progress::default(), &first), "");
        let second = progress(&["a"], &[], &[("b", "silent")]);
        assert_eq!(news(&first, &second), "a: detached\n");
        assert_eq!(news(&second, &second), "");
        let third = progress(&["a"], &[("b", "a link stays")], &[]);
        assert_eq!(news(&second, &third), "b: not yet: a link stays\n");
        assert_eq!(news(&third, &third), "");
        let fourth = progress(&["a", "b"], &[], &[]);
        assert_eq!(news(&third, &fourth), "b: detached\n");
        assert!(done(&progress(&["a"], &[], &[])).starts_with("1 node detached"));
        assert!(done(&Progress::default()).contains("nobody to ask"));
    }

    #[test]
    fn whoever_is_missing_is_named_with_what_to_do() {
        let mut left = progress(&["a"], &[("c", "a link stays")], &[("b", "silent")]);
        left.without_pod = 1;
        let text = missing(&left, Duration::from_secs(120));
        assert_eq!(
            text,
            "3 nodes not detached within 120 s:\n  c: a link stays\n  b: silent\n  1 node without a pod of the DaemonSet"
        );
        let what = Uninstall {
            daemonset: "mesh".to_owned(),
            namespace: "infra".to_owned(),
            timeout: Duration::from_secs(120),
            kubeconfig: None,
        };
        let text = remedy(&what, &left);
        for said in [
            "`helm uninstall mesh -n infra --no-hooks`, and then on c, b: `rm -r /sys/fs/bpf/mtls-daemon`",
            "`helm rollback mesh REVISION -n infra`",
            "mtls-daemon.io/uninstall-`",
        ] {
            assert!(text.contains(said), "{said}: {text}");
        }
        assert_eq!(left.detached, BTreeSet::from(["a".to_owned()]));
    }
}
