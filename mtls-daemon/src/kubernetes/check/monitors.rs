//! Monitors of the Prometheus operator whose scrapes strict refuses.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind};
use kube::{Client, ResourceExt};
use serde::Deserialize;

use crate::config::Config;

use super::callers::is_strict;
use super::closed::selects;
use super::{Enrolled, Seen, some_of};

const GROUP: &str = "monitoring.coreos.com";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Pod,
    Service,
}

impl Kind {
    const ALL: [Self; 2] = [Self::Pod, Self::Service];

    const fn word(self) -> &'static str {
        match self {
            Self::Pod => "PodMonitor",
            Self::Service => "ServiceMonitor",
        }
    }

    const fn plural(self) -> &'static str {
        match self {
            Self::Pod => "podmonitors",
            Self::Service => "servicemonitors",
        }
    }

    fn objects(self, client: &Client) -> Api<DynamicObject> {
        let kind = GroupVersionKind::gvk(GROUP, "v1", self.word());
        let resource = ApiResource::from_gvk_with_plural(&kind, self.plural());
        Api::all_with(client.clone(), &resource)
    }
}

/// What matters here of either kind.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    selector: LabelSelector,
    namespace_selector: Namespaces,
    #[serde(alias = "podMetricsEndpoints")]
    endpoints: Vec<Endpoint>,
}

/// Neither: the monitor's own.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Namespaces {
    any: bool,
    match_names: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Endpoint {
    /// Name of a container's port, or of a Service's.
    port: Option<String>,
    /// Of a container.
    port_number: Option<i32>,
    target_port: Option<IntOrString>,
}

impl Namespaces {
    fn has(&self, namespace: &str, own: &str) -> bool {
        match self.match_names.as_slice() {
            _ if self.any => true,
            [] => namespace == own,
            names => names.iter().any(|it| it == namespace),
        }
    }
}

/// One text for each monitor and port that would hear nothing any more; `key`
/// is of the annotation that would exempt the port.
pub(super) async fn refused(
    seen: &mut Seen,
    services: &[core::Service],
    enrolled: &[Enrolled],
    config: &Config,
    key: &str,
) -> Vec<String> {
    let client = seen.client.clone();
    // Whoever may not list them is not told either whether there are any.
    let groups = client.list_api_groups().await;
    let has_them = groups.is_ok_and(|all| all.groups.iter().any(|it| it.name == GROUP));
    let mut texts = Vec::new();
    for kind in Kind::ALL.into_iter().filter(|_| has_them) {
        let monitors = seen.list(kind.plural(), kind.objects(&client)).await;
        for monitor in monitors {
            let own = monitor.namespace().unwrap_or_default();
            let name = format!("{} {own}/{}", kind.word(), monitor.name_any());
            let spec = serde_json::from_value(monitor.data["spec"].clone());
            let spec: Spec = spec.unwrap_or_default();
            let mut refusing = BTreeMap::<u16, Vec<String>>::new();
            for (pod, port) in scraped(kind, &spec, &own, services, enrolled) {
                let pods = refusing.entry(port).or_default();
                let is_new = !pods.contains(&pod.workload.name);
                if is_new && is_strict(&pod.workload, port, config) {
                    pods.push(pod.workload.name.clone());
                }
            }
            let refusing = refusing.iter().filter(|(_, pods)| !pods.is_empty());
            texts.extend(refusing.map(|(port, pods)| {
                format!(
                    "kubernetes: {name} has {} scraped at port {port}, where they are strict: enrol the Prometheus that does it, or annotate them with {key}: \"{port}\"",
                    some_of(pods)
                )
            }));
        }
    }
    texts
}

/// Pods, each with a port of its own.
fn scraped<'e>(
    kind: Kind,
    spec: &Spec,
    own: &str,
    services: &[core::Service],
    enrolled: &'e [Enrolled],
) -> Vec<(&'e Enrolled, u16)> {
    let mut scraped = Vec::new();
    let pods = || {
        let pods = enrolled.iter();
        pods.filter(|pod| spec.namespace_selector.has(&pod.namespace, own))
    };
    match kind {
        Kind::Pod => {
            for pod in pods().filter(|pod| selects(Some(&spec.selector), &pod.labels)) {
                let ports = spec.endpoints.iter().filter_map(|it| match it {
                    Endpoint {
                        port: Some(name), ..
                    } => pod.port(&IntOrString::String(name.clone())),
                    Endpoint {
                        port_number: Some(number),
                        ..
                    } => pod.port(&IntOrString::Int(*number)),
                    Endpoint { target_port, .. } => pod.port(target_port.as_ref()?),
                });
                scraped.extend(ports.map(|port| (pod, port)));
            }
        }
        Kind::Service => {
            for service in services {
                let (namespace, labels) = (service.namespace(), service.labels());
                let behind = service.spec.as_ref();
                let Some((behind, of)) = behind.and_then(|it| Some((it, it.selector.as_ref()?)))
                else {
                    continue;
                };
                if !selects(Some(&spec.selector), labels) {
                    continue;
                }
                let is_behind = |pod: &&Enrolled| {
                    let has = |(key, value)| pod.labels.get(key) == Some(value);
                    namespace.as_deref() == Some(&pod.namespace) && of.iter().all(has)
                };
                for pod in pods().filter(is_behind) {
                    let ports = behind.ports.iter().flatten();
                    let ports = spec.endpoints.iter().filter_map(|endpoint| {
                        if let Some(target) = &endpoint.target_port {
                            return pod.port(target);
                        }
                        let mut ports = ports.clone();
                        let port =
                            ports.find(|it| it.name.is_some() && it.name == endpoint.port)?;
                        let same = IntOrString::Int(port.port);
                        pod.port(port.target_port.as_ref().unwrap_or(&same))
                    });
                    scraped.extend(ports.map(|port| (pod, port)));
                }
            }
        }
    }
    scraped
}
