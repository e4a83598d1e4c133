//! Connections that a workload opened or took before it was enrolled, or it or
//! one of its ports strict: they go on in clear, and no hook sees them again.
//! Those that it could not make now end.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::admin::view::Phase;
use crate::config::{self, Outside, Place};
use crate::kernel::Enrolment;
use crate::kubernetes::Notice;
use crate::metrics::Outcome;
use crate::netns::Netns;
use crate::sock_diag::{self, Cut, Sockets, TcpSocket};

use super::Node;

/// A workload that takes less in clear than a moment ago.
pub struct Newcomer {
    name: String,
    place: Place,
    netns: Netns,
    exceptions: Exceptions,
}

/// With whom it may talk in clear.
#[derive(Clone, Debug, Default)]
struct Exceptions {
    /// Its own addresses, for who calls himself.
    own: Vec<IpAddr>,
    networks: Vec<IpNet>,
    outbound_ports: Vec<u16>,
    inbound_ports: Vec<u16>,
    /// With everybody, but at its strict ports.
    permissive: bool,
    strict_ports: Vec<u16>,
}

impl Newcomer {
    pub(super) fn new(wanted: &config::Workload, netns: &Netns, hooked: &Enrolment<'_>) -> Self {
        Self {
            name: wanted.name.clone(),
            place: wanted.place.clone(),
            netns: netns.clone(),
            exceptions: Exceptions {
                own: hooked.addresses.clone(),
                networks: hooked.excluded.clone(),
                outbound_ports: hooked.excluded_outbound_ports.clone(),
                inbound_ports: [
                    hooked.excluded_inbound_ports.as_slice(),
                    &hooked.permissive_ports,
                ]
                .concat(),
                permissive: hooked.permissive,
                strict_ports: hooked.strict_ports.clone(),
            },
        }
    }
}

impl Node {
    /// Before the hooks are attached others would take their places.
    pub fn cut_earlier_connections(&self) {
        if matches!(
            *self.phase.borrow(),
            Phase::Starting | Phase::Detached { .. }
        ) {
            return;
        }
        for newcomer in self.newcomers.take() {
            self.cut_earlier(&newcomer);
        }
    }

    fn cut_earlier(&self, newcomer: &Newcomer) {
        let (config, kernel) = (self.config.borrow(), self.kernel.borrow());
        let allowed = Allowed {
            exceptions: &newcomer.exceptions,
            excluded: &config.network.excluded,
            mesh: kernel.mesh(),
            outside: config.node.outside,
        };
        // Who cannot tell cuts.
        let is_ours = |it: &TcpSocket| {
            it.cgroup
                .is_some_and(|id| matches!(kernel.is_exempt(id), Ok(true)))
        };
        let cut = sock_diag::cut(&newcomer.netns, |it, all| {
            !allowed.covers(it, all) && !is_ours(it)
        });
        let workload = &newcomer.name;
        let cut = match cut {
            Ok(cut) => cut,
            // No Event: of most workloads there is nothing to tell.
            Err(error) => {
                tracing::error!(
                    workload,
                    %error,
                    "connections from before the enrolment, if there are any, go on in clear: the kernel does not list them (CONFIG_INET_TCP_DIAG, module tcp_diag): restart the workload if it was running"
                );
                return self.counts.earlier_connections(Outcome::Error, 1);
            }
        };
        let Cut { ended, left } = cut;
        if left > 0 {
            tracing::error!(
                workload,
                connections = left,
                "connections from before the enrolment go on in clear: the kernel ended {ended} only (CONFIG_INET_DIAG_DESTROY): restart the workload"
            );
        }
        if ended > 0 {
            let connections = ended;
            tracing::info!(
                workload,
                connections,
                "cut connections from before the enrolment"
            );
        }
        self.counts.earlier_connections(Outcome::Ok, ended);
        self.counts.earlier_connections(Outcome::Error, left);
        if let Place::Pod(uid) = &newcomer.place
            && cut != Cut::default()
        {
            let uid = uid.clone();
            // With too many, the log has it.
            let _ = self.notices.try_send(Notice::Cut { uid, cut });
        }
    }
}

/// What an enrolled workload may do in clear.
struct Allowed<'a> {
    exceptions: &'a Exceptions,
    /// By the node's own word.
    excluded: &'a [IpNet],
    mesh: Vec<IpNet>,
    outside: Outside,
}

