//! Where a kubelet probes a pod: the ports of all liveness, readiness and
//! startup probes that go over the network to the pod itself.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, PodSpec, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// Sorted, each once. Sidecars are init containers, and are probed as well.
pub(super) fn ports(spec: &PodSpec) -> Vec<u16> {
    let inits = spec.init_containers.iter().flatten();
    let containers = spec.containers.iter().chain(inits);
    let found: BTreeSet<u16> = containers.flat_map(of_container).collect();
    found.into_iter().collect()
}

fn of_container(container: &Container) -> Vec<u16> {
    let probes = [
        &container.liveness_probe,
        &container.readiness_probe,
        &container.startup_probe,
    ];
    let named = |name: &str| {
        let mut ports = container.ports.iter().flatten();
        ports
            .find(|port| port.name.as_deref() == Some(name))
            .map(|port| port.container_port)
    };
    let probes = probes.into_iter().flatten();
    probes
        .filter_map(port)
        .filter_map(|port| match port {
            IntOrString::Int(port) => Some(port),
            // Also as text a number is a number, as to the kubelet.
            IntOrString::String(name) => name.parse().ok().or_else(|| named(&name)),
        })
        .filter_map(|port| u16::try_from(port).ok().filter(|port| *port != 0))
        .collect()
}

/// A probe with a host of its own goes elsewhere.
fn port(probe: &Probe) -> Option<IntOrString> {
    if let Some(get) = &probe.http_get {
        return get.host.is_none().then(|| get.port.clone());
    }
    if let Some(socket) = &probe.tcp_socket {
        return socket.host.is_none().then(|| socket.port.clone());
    }
    probe.grpc.as_ref().map(|grpc| IntOrString::Int(grpc.port))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn ports_of(spec: Value) -> Vec<u16> {
        ports(&serde_json::from_value(spec).unwrap())
    }

    #[test]
    fn every_probe_over_the_network_counts_once() {
        let spec = json!({
            "containers": [
                {
                    "name": "web",
                    "ports": [{"name": "health", "containerPort": 8081}],
                    "readinessProbe": {"httpGet": {"port": "health"}},
                    "livenessProbe": {"tcpSocket": {"port": 8080}},
                    "startupProbe": {"tcpSocket": {"port": "8080"}},
                },
                {"name": "api", "livenessProbe": {"grpc": {"port": 9000}}},
                {"name": "none", "livenessProbe": {"exec": {"command": ["true"]}}},
            ],
            "initContainers": [
                {"name": "sidecar", "readinessProbe": {"httpGet": {"port": 15021}}},
            ],
        });
        assert_eq!(ports_of(spec), [8080, 8081, 9000, 15021]);
    }

    #[test]
    fn what_is_no_port_of_the_pod_opens_nothing() {
        let spec = json!({"containers": [
            {"name": "a", "readinessProbe": {"httpGet": {"port": "nobodys"}}},
            {"name": "b", "readinessProbe": {"httpGet": {"port": 80, "host": "10.9.9.9"}}},
            {"name": "c", "readinessProbe": {"tcpSocket": {"port": 0}}},
            {"name": "d", "readinessProbe": {"tcpSocket": {"port": 70000}}},
        ]});
        assert_eq!(ports_of(spec), [0; 0]);
    }
}
