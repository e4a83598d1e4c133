//! The directory: which address is which workload, as far as this node knows.
//!
//! An immutable snapshot; a change of the facts makes a new one.

mod cluster;

use std::collections::{BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use tokio::time::Instant;

use crate::addr::{OriginalDst, TunnelAddr};
use crate::config::{Config, Mode};
use crate::metrics::Caller;
use crate::spiffe::SpiffeId;

pub use cluster::{Cluster, Seen, Who};

/// A workload as other workloads reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The address and port that the peer's daemon shall dial.
    pub address: SocketAddr,
    /// Who must answer.
    pub id: SpiffeId,
    /// Where its daemon takes tunnels.
    pub tunnel: TunnelAddr,
}

/// One that may answer a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Workload(Endpoint),
    /// It has no identity, and is known not to be a workload.
    Outside(SocketAddr),
    /// A workload that is known to have no daemon.
    NotEnrolled(SocketAddr),
}

/// What a destination is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// One workload.
    Workload(Endpoint),
    /// One that is known to have no daemon.
    NotEnrolled(SocketAddr),
    /// All that is known behind one address; never empty.
    Service(Vec<Target>),
    /// The same, of which each client keeps to one, by [`preference`].
    Sticky(Vec<Target>),
    /// A node of the cluster, in a network of the mesh.
    Node,
    /// In no network of the mesh.
    Outside,
    /// In a network of the mesh, but nobody is known there.
    Unknown,
}

#[derive(Debug, Default)]
pub struct Directory {
    workloads: HashMap<IpAddr, Entry>,
    services: HashMap<IpAddr, Arc<Service>>,
    cluster: Arc<Cluster>,
    mesh: Vec<IpNet>,
    tunnel_port: u16,
    /// Nobody is off, whatever labels say.
    has_floor: bool,
}

#[derive(Debug)]
struct Entry {
    id: SpiffeId,
    tunnel: Option<SocketAddr>,
    enrolled: bool,
}

/// What is known behind an address.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// By the port that clients dial.
    pub ports: HashMap<u16, Behind>,
    /// Each client keeps to one endpoint.
    pub sticky: bool,
}

/// What stands behind a port of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Behind {
    /// Workloads, also while nobody has said yet which. What is not known of
    /// one refuses.
    pub workloads: Vec<SocketAddr>,
    /// Plain addresses: outside, if they are in no network of the mesh.
    pub addresses: Vec<SocketAddr>,
}

impl Directory {
    /// What the configuration spells out, and what the cluster says.
    pub fn new(config: &Config, cluster: Arc<Cluster>) -> Self {
        let mut workloads = HashMap::new();
        for workload in &config.workloads {
            for address in &workload.addresses {
                workloads.insert(
                    *address,
                    Entry {
                        id: workload.spiffe_id.clone(),
                        tunnel: None,
                        enrolled: config.mode_of(workload) != Mode::Off,
                    },
                );
            }
        }
        for peer in &config.peers {
            for address in &peer.addresses {
                let entry = Entry {
                    id: peer.spiffe_id.clone(),
                    tunnel: peer.tunnel,
                    enrolled: peer.enrolled,
                };
                workloads.insert(*address, entry);
            }
        }
        let mut services = HashMap::new();
        for service in &config.services {
            let ports = service.ports.iter().map(|port| {
                let at = |ip: &IpAddr| SocketAddr::new(*ip, port.target);
                let behind = Behind {
                    workloads: service.endpoints.iter().map(at).collect(),
                    addresses: Vec::new(),
                };
                (port.port, behind)
            });
            let shared = Arc::new(Service {
                ports: ports.collect(),
                sticky: false,
            });
            for address in &service.addresses {
                services.insert(*address, Arc::clone(&shared));
            }
        }
        let mesh = [&config.network.mesh[..], &cluster.networks[..]].concat();
        Self {
            workloads,
            services,
            cluster,
            mesh,
            tunnel_port: config.network.tunnel_port,
            has_floor: config.node.floor != Mode::Off,
        }
    }

    pub fn find(&self, dst: OriginalDst) -> Destination {
        let OriginalDst(dst) = dst;
        if let Some(service) = self.service_at(dst.ip()) {
            return self.resolve(service, dst);
        }
        match self.target(dst) {
            Some(Target::Workload(endpoint)) => Destination::Workload(endpoint),
            Some(Target::NotEnrolled(_)) => Destination::NotEnrolled(dst),
            Some(Target::Outside(_)) => Destination::Node,
            None if self.is_in_mesh(dst.ip()) => Destination::Unknown,
            None => Destination::Outside,
        }
    }

