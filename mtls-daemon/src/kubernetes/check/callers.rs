//! Who calls pods from outside of the mesh, as objects of the cluster say:
//! strict refuses them where they are not exempted.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ServiceReference, ValidatingWebhookConfiguration,
    WebhookClientConfig,
};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kube::ResourceExt;

use crate::config::{self, Config, Mode};
use crate::directory::Cluster;

use super::{Enrolled, Seen, some_of};

/// A Service that the API server itself calls, and for what.
pub(super) struct Called {
    by: String,
    /// `namespace/name`.
    service: String,
    port: u16,
}

/// Where an object says no port.
const HTTPS: i32 = 443;

impl Called {
    fn new(by: String, namespace: &str, name: &str, port: Option<i32>) -> Option<Self> {
        Some(Self {
            by,
            service: format!("{namespace}/{name}"),
            port: port.unwrap_or(HTTPS).try_into().ok()?,
        })
    }

    fn by_webhook(by: &str, config: &WebhookClientConfig) -> Option<Self> {
        let ServiceReference {
            namespace,
            name,
            port,
            ..
        } = config.service.as_ref()?;
        Self::new(by.to_owned(), namespace, name, *port)
    }
}

/// All that the API server calls: admission, aggregated APIs, conversions.
pub(super) async fn of_api_server(seen: &mut Seen) -> Vec<Called> {
    let mut called = Vec::new();
    let all: Vec<ValidatingWebhookConfiguration> =
        seen.all("validatingwebhookconfigurations").await;
    for object in all {
        let by = format!("ValidatingWebhookConfiguration {}", object.name_any());
        let hooks = object.webhooks.unwrap_or_default();
        called.extend((hooks.iter()).filter_map(|it| Called::by_webhook(&by, &it.client_config)));
    }
    let all: Vec<MutatingWebhookConfiguration> = seen.all("mutatingwebhookconfigurations").await;
    for object in all {
        let by = format!("MutatingWebhookConfiguration {}", object.name_any());
        let hooks = object.webhooks.unwrap_or_default();
        called.extend((hooks.iter()).filter_map(|it| Called::by_webhook(&by, &it.client_config)));
    }
    let all: Vec<APIService> = seen.all("apiservices").await;
    called.extend(all.into_iter().filter_map(|object| {
        let by = format!("APIService {}", object.name_any());
        let service = object.spec?.service?;
        Called::new(by, &service.namespace?, &service.name?, service.port)
    }));
    let all: Vec<CustomResourceDefinition> = seen.all("customresourcedefinitions").await;
    called.extend(all.into_iter().filter_map(|object| {
        let by = format!(
            "the conversion of CustomResourceDefinition {}",
            object.name_any()
        );
        let service = object.spec.conversion?.webhook?.client_config?.service?;
        Called::new(by, &service.namespace, &service.name, service.port)
    }));
    called
}

/// Which enrolled pods stand behind Services.
pub(super) struct Behind<'a> {
    pods: HashMap<IpAddr, &'a Enrolled>,
    services: BTreeMap<String, Vec<Arc<crate::directory::Service>>>,
    config: &'a Config,
}

impl<'a> Behind<'a> {
    pub(super) fn new(
        services: &[core::Service],
        cluster: &Cluster,
        enrolled: &'a [Enrolled],
        config: &'a Config,
    ) -> Self {
        let tables = services.iter().map(|service| {
            let name = format!(
                "{}/{}",
                service.namespace().unwrap_or_default(),
                service.name_any()
            );
            let spec = service.spec.as_ref();
            let addresses = spec.and_then(|spec| spec.cluster_ips.as_ref());
            let addresses = addresses.into_iter().flatten();
            let addresses = addresses.filter_map(|it| it.parse::<IpAddr>().ok());
            let tables = addresses.filter_map(|it| cluster.services.get(&it).map(Arc::clone));
            (name, tables.collect())
        });
        let at = enrolled
            .iter()
            .flat_map(|pod| pod.addresses.iter().map(move |it| (*it, pod)));
        Self {
            pods: at.collect(),
            services: tables.collect(),
            config,
        }
    }

    /// One text for each object that is refused somewhere; `key` is of the
    /// annotation that would exempt a port.
    pub(super) fn refused(&self, called: &[Called], key: &str) -> Vec<String> {
        let mut refused = BTreeMap::<_, Vec<String>>::new();
        for it in called {
            for (pod, port) in self.strict(&it.service, it.port) {
                let pods = refused.entry((&it.by, &it.service, port)).or_default();
                if !pods.contains(&pod.workload.name) {
                    pods.push(pod.workload.name.clone());
                }
            }
        }
        let text = |((by, service, port), pods): ((&String, &String, u16), Vec<String>)| {
            format!(
                "kubernetes: {by} has the API server call Service {service}, and so {}, which refuses at port {port}, being strict there: annotate the pod with {key}: \"{port}\" (that port speaks TLS of its own), or make it permissive",
                some_of(&pods)
            )
        };
        refused.into_iter().map(text).collect()
    }

    fn strict(&self, service: &str, port: u16) -> Vec<(&'a Enrolled, u16)> {
        let tables = self.services.get(service).into_iter().flatten();
        let behind = tables.filter_map(|table| table.ports.get(&port));
        let at = behind.flat_map(|behind| &behind.workloads);
        let pods = at.filter_map(|at| Some((*self.pods.get(&at.ip())?, at.port())));
        pods.filter(|(pod, port)| is_strict(&pod.workload, *port, self.config))
            .collect()
    }
}

pub(super) fn is_strict(workload: &config::Workload, port: u16, config: &Config) -> bool {
    let mut said = config.port_modes(workload).filter(|it| it.port == port);
    let mode = said
        .next()
        .map_or_else(|| config.mode_of(workload), |it| it.mode);
    mode == Mode::Strict && !workload.excluded_inbound_ports.contains(&port)
}

const SCRAPE: &str = "prometheus.io/scrape";
const PORT: &str = "prometheus.io/port";

/// Pods that ask by annotation to be scraped where nobody can without a tunnel.
pub(super) fn scrapers(enrolled: &[Enrolled], config: &Config, key: &str) -> Vec<String> {
    let mut refusing = BTreeMap::<(&str, u16), Vec<String>>::new();
    for pod in enrolled {
        let annotation = |name: &str| pod.annotations.get(name).map(String::as_str);
        let port = annotation(PORT).and_then(|port| port.parse().ok());
        if annotation(SCRAPE) == Some("true")
            && let Some(port) = port
            && is_strict(&pod.workload, port, config)
        {
            let pods = refusing.entry((&pod.namespace, port)).or_default();
            pods.push(pod.workload.name.clone());
        }
    }
    let text = |((_, port), pods): ((&str, u16), Vec<String>)| {
        format!(
            "kubernetes: {} ask to be scraped at port {port} ({SCRAPE}) and are strict there: enrol the Prometheus that does it, or annotate them with {key}: \"{port}\"",
            some_of(&pods)
        )
    };
    refusing.into_iter().map(text).collect()
}
