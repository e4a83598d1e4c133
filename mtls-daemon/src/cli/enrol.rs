//! `enrol`: what systemd units, tests and network plug-ins block on.

use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::admin::client::{self, Answer, ClientError};
use crate::admin::reply::{EnrolQuestion, EnrolReply};
use crate::admin::view::{EnrolRequest, WorkloadState};
use crate::config;

use super::arguments::{Enrol, Place};
use super::{Exit, ask, complain, fail, socket};

/// How often a daemon that is not there yet is looked for.
const AGAIN: Duration = Duration::from_millis(200);

pub(super) fn command(asked: Enrol) -> Exit {
    let socket = socket(&asked.ask.socket);
    let place = match place(asked.place) {
        Ok(place) => place,
        Err(error) => return fail(&format!("the place of the workload: {error}")),
    };
    let request = EnrolRequest {
        place,
        name: asked.name,
        spiffe_id: asked.spiffe_id,
        addresses: asked.addresses,
    };
    let wait = asked.wait.then_some(asked.timeout);
    let question = enrol(&socket, request, wait);
    ask(asked.ask.output, question, show, |reply| {
        judge(reply, asked.wait, asked.timeout)
    })
}

/// The daemon knows nothing of our current folder.
fn place(place: Place) -> io::Result<config::Place> {
    Ok(match (place.netns, place.cgroup, place.unit) {
        (Some(netns), _, _) => config::Place::Netns(std::path::absolute(netns)?),
        (_, Some(cgroup), _) => config::Place::Cgroup(std::path::absolute(cgroup)?),
        (_, _, unit) => config::Place::Unit(unit.unwrap_or_default()),
    })
}

async fn enrol(
    socket: &Path,
    request: EnrolRequest,
    wait: Option<Duration>,
) -> Result<Answer<EnrolReply>, ClientError> {
    let deadline = Instant::now() + wait.unwrap_or_default();
    let mut said = false;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let question = EnrolQuestion {
            request: request.clone(),
            wait: left,
        };
        match client::enrol(socket, &question).await {
            // At boot the workload may be there before the daemon.
            Err(error @ ClientError::Unreachable(..)) if left > AGAIN => {
                if !said {
                    complain(&format!("{error}; waiting for it"));
                    said = true;
                }
                sleep(AGAIN).await;
            }
            outcome => return outcome,
        }
    }
}

fn show(reply: &EnrolReply) -> String {
    let name = &reply.workload;
    match &reply.state {
        WorkloadState::Ready => format!("workload {name} is ready\n"),
        WorkloadState::Waiting { detail } => format!("workload {name} is waiting: {detail}\n"),
        WorkloadState::Absent { detail } => format!("workload {name} is absent: {detail}\n"),
        WorkloadState::Failed { reason, detail }
        | WorkloadState::NotEnrolled { reason, detail } => format!(
            "workload {name} has failed: {reason}: {detail}\n{}\n",
            reason.remedy()
        ),
    }
}

fn judge(reply: &EnrolReply, wait: bool, limit: Duration) -> Exit {
    match reply.state {
        WorkloadState::Ready => Exit::Done,
        WorkloadState::Failed { .. } | WorkloadState::NotEnrolled { .. } => Exit::Failed,
        WorkloadState::Absent { .. } | WorkloadState::Waiting { .. } if wait => {
            complain(&format!("it was not ready within {limit:?}"));
            Exit::TimedOut
        }
        WorkloadState::Absent { .. } | WorkloadState::Waiting { .. } => Exit::Done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::reply::SCHEMA;
    use crate::reason::Reason;

    fn reply(state: WorkloadState) -> EnrolReply {
        EnrolReply {
            schema: SCHEMA,
            workload: "web".to_owned(),
            state,
        }
    }

    #[test]
    fn the_exit_status_tells_ready_failed_and_too_slow_apart() {
        let waiting = || WorkloadState::Waiting {
            detail: "certificate".to_owned(),
        };
        let limit = Duration::from_secs(1);
        assert_eq!(judge(&reply(WorkloadState::Ready), true, limit), Exit::Done);
        assert_eq!(judge(&reply(waiting()), true, limit), Exit::TimedOut);
        assert_eq!(judge(&reply(waiting()), false, limit), Exit::Done);
        let failed = reply(WorkloadState::Failed {
            reason: Reason::NoCert,
            detail: "no key".to_owned(),
        });
        assert_eq!(judge(&failed, true, limit), Exit::Failed);
        let remedy = Reason::NoCert.remedy();
        let expected = format!("workload web has failed: no_cert: no key\n{remedy}\n");
        assert_eq!(show(&failed), expected);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_daemon_it_waits_no_longer_than_told() {
        let request = EnrolRequest {
            place: config::Place::Netns("/run/netns/web".into()),
            name: None,
            spiffe_id: None,
            addresses: Vec::new(),
        };
        let started = Instant::now();
        let wait = Some(Duration::from_secs(5));
        let outcome = enrol(Path::new("/nonexistent/admin.sock"), request, wait).await;
        assert!(matches!(outcome, Err(ClientError::Unreachable(..))));
        let waited = started.elapsed();
        assert!(waited >= Duration::from_secs(4) && waited <= Duration::from_secs(5));
    }
}
