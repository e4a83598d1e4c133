//! What an agent's refusals mean, and what its operator can do about them.

use std::io::ErrorKind;
use std::path::Path;

use super::grpc::CallError;
use super::messages::OfferFault;
use crate::config::{SelectedBy, Selector};
use crate::spiffe::SpiffeId;

/// gRPC's status codes, as far as agents use them.
const PERMISSION_DENIED: u32 = 7;
const UNIMPLEMENTED: u32 = 12;
const UNAVAILABLE: u32 = 14;

/// Why nothing comes from the agent, and the remedy. `trust_domain` is what
/// its identities are likely to be in.
pub(super) fn call(error: &CallError, socket: &Path, trust_domain: &str) -> String {
    let socket = socket.display();
    match error {
        CallError::Connect(error) if error.kind() == ErrorKind::NotFound => format!(
            "the SPIRE agent's admin socket {socket} is not there: start the agent, with admin_socket_path = \"{socket}\" in its configuration"
        ),
        CallError::Connect(error) if error.kind() == ErrorKind::ConnectionRefused => {
            format!("no SPIRE agent listens at {socket}: start the agent")
        }
        CallError::Connect(error) => format!("connecting to the SPIRE agent at {socket}: {error}"),
        CallError::Refused {
            code: PERMISSION_DENIED,
            message,
        } if message.contains("no identity") => format!(
            "the SPIRE agent at {socket} knows no entry for this daemon itself (it said: {message}). \
             Give it one: spire-server entry create -parentID AGENT_ID -spiffeID spiffe://{trust_domain}/mtls-daemon -selector unix:uid:{uid}, \
             and name it in the agent's configuration: authorized_delegates = [\"spiffe://{trust_domain}/mtls-daemon\"]. \
             The agent's unix attestor must be on; a new entry takes some seconds",
            uid = nix::unistd::geteuid(),
        ),
        CallError::Refused {
            code: PERMISSION_DENIED,
            message,
        } => format!(
            "the SPIRE agent at {socket} does not let this daemon ask for others' identities (it said: {message}). \
             Name the SPIFFE ID of the daemon's own entry (spire-server entry show -selector unix:uid:{uid}) in the agent's configuration, \
             authorized_delegates = [\"spiffe://{trust_domain}/mtls-daemon\"], and start the agent again",
            uid = nix::unistd::geteuid(),
        ),
        CallError::Refused {
            code: UNIMPLEMENTED,
            message,
        } => format!(
            "what listens at {socket} has no Delegated Identity API (it said: {message}): \
             name the agent's admin_socket_path, not the socket of the Workload API"
        ),
        CallError::Refused {
            code: UNAVAILABLE,
            message,
        } => {
            format!("the SPIRE agent at {socket} is not ready (it said: {message})")
        }
        other => format!("the SPIRE agent at {socket}: {other}"),
    }
}

/// Why the agent's offer holds nothing for the workload, and the remedy.
pub(super) fn offer(fault: &OfferFault, workload: &SpiffeId, asked: &Asked) -> String {
    match fault {
        OfferFault::Nothing => format!(
            "the SPIRE agent has no entry for {asked}: spire-server entry create -parentID AGENT_ID -spiffeID {workload} {}; \
             a new entry takes some seconds",
            asked.options()
        ),
        OfferFault::Others(_) => format!(
            "for {asked} the SPIRE agent has no entry with the identity {workload}: {fault}; \
             correct the workload's spiffe_id, or the entry"
        ),
        OfferFault::Key => format!("the SPIRE agent: {fault}"),
    }
}

/// By what the agent was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Selectors(Vec<Selector>),
    Pid(u32),
}

impl Asked {
    /// `None`: by a process, which has to be found.
    pub(super) fn of(selected: &SelectedBy, name: &str) -> Option<Self> {
        match selected {
            SelectedBy::Name => Some(Self::Selectors(vec![Selector {
                kind: "mtls-daemon".to_owned(),
                value: format!("workload:{name}"),
            }])),
            SelectedBy::Selectors(selectors) => Some(Self::Selectors(selectors.clone())),
            SelectedBy::Pid => None,
        }
    }

    /// As the server's command takes them.
    fn options(&self) -> String {
        match self {
            Self::Selectors(selectors) => selectors
                .iter()
                .map(|selector| format!("-selector {selector}"))
                .collect::<Vec<_>>()
                .join(" "),
            Self::Pid(_) => "-selector SELECTOR".to_owned(),
        }
    }
}

impl std::fmt::Display for Asked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Selectors(selectors) => {
                f.write_str("the selectors")?;
                selectors.iter().try_for_each(|one| write!(f, " {one}"))
            }
            Self::Pid(pid) => write!(f, "the process {pid} as it attests it"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: u32, message: &str) -> String {
        let message = message.to_owned();
        let error = CallError::Refused { code, message };
        call(&error, Path::new("/run/a.sock"), "example.org")
    }

    #[test]
    fn a_daemon_without_an_entry_or_the_right_is_told_what_it_lacks() {
        let entry = refused(7, "no identity issued");
        assert!(entry.contains("spire-server entry create -parentID AGENT_ID -spiffeID spiffe://example.org/mtls-daemon -selector unix:uid:"), "{entry}");
        assert!(entry.contains("authorized_delegates = ["), "{entry}");
        let right = refused(7, "caller not configured as an authorized delegate");
        assert!(right.contains("start the agent again"), "{right}");
        assert!(right.contains("authorized_delegates = ["), "{right}");
    }

    #[test]
    fn a_wrong_or_missing_socket_is_told() {
        let other = refused(12, "unknown service");
        assert!(
            other.contains("not the socket of the Workload API"),
            "{other}"
        );
        let missing = CallError::Connect(ErrorKind::NotFound.into());
        let missing = call(&missing, Path::new("/run/a.sock"), "example.org");
        assert!(
            missing.contains("admin_socket_path = \"/run/a.sock\""),
            "{missing}"
        );
    }

    #[test]
    fn a_missing_entry_is_told_with_its_command() {
        let id: SpiffeId = "spiffe://example.org/web".parse().unwrap();
        let asked = Asked::of(&SelectedBy::Name, "web").unwrap();
        let told = offer(&OfferFault::Nothing, &id, &asked);
        assert!(
            told.contains("-spiffeID spiffe://example.org/web -selector mtls-daemon:workload:web;"),
            "{told}"
        );
    }
}
