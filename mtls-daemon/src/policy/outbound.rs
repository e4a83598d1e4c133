//! Where a captured connection goes.

use crate::addr::OriginalDst;
use crate::config::Outside;
use crate::directory::{Destination, Directory, Target};
use crate::reason::Reason;

/// Those that may answer a captured connection; never empty.
#[derive(Debug, PartialEq, Eq)]
pub struct Route {
    /// In the directory's order; the caller chooses among them.
    pub targets: Vec<Target>,
}

/// What a connection may do without a tunnel.
#[derive(Clone, Copy, Debug)]
pub struct Clear {
    /// Towards who is no workload: API servers, nodes, and whatever else
    /// somebody has put behind a Service.
    pub outside: Outside,
    /// Towards workloads that are known to have no daemon.
    pub permissive: bool,
    /// Any number. Among the endpoints of a service it says whether the
    /// connection is one of those that have a tunnel, see [`route`].
    pub turn: usize,
}

/// Decide for a connection to `dst`. What the daemon holds was captured, so it
/// is carried in a tunnel or it is refused, but for who is known to be no
/// workload, or to have no daemon, if `clear` lets that pass.
///
/// Of a service with endpoints of both kinds a connection gets those of one:
/// by its turn, and never because the others did not answer. Whoever keeps
/// tunnels from being made only keeps connections from being made.
pub fn route(directory: &Directory, clear: Clear, dst: OriginalDst) -> Result<Route, Reason> {
    let mut targets = match directory.find(dst) {
        Destination::Workload(endpoint) => vec![Target::Workload(endpoint)],
        Destination::NotEnrolled(address) => vec![Target::NotEnrolled(address)],
        Destination::Service(targets) => targets,
        Destination::Node => vec![Target::Outside(dst.0)],
        Destination::Unknown => return Err(Reason::UnknownDestination),
        // The kernel lets these pass or refuses them by itself. One that
        // arrives here was captured under an older set of networks.
        Destination::Outside => return Err(Reason::OutsideRefused),
    };
    let is_not_enrolled = |target: &Target| matches!(target, Target::NotEnrolled(_));
    let refused = match targets.iter().any(is_not_enrolled) {
        true => Reason::NotEnrolled,
        false => Reason::OutsideRefused,
    };
    targets.retain(|target| match target {
        Target::Workload(_) => true,
        Target::NotEnrolled(_) => clear.permissive,
        Target::Outside(_) => clear.outside == Outside::Direct,
    });
    let drawn = targets.get(clear.turn % targets.len().max(1));
    if let Some(in_clear) = drawn.map(is_not_enrolled) {
        targets.retain(|target| is_not_enrolled(target) == in_clear);
    }
    match targets.is_empty() {
        true => Err(refused),
        false => Ok(Route { targets }),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const NODE: &str = r#"
version = 1
[node]
name = "a"
[network]
mesh = ["10.0.0.0/16"]
[identity]
trust_domain = "example.org"
[identity.disk-ca]
certificate = "/ca.pem"
key = "/key.pem"
[[peer]]
name = "new"
spiffe_id = "spiffe://example.org/new"
addresses = ["10.0.2.7"]
[[peer]]
name = "old"
spiffe_id = "spiffe://example.org/old"
addresses = ["10.0.2.8"]
enrolled = false
[[service]]
name = "both"
addresses = ["10.96.0.1"]
ports = [80]
endpoints = ["10.0.2.7", "10.0.2.8"]
"#;

    /// The addresses that a connection may be carried to, and whether in clear.
    fn ask(permissive: bool, turn: usize, dst: &str) -> Result<Vec<(String, bool)>, Reason> {
        let config = crate::config::parse("x", NODE).unwrap();
        let directory = Directory::new(&config, Arc::default());
        let clear = Clear {
            outside: Outside::Direct,
            permissive,
            turn,
        };
        let route = route(&directory, clear, OriginalDst(dst.parse().unwrap()))?;
        let shown = route.targets.iter().map(|target| {
            let in_clear = !matches!(target, Target::Workload(_));
            (target.address().ip().to_string(), in_clear)
        });
        Ok(shown.collect())
    }

    #[test]
    fn only_who_is_known_to_have_no_daemon_is_reached_in_clear() {
        let new = Ok(vec![("10.0.2.7".to_owned(), false)]);
        let old = Ok(vec![("10.0.2.8".to_owned(), true)]);
        for permissive in [true, false] {
            assert_eq!(ask(permissive, 0, "10.0.2.7:80"), new);
            let unknown = ask(permissive, 0, "10.0.2.9:80");
            assert_eq!(unknown, Err(Reason::UnknownDestination));
        }
        assert_eq!(ask(true, 0, "10.0.2.8:80"), old);
        assert_eq!(ask(false, 0, "10.0.2.8:80"), Err(Reason::NotEnrolled));
    }

    /// No retry leads from an endpoint with a daemon to one without.
    #[test]
    fn a_services_endpoints_of_both_kinds_are_not_mixed() {
        for turn in 0..4 {
            let kinds = |permissive| {
                let targets = ask(permissive, turn, "10.96.0.1:80").unwrap();
                targets
                    .into_iter()
                    .map(|(_, clear)| clear)
                    .collect::<Vec<_>>()
            };
            assert_eq!(kinds(false), [false]);
            assert_eq!(kinds(true), [turn % 2 == 1]);
        }
    }
}