impl Allowed<'_> {
    /// Who has accepted a connection is known by its listener. Without one it
    /// counts as opened here, as of a server that does not listen any more.
    fn covers(&self, it: &TcpSocket, all: &Sockets) -> bool {
        let (peer, exceptions) = (it.peer.ip(), self.exceptions);
        let excluded = || within(self.excluded, peer) || within(&exceptions.networks, peer);
        if peer.is_loopback() || exceptions.own.contains(&peer) || excluded() {
            return true;
        }
        let (own, permissive) = (it.own.port(), exceptions.permissive);
        if accepts(&all.listeners, it.own) {
            let is_open = permissive && !exceptions.strict_ports.contains(&own);
            return is_open || exceptions.inbound_ports.contains(&own);
        }
        if permissive {
            return true;
        }
        let is_outside = !within(&self.mesh, peer);
        (is_outside && self.outside == Outside::Direct)
            || exceptions.outbound_ports.contains(&it.peer.port())
    }
}

fn accepts(listeners: &[SocketAddr], own: SocketAddr) -> bool {
    let mut listeners = listeners.iter();
    listeners.any(|at| at.port() == own.port() && (at.ip().is_unspecified() || at.ip() == own.ip()))
}

fn within(networks: &[IpNet], ip: IpAddr) -> bool {
    networks.iter().any(|network| network.contains(&ip))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exceptions() -> Exceptions {
        Exceptions {
            own: vec!["10.0.1.4".parse().unwrap()],
            networks: vec!["10.9.0.0/16".parse().unwrap()],
            outbound_ports: vec![53],
            inbound_ports: vec![9090],
            ..Exceptions::default()
        }
    }

    fn goes_on(exceptions: &Exceptions, outside: Outside, own: &str, peer: &str) -> bool {
        let allowed = Allowed {
            exceptions,
            excluded: &["10.8.0.0/16".parse().unwrap()],
            mesh: vec!["10.0.0.0/8".parse().unwrap()],
            outside,
        };
        let listeners = ["0.0.0.0:80", "10.0.1.4:9090"].map(|at| at.parse().unwrap());
        let all = Sockets {
            listeners: listeners.into(),
            ..Sockets::default()
        };
        allowed.covers(&TcpSocket::for_tests(own, peer), &all)
    }

    #[test]
    fn what_could_not_be_made_now_ends_and_the_rest_goes_on() {
        for (goes, own, peer, what) in [
            (false, "10.0.1.4:4000", "10.0.2.7:5432", "to the mesh"),
            (false, "10.0.1.4:80", "10.0.2.7:4000", "from the mesh"),
            (false, "10.0.1.4:80", "192.0.2.1:4000", "from outside"),
            (true, "10.0.1.4:4000", "192.0.2.1:443", "to outside"),
            (true, "10.0.1.4:4000", "10.9.2.7:5432", "excluded"),
            (
                true,
                "10.0.1.4:4000",
                "10.8.2.7:5432",
                "excluded by the node",
            ),
            (true, "10.0.1.4:4000", "10.0.2.7:53", "an excluded port"),
            (false, "10.0.1.4:53", "10.0.2.7:4000", "its own port"),
            (
                true,
                "10.0.1.4:9090",
                "10.0.2.7:4000",
                "an excluded own port",
            ),
            (false, "10.0.1.4:4000", "10.0.2.7:9090", "the peer's port"),
            (true, "127.0.0.1:4000", "127.0.0.1:80", "loopback"),
            (true, "10.0.1.4:80", "10.0.1.4:4000", "to itself"),
        ] {
            let goes_on = goes_on(&exceptions(), Outside::Direct, own, peer);
            assert_eq!(goes_on, goes, "{what}");
        }
        let refuse = Outside::Refuse;
        let outside = goes_on(&exceptions(), refuse, "10.0.1.4:4000", "192.0.2.1:443");
        assert!(!outside, "where nothing goes outside");
    }

    #[test]
    fn a_permissive_workload_loses_what_its_strict_ports_took() {
        let exceptions = Exceptions {
            permissive: true,
            strict_ports: vec![80],
            ..exceptions()
        };
        for (goes, own, peer) in [
            (false, "10.0.1.4:80", "10.0.2.7:4000"),
            (true, "10.0.1.4:9090", "10.0.2.7:4000"),
            (true, "10.0.1.4:4000", "10.0.2.7:5432"),
            (true, "10.0.1.4:4000", "10.0.2.7:80"),
        ] {
            let goes_on = goes_on(&exceptions, Outside::Refuse, own, peer);
            assert_eq!(goes_on, goes, "{own} {peer}");
        }
    }
}
