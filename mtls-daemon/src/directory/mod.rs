//! The directory: which address is which workload, as far as this node knows.
//!
//! An immutable snapshot; a change of the facts makes a new one.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

use crate::addr::{OriginalDst, TunnelAddr};
use crate::config::Config;
use crate::spiffe::SpiffeId;

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
    mesh: Vec<IpNet>,
    tunnel_port: u16,
}

#[derive(Debug)]
struct Entry {
    id: SpiffeId,
    tunnel: Option<SocketAddr>,
}

#[derive(Debug)]
struct Service {
    /// Port of the service to port of its endpoints.
    ports: HashMap<u16, u16>,
    endpoints: Vec<IpAddr>,
}

impl Directory {
    /// The static directory that the configuration spells out.
    pub fn from_config(config: &Config) -> Self {
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
            let shared = Arc::new(Service {
                ports: service.ports.iter().map(|p| (p.port, p.target)).collect(),
                endpoints: service.endpoints.clone(),
            });
            for address in &service.addresses {
                services.insert(*address, Arc::clone(&shared));
            }
        }
        Self {
            workloads,
            services,
            mesh: config.network.mesh.clone(),
            tunnel_port: config.network.tunnel_port,
        }
    }

    pub fn find(&self, dst: OriginalDst) -> Destination {
        let OriginalDst(dst) = dst;
        if let Some(service) = self.services.get(&dst.ip()) {
            return self.resolve(service, dst);
        }
        match self.endpoint(dst) {
            Some(endpoint) => Destination::Workload(endpoint),
            None if self.mesh.iter().any(|net| net.contains(&dst.ip())) => Destination::Unknown,
            None => Destination::Outside,
        }
    }

    /// Whether `id` is known at `address`: what a peer's certificate says must
    /// agree with where its tunnel comes from.
    pub fn is_at(&self, id: &SpiffeId, address: IpAddr) -> bool {
        self.workloads
            .get(&address)
            .is_some_and(|entry| entry.id == *id)
    }

    /// Every network and single address whose connections the kernel must hand
    /// over: the mesh networks, and what of the directory lies outside them.
    pub fn captured_networks(&self) -> Vec<IpNet> {
        let singles = self.workloads.keys().chain(self.services.keys());
        let stray: BTreeSet<IpNet> = singles
            .filter(|address| !self.mesh.iter().any(|net| net.contains(*address)))
            .map(|address| IpNet::from(*address))
            .collect();
        self.mesh.iter().copied().chain(stray).collect()
    }

    fn resolve(&self, service: &Service, dst: SocketAddr) -> Destination {
        let Some(target) = service.ports.get(&dst.port()) else {
            return Destination::Unknown;
        };
        // An endpoint of the other family cannot take the client's source
        // address, which the tunnel's packets carry.
        let same_family = |ip: &&IpAddr| ip.is_ipv4() == dst.is_ipv4();
        let endpoints: Vec<Endpoint> = service
            .endpoints
            .iter()
            .filter(same_family)
            .filter_map(|ip| self.endpoint(SocketAddr::new(*ip, *target)))
            .collect();
        if endpoints.is_empty() {
            Destination::Unknown
        } else {
            Destination::Service(endpoints)
        }
    }

    fn endpoint(&self, address: SocketAddr) -> Option<Endpoint> {
        let entry = self.workloads.get(&address.ip())?;
        let default = || SocketAddr::new(address.ip(), self.tunnel_port);
        Some(Endpoint {
            address,
            id: entry.id.clone(),
            tunnel: TunnelAddr(entry.tunnel.unwrap_or_else(default)),
        })
    }
}
