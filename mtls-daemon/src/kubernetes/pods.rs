//! Pods: which of them are enrolled, as whom, and with which exceptions.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::api::core::v1 as core;
use serde::{Deserialize, Serialize};

use crate::config::{self, Config, IdTemplate, IstioPolicies, Mode, Place, PortMode, Source};
use crate::directory::Who;
use crate::spiffe::{SpiffeId, TrustDomain};

use super::issuing;
use super::policies::authentication::Word;
use super::policies::{Authentication, Candidate};
use super::services::PodRef;

use super::probes;

/// How this node reads what it is told of pods.
#[derive(Clone, Debug)]
pub struct Rules {
    /// The node's name.
    pub node: String,
    pub trust_domain: TrustDomain,
    pub template: IdTemplate,
    pub label_prefix: String,
    /// Of pods of which no label speaks.
    pub mode: Mode,
    /// Of the node's source, where it asks for each workload by selectors.
    pub source: Option<Source>,
    /// Whether AuthorizationPolicies and PeerAuthentications are read.
    pub policies: bool,
    pub root_namespace: String,
}

/// What matters of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pod {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
    /// Of a static pod, of which the API server has a mirror only: the UID by
    /// which its kubelet and the cgroups know it.
    #[serde(default)]
    mirrored: Option<String>,
    /// In seconds since 1970.
    #[serde(default)]
    created: i64,
    pub(super) service_account: String,
    pub(super) addresses: Vec<IpAddr>,
    labels: BTreeMap<String, String>,
    /// It has no network namespace of its own.
    host_network: bool,
    runtime_class: Option<String>,
    /// Nothing of it runs any more, and its addresses may be another's.
    ended: bool,
    mode: Option<Mode>,
    #[serde(with = "super::text")]
    excluded: Vec<IpNet>,
    excluded_outbound_ports: Vec<u16>,
    excluded_inbound_ports: Vec<u16>,
    probe_ports: Vec<u16>,
    /// What of its labels and annotations cannot be understood.
    pub(super) complaints: Vec<String>,
}

/// A pod of this node that should be enrolled, and why it cannot be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfit {
    pub pod: PodRef,
    /// By which the node knows it.
    pub local_uid: String,
    /// What it would have.
    pub identity: SpiffeId,
    pub mode: Mode,
    pub why: String,
}

/// A pod's mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Decided {
    pub(super) mode: Mode,
    pub(super) said_by: SaidBy,
    /// What is said of single ports.
    ports: Vec<PortMode>,
}

/// Who decides on a pod's mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SaidBy {
    /// Its own label or annotation.
    Pod,
    /// A PeerAuthentication, KIND NAMESPACE/NAME.
    Object(Arc<str>),
    /// The label of its namespace.
    Namespace,
    /// Nobody, so that the node's default holds.
    Node,
}

impl SaidBy {
    pub fn word(&self) -> &str {
        match self {
            Self::Pod => "its label",
            Self::Object(name) => name,
            Self::Namespace => "its namespace",
            Self::Node => "kubernetes.mode",
        }
    }
}

/// Parts of the names of runtime classes under which a pod's sockets are not
/// the host's.
const SANDBOXES: [&str; 3] = ["kata", "gvisor", "runsc"];

/// What a kubelet writes at the mirror of a static pod: the pod's own UID.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// Whether a kubelet has given a static pod that UID: no object's UID is like
/// it, so that nobody can claim another's pod.
fn is_static(uid: &str) -> bool {
    let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    uid.len() == 32 && uid.bytes().all(is_hex)
}

impl Pod {
    pub(super) fn read(pod: core::Pod, rules: &Rules) -> Option<Self> {
        let metadata = pod.metadata;
        let (spec, status) = (pod.spec?, pod.status.unwrap_or_default());
        let labels = metadata.labels.unwrap_or_default();
        let annotations = metadata.annotations.unwrap_or_default();
        let mut complaints = Vec::new();
        let mode = [&labels, &annotations]
            .into_iter()
            .find_map(|said| mode(said, rules, &mut complaints));
        let addresses = status.pod_ips.unwrap_or_default();
        let list = |name: &str| (rules.key(name), annotations.get(&rules.key(name)).cloned());
        let excluded = items(list("excluded-networks"), &mut complaints);
        let outbound = items(list("excluded-outbound-ports"), &mut complaints);
        let inbound = items(list("excluded-inbound-ports"), &mut complaints);
        let probe_ports = probes::ports(&spec);
        Some(Self {
            namespace: metadata.namespace?,
            name: metadata.name?,
            uid: metadata.uid?,
            mirrored: annotations.get(MIRROR).filter(|it| is_static(it)).cloned(),
            created: (metadata.creation_timestamp).map_or(i64::MAX, |at| at.0.as_second()),
            service_account: spec
                .service_account_name
                .unwrap_or_else(|| "default".to_owned()),
            labels,
            addresses: addresses
                .iter()
                .filter_map(|it| it.ip.parse().ok())
                .collect(),
            host_network: spec.host_network.unwrap_or(false),
            runtime_class: spec.runtime_class_name,
            ended: matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")),
            mode,
            excluded,
            excluded_outbound_ports: outbound,
            excluded_inbound_ports: inbound,
            probe_ports,
            complaints,
        })
    }

