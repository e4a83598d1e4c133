//! Everything that is known of the cluster, and what this node makes of it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::api::networking::v1 as networking;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::Event;
use kube::{Resource, ResourceExt};
use tokio::time::Instant;

use crate::config::Mode;
use crate::directory::{self, Cluster, Seen};
use crate::spiffe::SpiffeId;

use super::Snapshot;
use super::ask::Hints;
use super::kept::{Change, Kept};
use super::pods::{Pod, Rules, mode};
use super::services::{PodRef, Service, Slice};

/// News of one kind of object.
pub(super) enum News {
    Pod(Box<Event<core::Pod>>),
    Namespace(Box<Event<PartialObjectMeta<core::Namespace>>>),
    Service(Box<Event<core::Service>>),
    Slice(Box<Event<discovery::EndpointSlice>>),
    Node(Box<Event<core::Node>>),
    Networks(Box<Event<networking::ServiceCIDR>>),
}

#[derive(Debug)]
pub(super) struct Store {
    pub(super) rules: Rules,
    /// Of this node only.
    pods: Kept<Pod>,
    /// What each namespace's label says.
    namespaces: Kept<Option<Mode>>,
    services: Kept<Service>,
    slices: Kept<Slice>,
    slices_of: HashMap<String, BTreeSet<String>>,
    nodes: Kept<Vec<IpNet>>,
    networks: Kept<Vec<IpNet>>,
    answers: HashMap<IpAddr, Seen>,
    /// Ready to be looked up, by the Service.
    tables: HashMap<String, Arc<directory::Service>>,
    /// Services whose table is to be made again.
    outdated: HashSet<String>,
}

/// An answer that nobody has asked for again in this time is forgotten.
const FORGET: Duration = Duration::from_secs(600);
const FORGET_NOBODY: Duration = Duration::from_secs(5);

impl Store {
    pub(super) fn new(rules: Rules) -> Self {
        Self {
            rules,
            pods: Kept::default(),
            namespaces: Kept::default(),
            services: Kept::default(),
            slices: Kept::default(),
            slices_of: HashMap::new(),
            nodes: Kept::default(),
            networks: Kept::default(),
            answers: HashMap::new(),
            tables: HashMap::new(),
            outdated: HashSet::new(),
        }
    }

    /// Whether it changed anything.
    pub(super) fn heed(&mut self, news: News) -> bool {
        match news {
            News::Pod(event) => self.heed_pod(*event),
            News::Namespace(event) => {
                let rules = &self.rules;
                let read = |namespace: PartialObjectMeta<_>| {
                    let mut complaints = Vec::new();
                    let name = namespace.name_any();
                    let labels = namespace.metadata.labels.unwrap_or_default();
                    let mode = mode(&labels, rules, &mut complaints);
                    for complaint in complaints {
                        tracing::warn!(namespace = name, complaint, "label not understood");
                    }
                    Some(mode)
                };
                changed(&self.namespaces.heed(*event, key, read))
            }
            News::Service(event) => {
                let change = self.services.heed(*event, key, Service::read);
                match &change {
                    Change::One(service, _) => drop(self.outdated.insert(service.clone())),
                    Change::All => self.all_outdated(),
                    Change::Nothing => {}
                }
                changed(&change)
            }
            News::Slice(event) => self.heed_slice(*event),
            News::Node(event) => changed(&self.nodes.heed(*event, key, |node| {
                let cidrs = node.spec?.pod_cidrs.unwrap_or_default();
                Some(networks(&cidrs))
            })),
            News::Networks(event) => changed(&self.networks.heed(*event, key, |cidr| {
                Some(networks(&cidr.spec?.cidrs.unwrap_or_default()))
            })),
        }
    }

    fn heed_pod(&mut self, event: Event<core::Pod>) -> bool {
        let rules = &self.rules;
        let change = self.pods.heed(event, key, |pod| Pod::read(pod, rules));
        if let Change::One(key, before) = &change
            && let Some(pod) = self.pods.get(key)
            && before.as_ref().map(|before| &before.complaints) != Some(&pod.complaints)
        {
            for complaint in &pod.complaints {
                tracing::warn!(pod = key, complaint, "label or annotation not understood");
            }
        }
        changed(&change)
    }

