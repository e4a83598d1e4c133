//! Whether the node is well, and whether it is ready: two pure judgements,
//! and the one to tell systemd.

use std::time::{Duration, SystemTime};

use super::view::{NodeStatus, Phase, WorkloadState};
use crate::identity::certificate::shown;
use crate::kubernetes::UNINSTALL;
use crate::metrics::HookState;

/// A thread that was silent for longer is stuck.
pub const HEARTBEAT_LIMIT: Duration = Duration::from_secs(5);

/// Fewer free descriptors than this, and the daemon can do nothing any more.
/// It refuses connections long before.
pub const DESCRIPTOR_RESERVE: u64 = 16;

/// A judgement with its grounds.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Verdict {
    /// Why not; empty when all is well.
    pub problems: Vec<String>,
    /// What somebody should look at all the same.
    pub alarms: Vec<String>,
}

impl Verdict {
    pub fn good(&self) -> bool {
        self.problems.is_empty()
    }
}

/// Each thread has shown that it is alive, and there are descriptors left.
pub fn healthy(heartbeats: &[(String, Duration)], descriptors: Option<(u64, u64)>) -> Verdict {
    let mut verdict = Verdict::default();
    for (thread, age) in heartbeats {
        if *age > HEARTBEAT_LIMIT {
            let age = age.as_secs();
            let problem = format!("thread {thread} has not answered for {age} s");
            verdict.problems.push(problem);
        }
    }
    match descriptors {
        Some((used, most)) if used + DESCRIPTOR_RESERVE > most => {
            let problem = format!("{used} of {most} file descriptors are in use");
            verdict.problems.push(problem);
        }
        Some(_) => {}
        // Counting them takes one, on older kernels.
        None => {
            let problem = "the file descriptors cannot be counted: probably none is left";
            verdict.problems.push(problem.to_owned());
        }
    }
    verdict
}

/// Enforcement is attached, and every workload that is there is ready or has
/// failed for a reason. One that fails must not take the node's others down.
pub fn ready(status: &NodeStatus, hooks: &[HookState], now: SystemTime) -> Verdict {
    let mut verdict = Verdict::default();
    match &status.phase {
        Phase::Starting => verdict.problems.push("starting".to_owned()),
        Phase::Draining { .. } => verdict.problems.push("draining".to_owned()),
        Phase::Detached {
            asked_by,
            still_attached,
        } => {
            // Whatever else it lacks, it is not to have.
            verdict.problems.push(detached(asked_by));
            verdict.problems.extend(still_attached.clone());
            return verdict;
        }
        Phase::Serving => {}
    }
    let detached: Vec<&str> = hooks
        .iter()
        .filter(|state| !state.attached)
        .map(|state| state.hook.word())
        .collect();
    if hooks.is_empty() {
        let problem = "no hook is attached";
        verdict.problems.push(problem.to_owned());
    } else if !detached.is_empty() {
        let problem = format!("hooks are not attached: {}", detached.join(", "));
        verdict.problems.push(problem);
    }
    if let Some(error) = &status.pins_error {
        let problem = format!("enforcement would end with this daemon: {error}");
        verdict.problems.push(problem);
    }
    for workload in &status.workloads {
        let (name, identity) = (&workload.name, &workload.identity);
        match &workload.state {
            WorkloadState::Ready
            | WorkloadState::Absent { .. }
            | WorkloadState::NotEnrolled { .. } => {}
            WorkloadState::Waiting { detail } => {
                let problem = format!("workload {name} ({identity}) is waiting: {detail}");
                verdict.problems.push(problem);
            }
            WorkloadState::Failed { reason, detail } => {
                let alarm = format!("workload {name} ({identity}) has failed: {reason}: {detail}");
                verdict.alarms.push(alarm);
            }
        }
        if let Some(error) = &workload.renewal_error {
            let alarm = format!("the certificate of workload {name} is not renewed: {error}");
            verdict.alarms.push(alarm);
        }
    }
    if let Some(error) = &status.plugin_error {
        let alarm = format!("pods do not wait to be enrolled, for want of the plug-in: {error}");
        verdict.alarms.push(alarm);
    }
    for bundle in &status.trust_bundles {
        if let Some(error) = &bundle.error {
            let domain = &bundle.trust_domain;
            verdict
                .alarms
                .push(format!("the trust bundle of {domain} is not read: {error}"));
        }
    }
    for revocation in &status.revocation {
        let (domain, policy) = (&revocation.trust_domain, &revocation.policy);
        if let Some(error) = &revocation.error {
            let what = match revocation.lists.is_empty() {
                true => "cannot be asked",
                false => "are not renewed",
            };
            verdict.alarms.push(format!(
                "the revocation lists of {domain} ({policy}) {what}: {error}"
            ));
        }
        for list in &revocation.lists {
            if list.next_update <= now {
                verdict.alarms.push(format!(
                    "the revocation list of {} ({policy}) is stale since {}",
                    list.issuer,
                    shown(list.next_update)
                ));
            }
        }
    }
    if let Some(cluster) = &status.cluster {
        let why = cluster.error.as_deref().unwrap_or("its answer is awaited");
        if !cluster.known {
            let problem = format!("the API server has not told what the cluster is: {why}");
            verdict.problems.push(problem);
        } else if cluster.error.is_some() {
            verdict.alarms.push(format!(
                "the API server does not tell of changes, what is known goes on: {why}"
            ));
        }
    }
    if let Some(error) = &status.config.reload_error {
        let first = error.lines().next().unwrap_or_default();
        let alarm = format!("the last reload was refused: {first}");
        verdict.alarms.push(alarm);
    }
    verdict
}

