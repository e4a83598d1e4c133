//! Whoever probes a strict pod from the node and is not known as its prober.

use std::net::{IpAddr, SocketAddr};

use crate::config::Place;
use crate::kernel;
use crate::kubernetes::Notice;

use super::Node;

impl Node {
    /// Plain text was refused: tell the pod, if that was a probe of it.
    pub(super) fn heed_refused(&self, workload: &str, source: SocketAddr, port: u16) {
        let workloads = self.workloads.borrow();
        let Some(wanted) = workloads.get(workload).map(|enrolled| &enrolled.wanted) else {
            return;
        };
        // No Event where the addresses cannot be listed: the log has it.
        let own = || kernel::addresses(&self.host).unwrap_or_default();
        if let Some(uid) = probed(&wanted.place, &wanted.probe_ports, source.ip(), port, own) {
            let config = self.config.borrow();
            let prober = config.kubernetes.as_ref();
            let prober = prober.and_then(|it| it.kubelet_cgroup.clone());
            // With too many, the log has it.
            let _ = (self.notices).try_send(Notice::ProbeRefused { uid, port, prober });
        }
    }
}

/// The UID of the pod whose declared probe port one of the node's own addresses
/// asked at. The listing is not free, and comes last.
fn probed(
    place: &Place,
    probe_ports: &[u16],
    source: IpAddr,
    port: u16,
    own: impl FnOnce() -> Vec<IpAddr>,
) -> Option<String> {
    let Place::Pod(uid) = place else {
        return None;
    };
    let is_probe = probe_ports.contains(&port) && own().contains(&source.to_canonical());
    is_probe.then(|| uid.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn told(place: &Place, source: &str, port: u16) -> Option<String> {
        let own = || vec![ip("10.1.0.1"), ip("fd00::1")];
        probed(place, &[8081], ip(source), port, own)
    }

    #[test]
    fn only_the_node_at_a_probe_port_of_a_pod_is_told_of() {
        let pod = Place::Pod("uid".to_owned());
        for node in ["10.1.0.1", "fd00::1", "::ffff:10.1.0.1"] {
            assert_eq!(told(&pod, node, 8081).as_deref(), Some("uid"), "{node}");
            assert_eq!(told(&pod, node, 8080), None, "no probe port");
        }
        assert_eq!(told(&pod, "10.1.0.2", 8081), None, "somebody else");
        let other = Place::Netns("/run/netns/db".into());
        assert_eq!(told(&other, "10.1.0.1", 8081), None, "no pod");
    }
}
