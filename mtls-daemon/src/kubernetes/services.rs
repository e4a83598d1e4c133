//! Services and EndpointSlices: which endpoints stand behind which address and
//! port, as kube-proxy would have it.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use serde::{Deserialize, Serialize};

use crate::directory::{self, Behind};

/// What matters of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Service {
    /// Of each family; none if it is headless.
    pub(super) addresses: Vec<IpAddr>,
    ports: Vec<Port>,
    /// Traffic stays on the node (`internalTrafficPolicy: Local`).
    local: bool,
    /// Each client keeps to one endpoint (`sessionAffinity: ClientIP`).
    sticky: bool,
}

/// What matters of an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Slice {
    /// `namespace/name` of its Service.
    pub(super) service: String,
    ports: Vec<Port>,
    pub(super) endpoints: Vec<Endpoint>,
}

/// A TCP port and its name, which pairs a Service's with its slices'.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Port {
    name: String,
    number: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Endpoint {
    pub(super) address: IpAddr,
    ready: bool,
    /// Still answers, though it is about to end.
    last_resort: bool,
    node: Option<String>,
    pub(super) pod: Option<PodRef>,
    /// Whom it is meant for; nothing: everybody.
    hints: Option<Box<Hints>>,
}

/// The controller's answer to a Service's `trafficDistribution`, or to its
/// `service.kubernetes.io/topology-mode`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Hints {
    nodes: Vec<String>,
    zones: Vec<String>,
}

/// Whose clients are to be served.
#[derive(Clone, Copy, Debug)]
pub(super) struct Here<'a> {
    pub(super) node: &'a str,
    pub(super) zone: Option<&'a str>,
}

/// The pod that an endpoint is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PodRef {
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

const SERVICE_NAME: &str = "kubernetes.io/service-name";

impl Service {
    pub(super) fn read(service: core::Service) -> Option<Self> {
        let spec = service.spec?;
        let addresses = spec.cluster_ips.unwrap_or_default();
        let ports = spec
            .ports
            .unwrap_or_default()
            .into_iter()
            .filter_map(|port| {
                let protocol = port.protocol.as_deref();
                Port::tcp(protocol, port.name, Some(port.port))
            });
        Some(Self {
            // A headless one has the word None in place of an address.
            addresses: addresses.iter().filter_map(|ip| ip.parse().ok()).collect(),
            ports: ports.collect(),
            local: spec.internal_traffic_policy.as_deref() == Some("Local"),
            sticky: spec.session_affinity.as_deref() == Some("ClientIP"),
        })
    }

    /// The endpoints of each of its ports, for clients of a node.
    pub(super) fn table<'a>(
        &self,
        slices: impl Iterator<Item = &'a Slice> + Clone,
        at: Here<'_>,
    ) -> directory::Service {
        let here = |endpoint: &Endpoint| !self.local || endpoint.node.as_deref() == Some(at.node);
        let mut table = HashMap::new();
        for port in &self.ports {
            let all = slices.clone().flat_map(|slice| {
                let target = slice.ports.iter().find(|target| target.name == port.name);
                let endpoints = slice.endpoints.iter().filter(|endpoint| here(endpoint));
                target
                    .map(|target| endpoints.map(|endpoint| (endpoint, target.number)))
                    .into_iter()
                    .flatten()
            });
            let ready = all.clone().filter(|(endpoint, _)| endpoint.ready);
            let (v4, v6) = ready.partition(|(endpoint, _)| endpoint.address.is_ipv4());
            let mut behind = behind([v4, v6].into_iter().flat_map(|ready| match self.local {
                true => ready,
                false => nearest(ready, at),
            }));
            if behind == Behind::default() {
                behind = self::behind(all.filter(|(endpoint, _)| endpoint.last_resort));
            }
            table.insert(port.number, behind);
        }
        directory::Service {
            ports: table,
            sticky: self.sticky,
        }
    }
}