    /// Whether `id` is known at `address`: what a peer's certificate says must
    /// agree with where its tunnel comes from.
    pub fn is_at(&self, id: &SpiffeId, address: IpAddr) -> bool {
        self.identity_at(address) == Some(id)
    }

    /// Addresses that the cluster should be asked about for a client's
    /// connection to `dst`: nobody has said yet who is there, or only long ago.
    pub fn questions(&self, dst: OriginalDst, client: Option<IpAddr>, now: Instant) -> Vec<IpAddr> {
        if !self.cluster.answers {
            return Vec::new();
        }
        let OriginalDst(dst) = dst;
        let is_open = |ip: &IpAddr| self.is_open_question(*ip, now);
        let in_mesh = |ip: &IpAddr| self.is_in_mesh(*ip);
        let Some(service) = self.service_at(dst.ip()) else {
            let asked = Some(dst.ip()).filter(in_mesh).filter(is_open);
            return asked.into_iter().collect();
        };
        let asked = |(at, is_pod): (SocketAddr, bool)| {
            let ip = at.ip();
            ((is_pod || in_mesh(&ip)) && is_open(&ip)).then_some(ip)
        };
        if service.sticky {
            let all = service.preferred(dst, client).into_iter();
            return all.filter_map(asked).take(QUESTIONS).collect();
        }
        let all = service.candidates(dst).filter_map(asked);
        all.take(QUESTIONS).collect()
    }

    /// Whom a client had better wait for: behind `dst` it is to keep to one of
    /// whom nobody has said yet who it is.
    pub fn awaited(&self, dst: OriginalDst, client: Option<IpAddr>) -> Option<IpAddr> {
        let OriginalDst(dst) = dst;
        let service = self.service_at(dst.ip()).filter(|it| it.sticky)?;
        let (first, is_pod) = *service.preferred(dst, client).first()?;
        let ip = first.ip();
        let is_told = self.workloads.contains_key(&ip) || self.cluster.seen.contains_key(&ip);
        ((is_pod || self.is_in_mesh(ip)) && !is_told).then_some(ip)
    }

    /// Whether the cluster may know more about an address than we do.
    pub fn may_learn(&self, address: IpAddr) -> bool {
        self.cluster.answers && !self.workloads.contains_key(&address) && self.is_in_mesh(address)
    }

    /// Whether the cluster was asked about an address, and has answered since.
    pub fn is_answered(&self, address: IpAddr, since: Instant) -> bool {
        let seen = self.cluster.seen.get(&address);
        seen.is_some_and(|seen| seen.asked.is_none_or(|asked| asked >= since))
    }

    /// Every network and single address whose connections the kernel must hand
    /// over: the mesh networks, and what of the directory lies outside them.
    pub fn captured_networks(&self) -> Vec<IpNet> {
        let seen = self.cluster.seen.iter();
        let pods = seen.filter(|(_, seen)| seen.who.identity().is_some());
        let workloads = self
            .workloads
            .keys()
            .chain(pods.map(|(address, _)| address));
        let services = self.services.keys().chain(self.cluster.services.keys());
        let stray: BTreeSet<IpNet> = workloads
            .chain(services)
            .filter(|address| !self.is_in_mesh(**address))
            .map(|address| IpNet::from(*address))
            .collect();
        self.mesh.iter().copied().chain(stray).collect()
    }

    /// Who calls from an address, as far as that can be told.
    pub fn caller(&self, address: IpAddr) -> Caller {
        match self.target(SocketAddr::new(address, 0)) {
            Some(Target::Workload(_)) => Caller::Workload,
            Some(Target::NotEnrolled(_)) => Caller::NotEnrolled,
            Some(Target::Outside(_)) => Caller::Node,
            None if self.is_in_mesh(address) => Caller::Unknown,
            None => Caller::Outside,
        }
    }

    pub fn services(&self) -> usize {
        self.services.len() + self.cluster.services.len()
    }

    fn is_open_question(&self, address: IpAddr, now: Instant) -> bool {
        let seen = self.cluster.seen.get(&address);
        !self.workloads.contains_key(&address) && seen.is_none_or(|seen| seen.is_old(now))
    }

    fn is_in_mesh(&self, address: IpAddr) -> bool {
        self.mesh.iter().any(|net| net.contains(&address))
    }

