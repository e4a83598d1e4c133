//! The directory: which address is which workload, as far as this node knows.
//!
//! An immutable snapshot; a change of the facts makes a new one.

mod cluster;

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use tokio::time::Instant;

use crate::addr::{OriginalDst, TunnelAddr};
use crate::config::Config;
use crate::spiffe::SpiffeId;

pub use cluster::{Cluster, Seen};

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

/// What a destination is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// One workload.
    Workload(Endpoint),
    /// Several workloads behind one address; never empty.
    Service(Vec<Endpoint>),
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
}

#[derive(Debug)]
struct Entry {
    id: SpiffeId,
    tunnel: Option<SocketAddr>,
}

/// Endpoints by the port that clients dial.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Service(pub HashMap<u16, Vec<SocketAddr>>);

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
                    },
                );
            }
        }
        for peer in &config.peers {
            for address in &peer.addresses {
                let entry = Entry {
                    id: peer.spiffe_id.clone(),
                    tunnel: peer.tunnel,
                };
                workloads.insert(*address, entry);
            }
        }
        let mut services = HashMap::new();
        for service in &config.services {
            let ports = service.ports.iter().map(|port| {
                let at = |ip: &IpAddr| SocketAddr::new(*ip, port.target);
                (port.port, service.endpoints.iter().map(at).collect())
            });
            let shared = Arc::new(Service(ports.collect()));
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
        }
    }

    pub fn find(&self, dst: OriginalDst) -> Destination {
        let OriginalDst(dst) = dst;
        if let Some(service) = self.service_at(dst.ip()) {
            return self.resolve(service, dst);
        }
        match self.endpoint(dst) {
            Some(endpoint) => Destination::Workload(endpoint),
            None if self.is_in_mesh(dst.ip()) => Destination::Unknown,
            None => Destination::Outside,
        }
    }

    /// Whether `id` is known at `address`: what a peer's certificate says must
    /// agree with where its tunnel comes from.
    pub fn is_at(&self, id: &SpiffeId, address: IpAddr) -> bool {
        self.identity_at(address) == Some(id)
    }

    /// Addresses that the cluster should be asked about for a connection to
    /// `dst`: nobody has said yet who is there, or only long ago.
    pub fn questions(&self, dst: OriginalDst, now: Instant) -> Vec<IpAddr> {
        if !self.cluster.answers {
            return Vec::new();
        }
        let OriginalDst(dst) = dst;
        let asks = |ip: &IpAddr| self.is_question(*ip, now);
        match self.service_at(dst.ip()) {
            Some(service) => same_family(service, dst)
                .map(|endpoint| endpoint.ip())
                .filter(asks)
                .take(QUESTIONS)
                .collect(),
            None => Some(dst.ip()).filter(asks).into_iter().collect(),
        }
    }

    /// Whether the cluster may know more about an address than we do.
    pub fn may_learn(&self, address: IpAddr) -> bool {
        self.cluster.answers && !self.workloads.contains_key(&address) && self.is_in_mesh(address)
    }

    /// Whether the cluster was asked about an address, and has answered since.
    pub fn is_answered(&self, address: IpAddr, since: Instant) -> bool {
        let seen = self.cluster.pods.get(&address);
        seen.is_some_and(|seen| seen.asked.is_none_or(|asked| asked >= since))
    }

    /// Every network and single address whose connections the kernel must hand
    /// over: the mesh networks, and what of the directory lies outside them.
    pub fn captured_networks(&self) -> Vec<IpNet> {
        let workloads = self.workloads.keys().chain(self.cluster.pods.keys());
        let services = self.services.keys().chain(self.cluster.services.keys());
        let stray: BTreeSet<IpNet> = workloads
            .chain(services)
            .filter(|address| !self.is_in_mesh(**address))
            .map(|address| IpNet::from(*address))
            .collect();
        self.mesh.iter().copied().chain(stray).collect()
    }

    pub fn services(&self) -> usize {
        self.services.len() + self.cluster.services.len()
    }

    fn is_question(&self, address: IpAddr, now: Instant) -> bool {
        let seen = self.cluster.pods.get(&address);
        self.may_learn(address) && seen.is_none_or(|seen| seen.is_old(now))
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
        let endpoints: Vec<Endpoint> = same_family(service, dst)
            .filter_map(|endpoint| self.endpoint(endpoint))
            .collect();
        if endpoints.is_empty() {
            Destination::Unknown
        } else {
            Destination::Service(endpoints)
        }
    }

    fn endpoint(&self, address: SocketAddr) -> Option<Endpoint> {
        let own_port = || SocketAddr::new(address.ip(), self.tunnel_port);
        let tunnel = |entry: &Entry| entry.tunnel;
        let entry = self.workloads.get(&address.ip());
        Some(Endpoint {
            address,
            id: self.identity_at(address.ip())?.clone(),
            tunnel: TunnelAddr(entry.and_then(tunnel).unwrap_or_else(own_port)),
        })
    }

    /// What the operator wrote goes first.
    fn identity_at(&self, address: IpAddr) -> Option<&SpiffeId> {
        match self.workloads.get(&address) {
            Some(entry) => Some(&entry.id),
            None => self.cluster.pods.get(&address)?.id.as_ref(),
        }
    }
}

#[cfg(test)]
mod tests;

/// Endpoints of a service that one connection may ask about; those behind many
/// become known by and by.
const QUESTIONS: usize = 8;

/// The endpoints behind a port. One of the other family cannot take the
/// client's source address, which the tunnel's packets carry.
fn same_family(service: &Service, dst: SocketAddr) -> impl Iterator<Item = SocketAddr> {
    let endpoints = service.0.get(&dst.port()).into_iter().flatten().copied();
    endpoints.filter(move |endpoint| endpoint.is_ipv4() == dst.is_ipv4())
}