/// Of one family, where every endpoint says whom it is meant for, and one means
/// us: those that do. A hint keeps nobody from being served.
fn nearest<'a>(mut ready: Vec<(&'a Endpoint, u16)>, at: Here<'_>) -> Vec<(&'a Endpoint, u16)> {
    type Of = fn(&Hints) -> &[String];
    let ours: [(Of, Option<&str>); 2] =
        [(|it| &it.nodes, Some(at.node)), (|it| &it.zones, at.zone)];
    for (of, here) in ours {
        let meant_for = |endpoint: &'a Endpoint| endpoint.hints.as_deref().map_or(&[][..], of);
        let is_here = |it: &String| Some(it.as_str()) == here;
        let is_ours = |endpoint| meant_for(endpoint).iter().any(is_here);
        let mut endpoints = ready.iter().map(|(endpoint, _)| *endpoint);
        let all_say = endpoints.clone().all(|it| !meant_for(it).is_empty());
        if all_say && endpoints.any(is_ours) {
            ready.retain(|(endpoint, _)| is_ours(endpoint));
            return ready;
        }
    }
    ready
}

fn behind<'a>(chosen: impl Iterator<Item = (&'a Endpoint, u16)>) -> Behind {
    let mut behind = Behind::default();
    for (endpoint, port) in chosen {
        let list = match endpoint.pod {
            Some(_) => &mut behind.workloads,
            None => &mut behind.addresses,
        };
        list.push(SocketAddr::new(endpoint.address, port));
    }
    for list in [&mut behind.workloads, &mut behind.addresses] {
        list.sort_unstable();
        list.dedup();
        list.shrink_to_fit();
    }
    behind
}

impl Slice {
    /// `None`: no Service's, or of names instead of addresses.
    pub(super) fn read(slice: discovery::EndpointSlice) -> Option<Self> {
        let namespace = slice.metadata.namespace?;
        let service = slice.metadata.labels?.remove(SERVICE_NAME)?;
        let ports = slice.ports.unwrap_or_default().into_iter();
        let ports = ports.filter_map(|p| Port::tcp(p.protocol.as_deref(), p.name, p.port));
        let endpoints = slice.endpoints.into_iter();
        Some(Self {
            ports: ports.collect(),
            endpoints: endpoints
                .filter_map(|endpoint| Endpoint::read(endpoint, &namespace))
                .collect(),
            service: format!("{namespace}/{service}"),
        })
    }
}

impl Port {
    fn tcp(protocol: Option<&str>, name: Option<String>, number: Option<i32>) -> Option<Self> {
        if protocol.is_some_and(|protocol| protocol != "TCP") {
            return None;
        }
        Some(Self {
            name: name.unwrap_or_default(),
            number: u16::try_from(number?).ok()?,
        })
    }
}

impl Endpoint {
    fn read(endpoint: discovery::Endpoint, namespace: &str) -> Option<Self> {
        // By the API's own word all addresses of one endpoint are the same to
        // its clients, and only the first is used.
        let address = endpoint.addresses.first()?.parse().ok()?;
        let conditions = endpoint.conditions.unwrap_or_default();
        // What is not said is taken as well.
        let ready = conditions.ready.unwrap_or(true);
        let serving = conditions.serving.unwrap_or(ready);
        let terminating = conditions.terminating.unwrap_or(false);
        let pod = endpoint
            .target_ref
            .filter(|target| target.kind.as_deref() == Some("Pod"));
        Some(Self {
            address,
            ready,
            last_resort: serving && terminating,
            node: endpoint.node_name,
            hints: endpoint.hints.and_then(Hints::read),
            pod: pod.and_then(|target| {
                Some(PodRef {
                    namespace: target.namespace.unwrap_or_else(|| namespace.to_owned()),
                    name: target.name?,
                    uid: target.uid?,
                })
            }),
        })
    }
}

impl Hints {
    fn read(hints: discovery::EndpointHints) -> Option<Box<Self>> {
        let nodes = hints.for_nodes.unwrap_or_default().into_iter();
        let zones = hints.for_zones.unwrap_or_default().into_iter();
        let read = Self {
            nodes: nodes.map(|it| it.name).collect(),
            zones: zones.map(|it| it.name).collect(),
        };
        let says_nothing = read.nodes.is_empty() && read.zones.is_empty();
        (!says_nothing).then(|| Box::new(read))
    }
}

#[cfg(test)]
mod tests;