fn detached(asked_by: &str) -> String {
    format!(
        "detached, for the DaemonSet is being uninstalled ({UNINSTALL}: {asked_by}): if it is to stay, `helm rollback` or take the annotation away"
    )
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::super::view::ClusterStatus;
    use mtls_common::counters::Hook;

    use super::*;
    use crate::reason::Reason;

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    fn attached(attached: bool) -> [HookState; 1] {
        [HookState {
            hook: Hook::Connect4,
            attached,
        }]
    }

    #[test]
    fn a_stuck_thread_is_named() {
        let ages = [
            ("control".to_owned(), Duration::from_secs(1)),
            ("worker-1".to_owned(), Duration::from_secs(12)),
        ];
        let verdict = healthy(&ages, Some((100, 1024)));
        assert_eq!(
            verdict.problems,
            ["thread worker-1 has not answered for 12 s"]
        );
    }

    #[test]
    fn without_descriptors_the_daemon_is_not_well() {
        assert!(healthy(&[], Some((1000, 1024))).good());
        assert!(!healthy(&[], Some((1010, 1024))).good());
        assert!(!healthy(&[], None).good());
    }

    #[test]
    fn a_failed_workload_alarms_and_leaves_the_node_ready() {
        let mut status = samples::status();
        status.workloads[0].state = WorkloadState::Failed {
            reason: Reason::NoCert,
            detail: "no key".to_owned(),
        };
        let verdict = ready(&status, &attached(true), NOW);
        assert!(verdict.good(), "{verdict:?}");
        assert_eq!(
            verdict.alarms,
            ["workload web (spiffe://example.org/web) has failed: no_cert: no key"]
        );
    }

    #[test]
    fn a_waiting_workload_and_a_missing_hook_make_it_unready() {
        let mut status = samples::status();
        status.workloads[0].state = WorkloadState::Waiting {
            detail: "certificate".to_owned(),
        };
        let verdict = ready(&status, &attached(false), NOW);
        assert_eq!(
            verdict.problems,
            [
                "hooks are not attached: connect4",
                "workload web (spiffe://example.org/web) is waiting: certificate"
            ]
        );
        assert!(!ready(&samples::status(), &[], NOW).good());
    }

    #[test]
    fn a_draining_node_is_not_ready() {
        let mut status = samples::status();
        status.phase = Phase::Draining {
            deadline: std::time::UNIX_EPOCH,
        };
        assert_eq!(ready(&status, &attached(true), NOW).problems, ["draining"]);
    }

    #[test]
    fn a_node_that_was_detached_says_only_that() {
        let mut status = samples::status();
        status.workloads[0].state = WorkloadState::Waiting {
            detail: "certificate".to_owned(),
        };
        status.phase = Phase::Detached {
            asked_by: "now".to_owned(),
            still_attached: None,
        };
        let verdict = ready(&status, &attached(false), NOW);
        let [problem] = verdict.problems.as_slice() else {
            panic!("{verdict:?}")
        };
        assert!(problem.contains("(mtls-daemon.io/uninstall: now)"));
        status.phase = Phase::Detached {
            asked_by: "now".to_owned(),
            still_attached: Some("a link stays".to_owned()),
        };
        let verdict = ready(&status, &attached(true), NOW);
        assert_eq!(verdict.problems[1..], ["a link stays"]);
    }

    #[test]
    fn a_cluster_must_be_known_once() {
        let mut status = samples::status();
        let cluster = |known, error: Option<&str>| ClusterStatus {
            known,
            pods: 0,
            policies: Vec::new(),
            error: error.map(str::to_owned),
        };
        status.cluster = Some(cluster(false, Some("connection refused")));
        let verdict = ready(&status, &attached(true), NOW);
        assert!(
            verdict.problems[0].ends_with("connection refused"),
            "{verdict:?}"
        );
        status.cluster = Some(cluster(true, Some("connection refused")));
        let verdict = ready(&status, &attached(true), NOW);
        assert!(verdict.good() && verdict.alarms.len() == 1, "{verdict:?}");
        status.cluster = Some(cluster(true, None));
        assert_eq!(ready(&status, &attached(true), NOW), Verdict::default());
    }

    #[test]
    fn a_list_that_cannot_be_asked_alarms() {
        let mut status = samples::status();
        status.revocation = vec![samples::revocation()];
        let late = status.revocation[0].lists[0].next_update;
        assert!(ready(&status, &attached(true), NOW).alarms.is_empty());
        let verdict = ready(&status, &attached(true), late);
        assert!(verdict.good(), "{verdict:?}");
        assert!(
            verdict.alarms[0].contains("CN=root (hard) is stale since"),
            "{verdict:?}"
        );
        status.revocation[0].error = Some("https://ca/crl: connecting: refused".to_owned());
        assert_eq!(
            ready(&status, &attached(true), NOW).alarms,
            [
                "the revocation lists of example.org (hard) are not renewed: https://ca/crl: connecting: refused"
            ]
        );
        status.revocation[0].lists.clear();
        status.revocation[0].error = Some("/crl.pem: it is damaged".to_owned());
        status.trust_bundles[0].error = Some("/b.pem: it is damaged".to_owned());
        let alarms = ready(&status, &attached(true), NOW).alarms;
        assert_eq!(
            alarms,
            [
                "the trust bundle of example.org is not read: /b.pem: it is damaged",
                "the revocation lists of example.org (hard) cannot be asked: /crl.pem: it is damaged"
            ]
        );
    }
}