    fn heed_slice(&mut self, event: Event<discovery::EndpointSlice>) -> bool {
        let change = self.slices.heed(event, key, Slice::read);
        match &change {
            Change::One(key, before) => {
                let now = self.slices.get(key);
                for slice in before.iter().chain(now) {
                    self.outdated.insert(slice.service.clone());
                }
                if let Some(before) = before {
                    self.forget_who_left(key, before);
                    if let Some(keys) = self.slices_of.get_mut(&before.service) {
                        keys.remove(key);
                    }
                }
                if let Some(now) = self.slices.get(key) {
                    let keys = self.slices_of.entry(now.service.clone()).or_default();
                    keys.insert(key.clone());
                }
            }
            Change::All => {
                self.slices_of.clear();
                for (key, slice) in self.slices.iter() {
                    let keys = self.slices_of.entry(slice.service.clone()).or_default();
                    keys.insert(key.clone());
                }
                // What happened meanwhile nobody has told.
                self.answers.clear();
                self.all_outdated();
            }
            Change::Nothing => {}
        }
        changed(&change)
    }

    /// An address that left a slice, or is another pod's now, is asked for
    /// again when it is used.
    fn forget_who_left(&mut self, key: &str, before: &Slice) {
        let now: HashSet<(IpAddr, Option<&PodRef>)> = (self.slices.get(key).into_iter())
            .flat_map(|slice| &slice.endpoints)
            .map(|endpoint| (endpoint.address, endpoint.pod.as_ref()))
            .collect();
        for endpoint in &before.endpoints {
            if !now.contains(&(endpoint.address, endpoint.pod.as_ref())) {
                self.answers.remove(&endpoint.address);
            }
        }
    }

    fn all_outdated(&mut self) {
        self.tables.clear();
        let all = self.services.iter().map(|(key, _)| key.clone());
        self.outdated.extend(all);
    }

    /// What the API server said of an address when it was asked.
    pub(super) fn answer(&mut self, address: IpAddr, id: Option<SpiffeId>, asked: Instant) {
        let asked = Some(asked);
        self.answers.insert(address, Seen { id, asked });
    }

    pub(super) fn hints(&self, address: IpAddr) -> Hints {
        let of_node = |networks: &[IpNet]| networks.iter().any(|net| net.contains(&address));
        let mut nodes = self.nodes.iter();
        Hints {
            pod: self.pod_at(address),
            node: nodes
                .find(|(_, networks)| of_node(networks))
                .map(|(name, _)| name.clone()),
        }
    }

    /// The pod that a slice names for an address.
    fn pod_at(&self, address: IpAddr) -> Option<PodRef> {
        let mut endpoints = self.slices.values().flat_map(|slice| &slice.endpoints);
        endpoints.find_map(|endpoint| match &endpoint.pod {
            Some(pod) if endpoint.address == address => Some(pod.clone()),
            _ => None,
        })
    }

    /// Every kind has told all that there is.
    pub(super) fn is_whole(&self) -> bool {
        self.pods.is_whole()
            && self.namespaces.is_whole()
            && self.services.is_whole()
            && self.slices.is_whole()
            && self.nodes.is_whole()
            && self.networks.is_whole()
    }

    /// Answers that are not used any more, unless nobody could give new ones.
    pub(super) fn forget_old_answers(&mut self, now: Instant) {
        self.answers.retain(|_, seen| {
            let limit = match seen.id {
                Some(_) => FORGET,
                None => FORGET_NOBODY,
            };
            let age = |asked| now.saturating_duration_since(asked);
            seen.asked.is_none_or(|asked| age(asked) < limit)
        });
    }