    fn service_at(&self, address: IpAddr) -> Option<&Service> {
        let service = self.services.get(&address);
        service
            .or_else(|| self.cluster.services.get(&address))
            .map(Arc::as_ref)
    }

    fn resolve(&self, service: &Service, dst: SocketAddr) -> Destination {
        let Some(behind) = service.ports.get(&dst.port()) else {
            return Destination::Unknown;
        };
        let workloads = same_family(&behind.workloads, dst);
        let known = workloads.filter_map(|endpoint| self.target(endpoint));
        let addresses = same_family(&behind.addresses, dst);
        let plain = addresses.filter_map(|address| match self.target(address) {
            None if !self.is_in_mesh(address.ip()) => Some(Target::Outside(address)),
            known => known,
        });
        let targets: Vec<Target> = known.chain(plain).collect();
        match (targets.is_empty(), service.sticky) {
            (true, _) => Destination::Unknown,
            (false, false) => Destination::Service(targets),
            (false, true) => Destination::Sticky(targets),
        }
    }

    /// Who is known at an address.
    fn target(&self, address: SocketAddr) -> Option<Target> {
        let ip = address.ip();
        if !self.is_enrolled(ip) {
            return Some(Target::NotEnrolled(address));
        }
        if let Some(id) = self.identity_at(ip) {
            let own_port = || SocketAddr::new(ip, self.tunnel_port);
            let tunnel = self.workloads.get(&ip).and_then(|entry| entry.tunnel);
            return Some(Target::Workload(Endpoint {
                address,
                id: id.clone(),
                tunnel: TunnelAddr(tunnel.unwrap_or_else(own_port)),
            }));
        }
        let is_node = self.cluster.seen.get(&ip)?.who == Who::Node;
        is_node.then_some(Target::Outside(address))
    }

    /// Whether it is not known to be a workload without a daemon.
    fn is_enrolled(&self, address: IpAddr) -> bool {
        if let Some(entry) = self.workloads.get(&address) {
            return entry.enrolled;
        }
        let is_off = |seen: &Seen| matches!(seen.who, Who::NotEnrolled(_));
        // The floor enrols whom labels do not.
        self.has_floor || !self.cluster.seen.get(&address).is_some_and(is_off)
    }

    /// What the operator wrote goes first.
    pub fn identity_at(&self, address: IpAddr) -> Option<&SpiffeId> {
        if let Some(entry) = self.workloads.get(&address) {
            return Some(&entry.id);
        }
        self.cluster.seen.get(&address)?.who.identity()
    }
}

impl Service {
    /// All that is behind a port, and whether each is a workload.
    fn candidates(&self, dst: SocketAddr) -> impl Iterator<Item = (SocketAddr, bool)> {
        self.ports.get(&dst.port()).into_iter().flat_map(move |it| {
            let workloads = same_family(&it.workloads, dst).map(|at| (at, true));
            let addresses = same_family(&it.addresses, dst).map(|at| (at, false));
            workloads.chain(addresses)
        })
    }

    /// The same, whom the client keeps to first.
    fn preferred(&self, dst: SocketAddr, client: Option<IpAddr>) -> Vec<(SocketAddr, bool)> {
        let mut all: Vec<_> = self.candidates(dst).collect();
        all.sort_by_cached_key(|(at, _)| preference(client, *at));
        all
    }
}

/// The least is whom a client keeps to. It is another one for each client, and
/// one that comes or goes moves only its own.
pub fn preference(client: Option<IpAddr>, endpoint: SocketAddr) -> u64 {
    let mut hasher = DefaultHasher::new();
    (client, endpoint).hash(&mut hasher);
    hasher.finish()
}

impl Target {
    /// Where the connection ends.
    pub fn address(&self) -> SocketAddr {
        match self {
            Self::Workload(endpoint) => endpoint.address,
            Self::Outside(address) | Self::NotEnrolled(address) => *address,
        }
    }
}

#[cfg(test)]
mod tests;

/// Endpoints of a service that one connection may ask about; those behind many
/// become known by and by.
const QUESTIONS: usize = 8;

/// One of the other family cannot take the client's source address, which the
/// packets towards it carry.
fn same_family(endpoints: &[SocketAddr], dst: SocketAddr) -> impl Iterator<Item = SocketAddr> {
    let endpoints = endpoints.iter().copied();
    endpoints.filter(move |endpoint| endpoint.is_ipv4() == dst.is_ipv4())
}
