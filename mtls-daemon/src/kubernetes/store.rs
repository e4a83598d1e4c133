//! Everything that is known of the cluster, and what this node makes of it.

mod guard;
mod state;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::api::networking::v1 as networking;
use kube::core::{DynamicObject, PartialObjectMeta};
use kube::runtime::watcher::Event;
use kube::{Resource, ResourceExt};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::config::Mode;
use crate::directory::{self, Cluster, Seen, Who};

use super::Snapshot;
use super::ask::Hints;
use super::kept::{Change, Kept};
use super::own::Own;
use super::pods::{Decided, Pod, Rules, SaidBy, Unfit, mode};
use super::policies::{Kind, Policies};
use super::services::{Here, PodRef, Service, Slice};

use guard::Istio;
pub(super) use state::NotKnown;

/// News of one kind of object.
pub(super) enum News {
    Pod(Box<Event<core::Pod>>),
    Namespace(Box<Event<PartialObjectMeta<core::Namespace>>>),
    Service(Box<Event<core::Service>>),
    Slice(Box<Event<discovery::EndpointSlice>>),
    Node(Box<Event<core::Node>>),
    Networks(Box<Event<networking::ServiceCIDR>>),
    /// Of the daemon's own DaemonSet.
    Own(Box<Event<PartialObjectMeta<DaemonSet>>>),
    /// Of a kind of Istio's API.
    Definition(Kind, Box<Event<DynamicObject>>),
    Policy(Kind, Box<Event<DynamicObject>>),
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
    nodes: Kept<Node>,
    networks: Kept<Networks>,
    authorization: Istio,
    authentication: Istio,
    /// Made anew when what it was made of changes.
    resolved: Option<Arc<Policies>>,
    answers: HashMap<IpAddr, Seen>,
    own: Own,
    /// Ready to be looked up, by the Service.
    tables: HashMap<String, Arc<directory::Service>>,
    /// Services whose table is to be made again.
    outdated: HashSet<String>,
}

/// What matters of a node.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Node {
    /// Where its pods have their addresses from.
    networks: Networks,
    addresses: Vec<IpAddr>,
    zone: Option<String>,
}

