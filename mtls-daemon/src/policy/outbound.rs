//! Where a captured connection goes.

use std::net::IpAddr;

use crate::addr::OriginalDst;
use crate::config::Outside;
use crate::directory::{self, Destination, Directory, Target};
use crate::reason::Reason;

/// Those that may answer a captured connection; never empty.
#[derive(Debug, PartialEq, Eq)]
pub struct Route {
    pub targets: Vec<Target>,
    /// The caller may choose among them; else the first is to be tried first.
    pub any: bool,
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
    /// Who keeps to one endpoint where a service wants that.
    pub client: Option<IpAddr>,
}

/// Decide for a connection to `dst`. What the daemon holds was captured, so it
/// is carried in a tunnel or it is refused, but for who is known to be no
/// workload, or to have no daemon, if `clear` lets that pass.
///
/// Of a service with endpoints of both kinds a connection gets those of one:
/// by its turn, or that of the one that the client keeps to, and never because
/// the others did not answer. Whoever keeps
/// tunnels from being made only keeps connections from being made.
pub fn route(directory: &Directory, clear: Clear, dst: OriginalDst) -> Result<Route, Reason> {
    let mut any = true;
    let mut targets = match directory.find(dst) {
        Destination::Workload(endpoint) => vec![Target::Workload(endpoint)],
        Destination::NotEnrolled(address) => vec![Target::NotEnrolled(address)],
        Destination::Service(targets) => targets,
        Destination::Sticky(mut targets) => {
            any = false;
            targets.sort_by_cached_key(|it| directory::preference(clear.client, it.address()));
            targets
        }
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
    let turn = if any { clear.turn } else { 0 };
    let drawn = targets.get(turn % targets.len().max(1));
    if let Some(in_clear) = drawn.map(is_not_enrolled) {
        targets.retain(|target| is_not_enrolled(target) == in_clear);
    }
    match targets.is_empty() {
        true => Err(refused),
        false => Ok(Route { targets, any }),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};
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
            client: None,
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

    /// In the order of the client's own preference, whatever turn it is.
    #[test]
    fn a_sticky_service_leads_a_client_to_its_endpoint() {
        let config = crate::config::parse("x", NODE).unwrap();
        let endpoints = ["10.0.2.7:80", "10.0.2.8:80"].map(|at| at.parse().unwrap());
        let behind = directory::Behind {
            workloads: endpoints.to_vec(),
            addresses: Vec::new(),
        };
        let service = directory::Service {
            ports: HashMap::from([(80, behind)]),
            sticky: true,
        };
        let at: IpAddr = "10.96.0.2".parse().unwrap();
        let cluster = directory::Cluster {
            services: HashMap::from([(at, Arc::new(service))]),
            ..directory::Cluster::default()
        };
        let directory = Directory::new(&config, Arc::new(cluster));
        let mut firsts = HashSet::new();
        for n in 0..16 {
            let client = Some(IpAddr::from([10, 0, 1, n]));
            let first = endpoints
                .iter()
                .min_by_key(|at| directory::preference(client, **at));
            for turn in 0..3 {
                let clear = Clear {
                    outside: Outside::Direct,
                    permissive: true,
                    turn,
                    client,
                };
                let route = route(&directory, clear, OriginalDst((at, 80).into())).unwrap();
                assert!(!route.any);
                // The other one has no daemon: the two are not mixed.
                let addresses: Vec<_> = route.targets.iter().map(Target::address).collect();
                assert_eq!(addresses.iter().collect::<Vec<_>>(), [first.unwrap()]);
            }
            firsts.insert(first);
        }
        assert_eq!(firsts.len(), endpoints.len());
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
