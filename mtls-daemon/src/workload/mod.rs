//! Workloads of this node: whose connections the daemon carries.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use tokio::sync::watch;

use crate::identity::WorkloadIdentity;
use crate::netns::Netns;
use crate::spiffe::SpiffeId;

/// One enrolled workload, shared by the control thread and its workers.
///
/// A workload whose network namespace is made anew is another instance: no
/// state of the former one, and no tunnel of it, is used again.
pub struct Workload {
    pub name: Arc<str>,
    pub id: SpiffeId,
    pub addresses: Vec<IpAddr>,
    pub netns: Netns,
    /// Newest SVID and bundles.
    pub identity: watch::Receiver<WorkloadIdentity>,
    /// Its open connections, both directions; only counted here.
    pub connections: AtomicUsize,
}

/// A workload, as policies select it.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    pub name: &'a str,
    pub id: &'a SpiffeId,
}

impl Workload {
    /// As policies select it.
    pub fn target(&self) -> Target<'_> {
        Target {
            name: &self.name,
            id: &self.id,
        }
    }

    /// The address from which connections to `peer` leave: the first of the
    /// same family.
    pub fn source_for(&self, peer: IpAddr) -> Option<IpAddr> {
        self.addresses
            .iter()
            .copied()
            .find(|own| own.is_ipv4() == peer.is_ipv4())
    }
}