const ZONE: &str = "topology.kubernetes.io/zone";

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Networks(#[serde(with = "super::text")] Vec<IpNet>);

/// An answer that nobody has asked for again in this time is forgotten.
const FORGET: Duration = Duration::from_secs(600);
const FORGET_NOBODY: Duration = Duration::from_secs(5);

impl Store {
    pub(super) fn new(rules: Rules) -> Self {
        Self {
            pods: Kept::default(),
            namespaces: Kept::default(),
            services: Kept::default(),
            slices: Kept::default(),
            slices_of: HashMap::new(),
            nodes: Kept::default(),
            networks: Kept::default(),
            authorization: Istio::new(rules.policies),
            authentication: Istio::new(rules.policies),
            resolved: None,
            rules,
            answers: HashMap::new(),
            own: Own::default(),
            tables: HashMap::new(),
            outdated: HashSet::new(),
        }
    }

    /// The daemon stays, or not, until it is told otherwise.
    pub(super) fn of(self, own: Own) -> Self {
        Self { own, ..self }
    }

    /// Whether it changed anything.
    pub(super) fn heed(&mut self, news: News) -> bool {
        match news {
            News::Own(event) => self.own.heed(*event),
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
                let changed = changed(&self.namespaces.heed(*event, key, read));
                if changed {
                    // Whom it enrols is asked for again.
                    self.answers.clear();
                }
                changed
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
            News::Node(event) => {
                let before = self.zone().map(str::to_owned);
                let change = self.nodes.heed(*event, key, Node::read);
                if self.zone() != before.as_deref() {
                    self.all_outdated();
                }
                changed(&change)
            }
            News::Networks(event) => changed(&self.networks.heed(*event, key, |cidr| {
                Some(networks(&cidr.spec?.cidrs.unwrap_or_default()))
            })),
            News::Definition(kind, event) => self.heed_definition(kind, *event),
            News::Policy(kind, event) => self.heed_policy(kind, *event),
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
        if changed(&change) {
            self.resolved = None;
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
                self.sort_slices();
                // What happened meanwhile nobody has told.
                self.answers.clear();
                self.all_outdated();
            }
            Change::Nothing => {}
        }
        if changed(&change) && self.resolved.as_ref().is_some_and(|it| it.ask_services) {
            self.resolved = None;
        }
        changed(&change)
    }

    fn sort_slices(&mut self) {
        self.slices_of.clear();
        for (key, slice) in self.slices.iter() {
            let keys = self.slices_of.entry(slice.service.clone()).or_default();
            keys.insert(key.clone());
        }
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

    /// This node's.
    fn zone(&self) -> Option<&str> {
        self.nodes.get(&self.rules.node)?.zone.as_deref()
    }

    fn all_outdated(&mut self) {
        self.tables.clear();
        let all = self.services.iter().map(|(key, _)| key.clone());
        self.outdated.extend(all);
    }

    /// Who a pod makes be at one of its addresses.
    pub(super) fn who(&self, pod: &Pod, address: IpAddr) -> Who {
        let of_namespace = self.namespaces.get(&pod.namespace).copied();
        pod.at(address, of_namespace, &self.rules)
    }

    /// What the API server said of an address when it was asked.
    pub(super) fn answer(&mut self, address: IpAddr, who: Who, asked: Instant) {
        let asked = Some(asked);
        self.answers.insert(address, Seen { who, asked });
    }

    pub(super) fn hints(&self, address: IpAddr) -> Hints {
        let gives = |node: &Node| node.networks.0.iter().any(|net| net.contains(&address));
        let mut nodes = self.nodes.iter();
        Hints {
            pod: self.pod_at(address),
            node: nodes
                .find(|(_, node)| gives(node))
                .map(|(name, _)| name.clone()),
            of_node: (self.nodes.values()).any(|node| node.addresses.contains(&address)),
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
            && self.authorization.is_whole()
            && self.authentication.is_whole()
    }

    /// And has told it to this daemon, not to an earlier one.
    pub(super) fn is_told(&self) -> bool {
        self.pods.is_told()
            && self.namespaces.is_told()
            && self.services.is_told()
            && self.slices.is_told()
            && self.nodes.is_told()
            && self.networks.is_told()
            && (!self.rules.policies
                || self.authorization.definitions.is_told()
                    && self.authentication.definitions.is_told())
    }

    /// Answers that are not used any more, unless nobody could give new ones.
    pub(super) fn forget_old_answers(&mut self, now: Instant) {
        self.answers.retain(|_, seen| {
            let limit = match seen.who {
                Who::Workload(_) | Who::NotEnrolled(_) | Who::Node => FORGET,
                Who::Nobody => FORGET_NOBODY,
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
                own: self.own.clone(),
                ..Snapshot::default()
            };
        }
        let (services, policies) = (self.lookup_tables(), self.policies());
        let mut seen = self.answers.clone();
        for pod in self.pods.values() {
            for &address in &pod.addresses {
                let (who, asked) = (self.who(pod, address), None);
                match who {
                    Who::Workload(_) | Who::NotEnrolled(_) => {
                        drop(seen.insert(address, Seen { who, asked }));
                    }
                    // Asking tells more.
                    Who::Node | Who::Nobody => {}
                }
            }
        }
        let of_nodes = self.nodes.values().map(|node| &node.networks);
        let networks = of_nodes.chain(self.networks.values());
        let networks: BTreeSet<IpNet> = networks.flat_map(|Networks(all)| all).copied().collect();
        Snapshot {
            is_whole: true,
            is_told: self.is_told(),
            trouble,
            cluster: Arc::new(Cluster {
                answers: true,
                seen,
                services,
                networks: networks.into_iter().collect(),
            }),
            workloads: self.workloads(&policies),
            unfit: self.unfit(&policies),
            said_by: self.said_by(&policies),
            own: self.own.clone(),
            policies,
        }
    }

    /// Of the pods whose namespace is known, for what it says decides; in an
    /// order by which two lists can be compared.
    fn workloads(&self, policies: &Policies) -> Vec<crate::config::Workload> {
        let of = self.decided(policies);
        let workloads = of.filter_map(|(pod, decided)| pod.workload(decided, &self.rules));
        let mut workloads: Vec<_> = workloads.collect();
        workloads.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        workloads
    }

    fn unfit(&self, policies: &Policies) -> Vec<Unfit> {
        let of = self.decided(policies);
        of.filter_map(|(pod, decided)| pod.unfit(decided.mode, &self.rules))
            .collect()
    }

    fn said_by(&self, policies: &Policies) -> HashMap<String, SaidBy> {
        let of = self.decided(policies);
        of.map(|(pod, decided)| (pod.local_uid().to_owned(), decided.said_by))
            .collect()
    }

    fn decided<'a>(&'a self, policies: &'a Policies) -> impl Iterator<Item = (&'a Pod, Decided)> {
        let is_another = |pod: &Pod| self.pods.values().any(|other| pod.is_claimed_by(other));
        let pods = self.pods.values().filter(move |pod| !is_another(pod));
        pods.filter_map(|pod| {
            let of_namespace = self.namespaces.get(&pod.namespace)?;
            let of_objects = policies.authentication.get(&pod.full_name());
            Some((pod, pod.decided(*of_namespace, &self.rules, of_objects)))
        })
    }

    /// The pod that this node knows by that UID.
    pub(super) fn pod(&self, uid: &str) -> Option<PodRef> {
        let mut pods = self.pods.values();
        pods.find(|pod| pod.local_uid() == uid).map(Pod::reference)
    }

    fn lookup_tables(&mut self) -> HashMap<IpAddr, Arc<directory::Service>> {
        for key in std::mem::take(&mut self.outdated) {
            let Some(service) = self.services.get(&key) else {
                self.tables.remove(&key);
                continue;
            };
            let keys = self.slices_of.get(&key).into_iter().flatten();
            let slices = keys.filter_map(|key| self.slices.get(key));
            let at = Here {
                node: &self.rules.node,
                zone: self.zone(),
            };
            let table = service.table(slices, at);
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

impl Node {
    fn read(node: core::Node) -> Option<Self> {
        let cidrs = node.spec.and_then(|spec| spec.pod_cidrs);
        let addresses = node.status.and_then(|status| status.addresses);
        let addresses = addresses.unwrap_or_default();
        let labels = node.metadata.labels;
        Some(Self {
            zone: labels.and_then(|mut labels| labels.remove(ZONE)),
            networks: networks(&cidrs.unwrap_or_default()),
            // Names are among them.
            addresses: addresses
                .iter()
                .filter_map(|it| it.address.parse().ok())
                .collect(),
        })
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

fn networks(cidrs: &[String]) -> Networks {
    Networks(cidrs.iter().filter_map(|cidr| cidr.parse().ok()).collect())
}

#[cfg(test)]
mod tests;