    /// What the node shall know; of a cluster that is not known whole, nothing.
    pub(super) fn snapshot(&mut self, trouble: Option<String>) -> Snapshot {
        if !self.is_whole() {
            return Snapshot {
                trouble,
                ..Snapshot::default()
            };
        }
        let services = self.lookup_tables();
        let mut pods = self.answers.clone();
        for pod in self.pods.values() {
            let id = pod.identity(&self.rules);
            for &address in pod.addresses.iter().filter(|_| id.is_some()) {
                let (id, asked) = (id.clone(), None);
                pods.insert(address, Seen { id, asked });
            }
        }
        let networks = self.nodes.values().chain(self.networks.values());
        let networks: BTreeSet<IpNet> = networks.flatten().copied().collect();
        Snapshot {
            is_whole: true,
            trouble,
            cluster: Arc::new(Cluster {
                answers: true,
                pods,
                services,
                networks: networks.into_iter().collect(),
            }),
            workloads: self.workloads(),
        }
    }

    /// Of the pods whose namespace is known, for what it says decides; in an
    /// order by which two lists can be compared.
    fn workloads(&self) -> Vec<crate::config::Workload> {
        let workloads = self.pods.values().filter_map(|pod| {
            let of_namespace = self.namespaces.get(&pod.namespace)?;
            pod.workload(*of_namespace, &self.rules)
        });
        let mut workloads: Vec<_> = workloads.collect();
        workloads.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        workloads
    }

    fn lookup_tables(&mut self) -> HashMap<IpAddr, Arc<directory::Service>> {
        for key in std::mem::take(&mut self.outdated) {
            let Some(service) = self.services.get(&key) else {
                self.tables.remove(&key);
                continue;
            };
            let keys = self.slices_of.get(&key).into_iter().flatten();
            let slices = keys.filter_map(|key| self.slices.get(key));
            let table = service.table(slices, &self.rules.node);
            self.tables.insert(key, Arc::new(table));
        }
        let services = self.services.iter().filter_map(|(key, service)| {
            let table = self.tables.get(key)?;
            let addresses = service.addresses.iter();
            Some(addresses.map(|address| (*address, Arc::clone(table))))
        });
        services.flatten().collect()
    }
}

fn changed<T>(change: &Change<T>) -> bool {
    !matches!(change, Change::Nothing)
}

/// `namespace/name`, or the name alone.
fn key<K: Resource>(object: &K) -> String {
    let name = object.name_any();
    match object.namespace() {
        Some(namespace) => format!("{namespace}/{name}"),
        None => name,
    }
}