    /// As policies select it, if it can be one of this node's workloads.
    pub(super) fn candidate(&self) -> Option<Candidate<'_>> {
        let is_one = !self.host_network && !self.ended;
        is_one.then_some(Candidate {
            namespace: &self.namespace,
            name: &self.name,
            labels: &self.labels,
        })
    }

    /// Why the hooks cannot see its connections, if they cannot.
    fn hidden(&self) -> Option<String> {
        if self.host_network {
            let why = "a pod with hostNetwork has no network namespace of its own";
            return Some(why.to_owned());
        }
        let class = self.runtime_class.as_deref()?;
        let is_sandbox = SANDBOXES.iter().any(|sandbox| class.contains(sandbox));
        is_sandbox
            .then(|| format!("its runtime class {class} keeps its sockets in a kernel of its own"))
    }

    /// Its mode, by the narrowest word. Labels say whether it is enrolled, for
    /// other nodes see no more of it; of what is enrolled objects may decide.
    pub(super) fn decided(
        &self,
        of_namespace: Option<Mode>,
        rules: &Rules,
        objects: Option<&Authentication>,
    ) -> Decided {
        let own = self.mode.map(|mode| (mode, SaidBy::Pod));
        let label = of_namespace.map(|mode| (mode, SaidBy::Namespace));
        let default = (rules.mode, SaidBy::Node);
        let enrolled = self.mode(of_namespace, rules) != Mode::Off;
        let objects = objects.filter(|_| enrolled);
        let said = |word: fn(&Authentication) -> Option<Word>| {
            let (mode, name) = objects.and_then(word)?;
            Some((mode, SaidBy::Object(name)))
        };
        let (mode, said_by) = own
            .or_else(|| said(Authentication::selecting))
            .or_else(|| said(Authentication::of_namespace))
            .or(label)
            .or_else(|| said(Authentication::mesh_wide))
            .unwrap_or(default);
        Decided {
            mode,
            said_by,
            ports: objects.map_or_else(Vec::new, |objects| objects.ports().to_vec()),
        }
    }

    /// By which this node's kubelet, container runtime and cgroups know it.
    pub(super) fn local_uid(&self) -> &str {
        self.mirrored.as_ref().unwrap_or(&self.uid)
    }

    /// Whether the other says it is the same static pod, and said so first:
    /// anybody who may make pods can write what a kubelet writes.
    pub(super) fn is_claimed_by(&self, other: &Self) -> bool {
        let age = |pod: &Self| (pod.created, pod.full_name());
        self.mirrored.is_some() && self.mirrored == other.mirrored && age(other) < age(self)
    }

    /// As workloads are called.
    pub(super) fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// By labels alone.
    fn mode(&self, of_namespace: Option<Mode>, rules: &Rules) -> Mode {
        self.mode.or(of_namespace).unwrap_or(rules.mode)
    }

    /// Wanted to be enrolled, and cannot be.
    pub(super) fn unfit(&self, mode: Mode, rules: &Rules) -> Option<Unfit> {
        if mode == Mode::Off || self.ended {
            return None;
        }
        let (namespace, account) = (&self.namespace, &self.service_account);
        let identity = rules.template.id(&rules.trust_domain, namespace, account);
        Some(Unfit {
            pod: self.reference(),
            local_uid: self.local_uid().to_owned(),
            identity: identity.ok()?,
            mode,
            why: self.hidden()?,
        })
    }

    /// By which others in the cluster know it.
    pub(super) fn reference(&self) -> PodRef {
        PodRef {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            uid: self.uid.clone(),
        }
    }

    /// Whose its addresses are; `None` if they are nobody's, or the node's.
    pub(super) fn identity(&self, rules: &Rules) -> Option<SpiffeId> {
        if self.host_network || self.ended {
            return None;
        }
        let (namespace, account) = (&self.namespace, &self.service_account);
        rules
            .template
            .id(&rules.trust_domain, namespace, account)
            .ok()
    }

    /// Who it makes be at `address`. What is said of a namespace that is not
    /// known may be anything, so the pod counts as enrolled.
    pub(super) fn at(
        &self,
        address: IpAddr,
        of_namespace: Option<Option<Mode>>,
        rules: &Rules,
    ) -> Who {
        if self.ended || !self.addresses.contains(&address) {
            return Who::Nobody;
        }
        let mode = match of_namespace {
            Some(of_namespace) => Some(self.mode(of_namespace, rules)),
            None => self.mode,
        };
        match self.identity(rules) {
            Some(id) if mode == Some(Mode::Off) => Who::NotEnrolled(id),
            Some(id) => Who::Workload(id),
            None if self.host_network => Who::Node,
            None => Who::Nobody,
        }
    }

    /// As a workload of this node.
    pub(super) fn workload(&self, decided: Decided, rules: &Rules) -> Option<config::Workload> {
        let Decided { mode, ports, .. } = decided;
        if mode != Mode::Off && self.hidden().is_some() {
            return None;
        }
        Some(config::Workload {
            name: self.full_name(),
            spiffe_id: self.identity(rules)?,
            place: Place::Pod(self.local_uid().to_owned()),
            addresses: Vec::new(),
            mode: Some(mode),
            connect: None,
            source: issuing::source(self, rules),
            excluded: self.excluded.clone(),
            excluded_outbound_ports: self.excluded_outbound_ports.clone(),
            excluded_inbound_ports: self.excluded_inbound_ports.clone(),
            port_modes: ports,
            probe_ports: self.probe_ports.clone(),
        })
    }
}

