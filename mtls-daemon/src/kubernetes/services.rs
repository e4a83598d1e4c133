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

    /// The endpoints of each of its ports, on a node of that name.
    pub(super) fn table<'a>(
        &self,
        slices: impl Iterator<Item = &'a Slice> + Clone,
        node: &str,
    ) -> directory::Service {
        let here = |endpoint: &Endpoint| !self.local || endpoint.node.as_deref() == Some(node);
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
            let mut behind = behind(ready);
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn service(spec: &Value) -> Service {
        let object = json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": spec});
        Service::read(serde_json::from_value(object).unwrap()).unwrap()
    }

    fn slice(ports: &Value, endpoints: &Value) -> Slice {
        let object = json!({
            "metadata": {
                "name": "web-1", "namespace": "shop",
                "labels": {"kubernetes.io/service-name": "web"},
            },
            "addressType": "IPv4", "ports": ports, "endpoints": endpoints,
        });
        Slice::read(serde_json::from_value(object).unwrap()).unwrap()
    }

    fn endpoints(service: &Service, slices: &[Slice], port: u16) -> Vec<String> {
        let table = service.table(slices.iter(), "a");
        let Some(behind) = table.ports.get(&port) else {
            return Vec::new();
        };
        let found = behind.workloads.iter().chain(&behind.addresses);
        found.map(ToString::to_string).collect()
    }

    #[test]
    fn a_port_leads_to_the_target_of_its_name() {
        let service = service(&json!({
            "clusterIPs": ["10.96.0.5", "fd00:96::5"],
            "ports": [
                {"name": "http", "port": 80, "targetPort": "web"},
                {"name": "admin", "port": 81},
                {"name": "dns", "port": 53, "protocol": "UDP"},
            ],
        }));
        let ips: Vec<String> = service.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(ips, ["10.96.0.5", "fd00:96::5"]);
        // One slice for each number that the name stands for.
        let slices = [
            slice(
                &json!([{"name": "http", "port": 8080}, {"name": "admin", "port": 9000}]),
                &json!([{"addresses": ["10.0.1.4"]}]),
            ),
            slice(
                &json!([{"name": "http", "port": 8081}]),
                &json!([{"addresses": ["10.0.1.5"]}]),
            ),
        ];
        assert_eq!(
            endpoints(&service, &slices, 80),
            ["10.0.1.4:8080", "10.0.1.5:8081"]
        );
        assert_eq!(endpoints(&service, &slices, 81), ["10.0.1.4:9000"]);
        assert_eq!(endpoints(&service, &slices, 53), [""; 0]);
    }

    #[test]
    fn who_is_to_be_kept_to_is_said_by_the_service() {
        for (affinity, sticky) in [("ClientIP", true), ("None", false)] {
            let service = service(&json!({
                "clusterIPs": ["10.96.0.5"], "ports": [{"port": 80}], "sessionAffinity": affinity,
            }));
            assert_eq!(service.table([].iter(), "a").sticky, sticky);
        }
    }

    #[test]
    fn a_headless_service_has_no_address() {
        let headless = service(&json!({"clusterIPs": ["None"], "ports": [{"port": 80}]}));
        assert_eq!(headless.addresses, Vec::<IpAddr>::new());
    }

    #[test]
    fn who_is_not_ready_gets_nothing_and_who_ends_is_the_last_resort() {
        let service = service(&json!({"clusterIPs": ["10.96.0.5"], "ports": [{"port": 80}]}));
        let of = |conditions: &[Value]| {
            let endpoints = conditions.iter().zip(1..).map(|(conditions, n)| {
                json!({"addresses": [format!("10.0.1.{n}")], "conditions": conditions})
            });
            let endpoints = endpoints.collect::<Vec<_>>();
            slice(&json!([{"port": 80}]), &json!(endpoints))
        };
        let ready = json!({"ready": true});
        let unready = json!({"ready": false, "serving": false});
        let ending = json!({"ready": false, "serving": true, "terminating": true});
        let all = of(&[ready, unready.clone(), ending.clone(), json!({})]);
        assert_eq!(
            endpoints(&service, &[all], 80),
            ["10.0.1.1:80", "10.0.1.4:80"]
        );
        let last = of(&[unready.clone(), ending]);
        assert_eq!(endpoints(&service, &[last], 80), ["10.0.1.2:80"]);
        assert_eq!(endpoints(&service, &[of(&[unready])], 80), [""; 0]);
    }

    #[test]
    fn who_publishes_what_is_not_ready_gets_connections_and_so_does_what_is_unsaid() {
        let service = service(&json!({"clusterIPs": ["10.96.0.5"], "ports": [{"port": 80}]}));
        // As the controller writes it for publishNotReadyAddresses.
        let published = slice(
            &json!([{"port": 80}]),
            &json!([
                {"addresses": ["10.0.1.4"], "conditions": {"ready": true, "serving": false}},
                {"addresses": ["10.0.1.5"], "conditions": {
                    "ready": true, "serving": true, "terminating": true,
                }},
                {"addresses": ["10.0.1.6"]},
            ]),
        );
        let all = ["10.0.1.4:80", "10.0.1.5:80", "10.0.1.6:80"];
        assert_eq!(endpoints(&service, &[published], 80), all);
    }

    #[test]
    fn a_local_service_without_endpoints_here_has_none() {
        let local = service(&json!({
            "clusterIPs": ["10.96.0.5"], "ports": [{"port": 80}], "internalTrafficPolicy": "Local",
        }));
        let slice = slice(
            &json!([{"port": 80}]),
            &json!([{"addresses": ["10.0.2.4"], "nodeName": "b"}, {"addresses": ["10.0.3.4"]}]),
        );
        assert_eq!(endpoints(&local, &[slice], 80), [""; 0]);
    }

    #[test]
    fn a_local_service_stays_on_the_node() {
        let local = service(&json!({
            "clusterIPs": ["10.96.0.5"], "ports": [{"port": 80}], "internalTrafficPolicy": "Local",
        }));
        let slice = slice(
            &json!([{"port": 80}]),
            &json!([
                {"addresses": ["10.0.1.4"], "nodeName": "a"},
                {"addresses": ["10.0.2.4"], "nodeName": "b"},
            ]),
        );
        assert_eq!(endpoints(&local, &[slice], 80), ["10.0.1.4:80"]);
    }

    #[test]
    fn an_endpoint_names_its_pod() {
        let slice = slice(
            &json!([{"port": 80}]),
            &json!([
                {"addresses": ["10.0.1.4"], "targetRef": {"kind": "Pod", "name": "web-1", "uid": "u1"}},
                {"addresses": ["192.0.2.1"], "targetRef": {"kind": "Node", "name": "a", "uid": "u2"}},
            ]),
        );
        let pods: Vec<Option<PodRef>> = slice.endpoints.into_iter().map(|e| e.pod).collect();
        let pod = PodRef {
            namespace: "shop".to_owned(),
            name: "web-1".to_owned(),
            uid: "u1".to_owned(),
        };
        assert_eq!(pods, [Some(pod), None]);
    }

    #[test]
    fn whom_no_pod_stands_for_is_a_plain_address() {
        let service = service(&json!({"clusterIPs": ["10.96.0.1"], "ports": [{"port": 443}]}));
        let slice = slice(
            &json!([{"port": 6443}]),
            &json!([
                {"addresses": ["192.0.2.1"]},
                {"addresses": ["10.0.1.4"], "targetRef": {"kind": "Pod", "name": "web-1", "uid": "u1"}},
            ]),
        );
        let table = service.table([slice].iter(), "a");
        let behind = &table.ports[&443];
        assert_eq!(behind.addresses, ["192.0.2.1:6443".parse().unwrap()]);
        assert_eq!(behind.workloads, ["10.0.1.4:6443".parse().unwrap()]);
    }

    #[test]
    fn a_service_that_lost_its_last_pod_has_nobody() {
        let service = service(&json!({"clusterIPs": ["10.96.0.5"], "ports": [{"port": 80}]}));
        // As the controller writes it then.
        let empty = slice(&json!([{"port": 8080}]), &Value::Null);
        assert_eq!(endpoints(&service, &[empty], 80), [""; 0]);
    }

    #[test]
    fn what_no_service_claims_is_left_out() {
        let object = json!({
            "metadata": {"name": "x", "namespace": "shop"}, "addressType": "IPv4", "endpoints": [],
        });
        assert_eq!(Slice::read(serde_json::from_value(object).unwrap()), None);
    }
}