fn networks(cidrs: &[String]) -> Vec<IpNet> {
    cidrs.iter().filter_map(|cidr| cidr.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;
    use serde_json::{Value, json};

    use super::*;

    fn apply<T: DeserializeOwned>(object: &Value) -> Box<Event<T>> {
        let object = serde_json::from_value(object.clone());
        Box::new(Event::Apply(object.unwrap()))
    }

    fn whole() -> Store {
        let mut store = Store::new(Rules::for_tests());
        store.heed(News::Pod(Box::new(Event::InitDone)));
        store.heed(News::Namespace(Box::new(Event::InitDone)));
        store.heed(News::Service(Box::new(Event::InitDone)));
        store.heed(News::Slice(Box::new(Event::InitDone)));
        store.heed(News::Node(Box::new(Event::InitDone)));
        store.heed(News::Networks(Box::new(Event::InitDone)));
        store
    }

    fn pod() -> News {
        News::Pod(apply(&json!({
            "metadata": {"name": "web-1", "namespace": "shop", "uid": "u1"},
            "spec": {"containers": [], "serviceAccountName": "web"},
            "status": {"phase": "Running", "podIPs": [{"ip": "10.0.1.4"}]},
        })))
    }

    fn namespace(labels: &Value) -> News {
        let namespace = json!({"metadata": {"name": "shop", "labels": labels}});
        News::Namespace(apply(&namespace))
    }

    fn slice(address: &str, uid: &str) -> News {
        News::Slice(apply(&json!({
            "metadata": {
                "name": "web-1", "namespace": "shop",
                "labels": {"kubernetes.io/service-name": "web"},
            },
            "addressType": "IPv4", "ports": [{"port": 8080}],
            "endpoints": [{
                "addresses": [address], "targetRef": {"kind": "Pod", "name": "web-9", "uid": uid},
            }],
        })))
    }

    fn service() -> News {
        News::Service(apply(&json!({
            "metadata": {"name": "web", "namespace": "shop"},
            "spec": {"clusterIPs": ["10.96.0.5"], "ports": [{"port": 80}]},
        })))
    }

    #[test]
    fn nothing_is_said_of_a_cluster_that_is_not_known_whole() {
        let mut store = Store::new(Rules::for_tests());
        store.heed(pod());
        store.heed(News::Pod(Box::new(Event::InitDone)));
        let snapshot = store.snapshot(None);
        assert!(!snapshot.is_whole && !snapshot.cluster.answers);
        assert!(whole().snapshot(None).is_whole);
    }

    #[test]
    fn a_pod_waits_for_its_namespace() {
        let mut store = whole();
        store.heed(pod());
        assert_eq!(store.snapshot(None).workloads, []);
        store.heed(namespace(&json!({"mtls-daemon.io/mode": "strict"})));
        assert_eq!(store.snapshot(None).workloads[0].mode, Some(Mode::Strict));
        assert!(!store.heed(namespace(&json!({"mtls-daemon.io/mode": "strict"}))));
        assert!(store.heed(namespace(&json!({}))));
        assert_eq!(store.snapshot(None).workloads[0].mode, Some(Mode::Off));
    }

    #[test]
    fn a_service_follows_its_slices_whichever_comes_first() {
        let address: IpAddr = "10.96.0.5".parse().unwrap();
        let endpoints = |store: &mut Store| {
            let snapshot = store.snapshot(None);
            let service = snapshot.cluster.services.get(&address)?;
            Some(
                service.0[&80]
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>(),
            )
        };
        let mut store = whole();
        store.heed(slice("10.0.2.4", "u9"));
        assert_eq!(endpoints(&mut store), None);
        store.heed(service());
        assert_eq!(endpoints(&mut store).unwrap(), ["10.0.2.4:8080"]);
        store.heed(slice("10.0.2.5", "u9"));
        assert_eq!(endpoints(&mut store).unwrap(), ["10.0.2.5:8080"]);
    }

    #[test]
    fn an_answer_ends_with_the_pod_that_it_was_about() {
        let address: IpAddr = "10.0.2.4".parse().unwrap();
        let mut store = whole();
        store.heed(slice("10.0.2.4", "u9"));
        assert_eq!(store.pod_at(address).unwrap().name, "web-9");
        let id: SpiffeId = "spiffe://example.org/ns/shop/sa/web".parse().unwrap();
        store.answer(address, Some(id), Instant::now());
        assert!(store.snapshot(None).cluster.pods.contains_key(&address));
        // Another pod has taken the address.
        store.heed(slice("10.0.2.4", "u10"));
        assert!(!store.snapshot(None).cluster.pods.contains_key(&address));
    }

    #[test]
    fn a_node_is_known_by_the_networks_of_its_pods() {
        let mut store = whole();
        store.heed(News::Node(apply(&json!({
            "metadata": {"name": "b"}, "spec": {"podCIDRs": ["10.0.2.0/24", "fd00:2::/64"]},
        }))));
        let node = |store: &Store, ip: &str| store.hints(ip.parse().unwrap()).node;
        assert_eq!(node(&store, "fd00:2::9").as_deref(), Some("b"));
        assert_eq!(node(&store, "fd00:3::9"), None);
        let networks = store.snapshot(None).cluster.networks.clone();
        assert_eq!(networks.len(), 2);
    }

    #[test]
    fn answers_are_forgotten_nobody_sooner_than_somebody() {
        let (here, gone): (IpAddr, IpAddr) =
            ("10.0.2.4".parse().unwrap(), "10.0.2.5".parse().unwrap());
        let id: SpiffeId = "spiffe://example.org/ns/shop/sa/web".parse().unwrap();
        let (mut store, now) = (whole(), Instant::now());
        store.answer(here, Some(id), now);
        store.answer(gone, None, now);
        store.forget_old_answers(now + FORGET_NOBODY);
        let pods = store.snapshot(None).cluster;
        assert!(pods.pods.contains_key(&here) && !pods.pods.contains_key(&gone));
        store.forget_old_answers(now + FORGET);
        assert!(store.snapshot(None).cluster.pods.is_empty());
    }
}