impl Rules {
    pub(super) fn of(kubernetes: &config::Kubernetes, config: &Config) -> Self {
        Self {
            node: kubernetes.node.clone(),
            trust_domain: config.identity.trust_domain.clone(),
            template: kubernetes.spiffe_path.clone(),
            label_prefix: kubernetes.label_prefix.clone(),
            mode: kubernetes.mode,
            source: config.identity.source.clone(),
            policies: kubernetes.istio_policies == IstioPolicies::Read,
            root_namespace: kubernetes.istio_root_namespace.clone(),
        }
    }

    fn key(&self, name: &str) -> String {
        format!("{}/{name}", self.label_prefix)
    }
}

/// What a namespace's or a pod's labels say. A word that is not known means
/// strict: whoever wrote it wanted something.
pub(super) fn mode(
    said: &BTreeMap<String, String>,
    rules: &Rules,
    complaints: &mut Vec<String>,
) -> Option<Mode> {
    let key = rules.key("mode");
    let word = said.get(&key)?;
    Some(match word.as_str() {
        "off" | "DISABLE" => Mode::Off,
        "permissive" | "PERMISSIVE" => Mode::Permissive,
        "strict" | "STRICT" => Mode::Strict,
        other => {
            complaints.push(format!(
                "{key}: {other:?} is no mode, taken as strict: write strict, permissive or off"
            ));
            Mode::Strict
        }
    })
}

/// Items with commas between them. One that is wrong excludes nothing.
fn items<T: FromStr>(
    (key, list): (String, Option<String>),
    complaints: &mut Vec<String>,
) -> Vec<T> {
    let list = list.unwrap_or_default();
    let words = list
        .split(',')
        .map(str::trim)
        .filter(|word| !word.is_empty());
    let mut read = Vec::new();
    for word in words {
        match word.parse() {
            Ok(item) => read.push(item),
            Err(_) => complaints.push(format!(
                "{key}: {word:?} excludes nothing: write ports such as 8081, or networks such as 10.9.0.0/16"
            )),
        }
    }
    read
}

#[cfg(test)]
impl Rules {
    pub(super) fn for_tests() -> Self {
        Self {
            node: "a".to_owned(),
            trust_domain: "example.org".parse().unwrap(),
            template: IdTemplate::parse("/ns/{namespace}/sa/{service_account}").unwrap(),
            label_prefix: "mtls-daemon.io".to_owned(),
            mode: Mode::Off,
            source: None,
            policies: true,
            root_namespace: "istio-system".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests;
