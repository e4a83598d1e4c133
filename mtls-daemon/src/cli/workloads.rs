//! `workloads`: who on this node is enrolled, by whose word, and since when.

use std::fmt::Write as _;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::admin::client::{self, Answer};
use crate::admin::reply::StatusReply;
use crate::admin::view::{WorkloadState, WorkloadStatus};
use crate::config::Mode;

use super::arguments::Ask;
use super::humane::{count, duration};
use super::table::table;
use super::{Exit, ask, socket};

pub(super) fn command(asked: &Ask) -> Exit {
    let socket = socket(&asked.socket);
    let workloads = async {
        let answer = client::status(&socket).await?;
        let json = of_workloads(&answer.json);
        Ok(Answer { json, ..answer })
    };
    ask(asked.output, workloads, show, judge)
}

/// What `status` says of them, and nothing else.
fn of_workloads(status: &[u8]) -> Bytes {
    let mut status: Value = serde_json::from_slice(status).unwrap_or_default();
    let workloads = json!({
        "schema": status["schema"].take(),
        "time": status["time"].take(),
        "workloads": status["status"]["workloads"].take(),
    });
    Bytes::from(workloads.to_string())
}

fn show(reply: &StatusReply) -> String {
    let workloads = &reply.status.workloads;
    let rows = workloads.iter().map(|workload| {
        let since = workload.since.map(|since| {
            let ago = reply.time.duration_since(since).unwrap_or_default();
            format!("{} ago", duration(ago))
        });
        vec![
            workload.name.clone(),
            enrolled(workload).to_owned(),
            workload.mode.to_string(),
            workload.because.clone(),
            workload.identity.to_string(),
            since.unwrap_or_else(|| "-".to_owned()),
        ]
    });
    let head = [
        "WORKLOAD",
        "ENROLLED",
        "MODE",
        "BY WORD OF",
        "IDENTITY",
        "SINCE",
    ];
    let mut out = match workloads.is_empty() {
        true => "no workloads\n".to_owned(),
        false => table(&head, rows),
    };
    for workload in workloads {
        if let Some(why) = why(&workload.state) {
            let _ = writeln!(out, "{}: {why}", workload.name);
        }
    }
    let well = workloads.iter().filter(|it| is_enrolled(it)).count();
    let _ = writeln!(
        out,
        "{} of {} enrolled",
        well,
        count(workloads.len(), "workload")
    );
    out
}

fn judge(reply: &StatusReply) -> Exit {
    let failed = |it: &WorkloadStatus| {
        matches!(
            it.state,
            WorkloadState::Failed { .. } | WorkloadState::NotEnrolled { .. }
        )
    };
    match reply.status.workloads.iter().any(failed) {
        true => Exit::Failed,
        false => Exit::Done,
    }
}

fn is_enrolled(workload: &WorkloadStatus) -> bool {
    workload.mode != Mode::Off && workload.state == WorkloadState::Ready
}

fn enrolled(workload: &WorkloadStatus) -> &'static str {
    match (&workload.state, workload.mode) {
        (WorkloadState::Absent { .. }, _) => "not there",
        (_, Mode::Off) => "no",
        (WorkloadState::Ready, _) => "yes",
        (WorkloadState::Waiting { .. }, _) => "waits",
        (WorkloadState::Failed { .. }, _) => "FAILED",
        (WorkloadState::NotEnrolled { .. }, _) => "CANNOT BE",
    }
}

fn why(state: &WorkloadState) -> Option<String> {
    match state {
        WorkloadState::Ready => None,
        WorkloadState::Absent { detail } | WorkloadState::Waiting { detail } => {
            Some(detail.clone())
        }
        WorkloadState::Failed { reason, detail }
        | WorkloadState::NotEnrolled { reason, detail } => {
            Some(format!("{reason}: {detail}\n  {}", reason.remedy()))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::admin::readiness::Verdict;
    use crate::admin::reply::SCHEMA;
    use crate::admin::samples;
    use crate::reason::Reason;

    fn reply() -> StatusReply {
        let mut status = samples::status();
        let web = status.workloads[0].clone();
        let pod = |name: &str, mode, state, because: &str| WorkloadStatus {
            name: name.to_owned(),
            mode,
            state,
            because: because.to_owned(),
            ..web.clone()
        };
        let unfit = WorkloadState::NotEnrolled {
            reason: Reason::CannotEnrol,
            detail: "a pod with hostNetwork has no network namespace of its own".to_owned(),
        };
        status
            .workloads
            .push(pod("shop/a", Mode::Off, WorkloadState::Ready, "its label"));
        status
            .workloads
            .push(pod("shop/b", Mode::Strict, unfit, "its namespace"));
        StatusReply {
            schema: SCHEMA,
            time: status.started + Duration::from_secs(1000),
            status,
            ready: Verdict::default(),
            healthy: Verdict::default(),
            hooks: Vec::new(),
            threads: Vec::new(),
            descriptors: None,
        }
    }

    #[test]
    fn each_says_whether_and_by_whose_word() {
        let shown = show(&reply());
        for expected in [
            "web       yes        strict  the configuration  spiffe://example.org/web  16m 40s ago\n",
            "shop/a    no         off     its label ",
            "shop/b    CANNOT BE  strict  its namespace ",
            "shop/b: cannot_enrol: a pod with hostNetwork",
            "1 of 3 workloads enrolled\n",
        ] {
            assert!(shown.contains(expected), "{expected:?} is not in\n{shown}");
        }
        assert_eq!(judge(&reply()), Exit::Failed);
    }

    #[test]
    fn programs_get_the_workloads_alone() {
        let status = serde_json::to_vec(&reply()).unwrap();
        let json: Value = serde_json::from_slice(&of_workloads(&status)).unwrap();
        assert_eq!(json["schema"], 1);
        assert_eq!(json["workloads"][1]["because"], "its label");
        assert_eq!(json["workloads"][0]["since"], "2027-01-15T08:00:00Z");
        assert!(json.get("status").is_none());
    }
}
