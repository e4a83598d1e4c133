//! Pods: which of them are enrolled, as whom, and with which exceptions.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1 as core;
use serde::{Deserialize, Serialize};

use crate::config::{self, IdTemplate, Mode, Place, SelectedBy, Selector, Source};
use crate::directory::Who;
use crate::spiffe::{SpiffeId, TrustDomain};

use super::policies::Candidate;
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
    /// Whether AuthorizationPolicies are read.
    pub policies: bool,
    pub root_namespace: String,
}

/// What matters of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pod {
    pub(super) namespace: String,
    name: String,
    pub(super) uid: String,
    service_account: String,
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
    /// What it would have.
    pub identity: SpiffeId,
    pub mode: Mode,
    pub why: String,
}

/// Who decides on a pod's mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SaidBy {
    /// Its own label or annotation.
    Pod,
    /// The label of its namespace.
    Namespace,
    /// Nobody, so that the node's default holds.
    Node,
}

impl SaidBy {
    pub const fn word(self) -> &'static str {
        match self {
            Self::Pod => "its label",
            Self::Namespace => "its namespace",
            Self::Node => "kubernetes.mode",
        }
    }
}

/// Parts of the names of runtime classes under which a pod's sockets are not
/// the host's.
const SANDBOXES: [&str; 3] = ["kata", "gvisor", "runsc"];

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

    /// By whose word it has its mode.
    pub(super) fn said_by(&self, of_namespace: Option<Mode>) -> SaidBy {
        match (self.mode, of_namespace) {
            (Some(_), _) => SaidBy::Pod,
            (None, Some(_)) => SaidBy::Namespace,
            (None, None) => SaidBy::Node,
        }
    }

    fn mode(&self, of_namespace: Option<Mode>, rules: &Rules) -> Mode {
        self.mode.or(of_namespace).unwrap_or(rules.mode)
    }

    /// Wanted to be enrolled, and cannot be.
    pub(super) fn unfit(&self, of_namespace: Option<Mode>, rules: &Rules) -> Option<Unfit> {
        let mode = self.mode(of_namespace, rules);
        if mode == Mode::Off || self.ended {
            return None;
        }
        let (namespace, account) = (&self.namespace, &self.service_account);
        let identity = rules.template.id(&rules.trust_domain, namespace, account);
        Some(Unfit {
            pod: self.reference(),
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

    /// As a workload of this node. `of_namespace` is what its namespace's
    /// label says.
    pub(super) fn workload(
        &self,
        of_namespace: Option<Mode>,
        rules: &Rules,
    ) -> Option<config::Workload> {
        let mode = self.mode(of_namespace, rules);
        if mode != Mode::Off && self.hidden().is_some() {
            return None;
        }
        Some(config::Workload {
            name: format!("{}/{}", self.namespace, self.name),
            spiffe_id: self.identity(rules)?,
            place: Place::Pod(self.uid.clone()),
            addresses: Vec::new(),
            mode: Some(mode),
            connect: None,
            source: self.source(rules),
            excluded: self.excluded.clone(),
            excluded_outbound_ports: self.excluded_outbound_ports.clone(),
            excluded_inbound_ports: self.excluded_inbound_ports.clone(),
            port_modes: Vec::new(),
            probe_ports: self.probe_ports.clone(),
        })
    }

    /// A SPIRE agent is asked by what its own attestor would have found out.
    fn source(&self, rules: &Rules) -> Option<Source> {
        let Some(Source::Spire(spire, SelectedBy::Name)) = &rules.source else {
            return None;
        };
        let selector = |value: String| Selector {
            kind: "k8s".to_owned(),
            value,
        };
        let selectors = [
            format!("ns:{}", self.namespace),
            format!("sa:{}", self.service_account),
            format!("pod-name:{}", self.name),
            format!("pod-uid:{}", self.uid),
            format!("node-name:{}", rules.node),
        ];
        let selectors = selectors.map(selector).to_vec();
        Some(Source::Spire(
            spire.clone(),
            SelectedBy::Selectors(selectors),
        ))
    }
}

impl Rules {
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
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::config::Spire;

    fn rules() -> Rules {
        Rules::for_tests()
    }

    fn pod(metadata: &Value, spec: &Value, status: &Value) -> Pod {
        let mut metadata = metadata.clone();
        for (key, value) in [("name", "web-1"), ("namespace", "shop"), ("uid", "u1")] {
            metadata[key] = value.into();
        }
        let object = json!({"metadata": metadata, "spec": spec, "status": status});
        Pod::read(serde_json::from_value(object).unwrap(), &rules()).unwrap()
    }

    fn plain() -> Value {
        json!({"containers": [], "serviceAccountName": "web"})
    }

    #[test]
    fn a_pod_is_its_service_account() {
        let status = json!({"podIPs": [{"ip": "10.0.1.4"}, {"ip": "fd00:1::4"}]});
        let pod = pod(&json!({}), &plain(), &status);
        let workload = pod.workload(Some(Mode::Strict), &rules()).unwrap();
        assert_eq!(workload.name, "shop/web-1");
        assert_eq!(
            workload.spiffe_id.as_str(),
            "spiffe://example.org/ns/shop/sa/web"
        );
        assert_eq!(workload.place, Place::Pod("u1".to_owned()));
        assert_eq!(pod.addresses.len(), 2);
    }

    #[test]
    fn the_narrowest_label_wins() {
        let mode_of = |metadata: &Value, namespace| {
            let pod = pod(metadata, &plain(), &json!({}));
            pod.workload(namespace, &rules()).unwrap().mode.unwrap()
        };
        let label = |mode| json!({"labels": {"mtls-daemon.io/mode": mode}});
        let annotation = json!({"annotations": {"mtls-daemon.io/mode": "strict"}});
        assert_eq!(mode_of(&json!({}), None), Mode::Off);
        assert_eq!(mode_of(&json!({}), Some(Mode::Strict)), Mode::Strict);
        assert_eq!(mode_of(&label("off"), Some(Mode::Strict)), Mode::Off);
        assert_eq!(mode_of(&label("strict"), Some(Mode::Off)), Mode::Strict);
        assert_eq!(mode_of(&annotation, Some(Mode::Off)), Mode::Strict);
        assert_eq!(mode_of(&label("permissive"), None), Mode::Permissive);
        let odd = pod(&label("lenient"), &plain(), &json!({}));
        assert!(odd.complaints[0].contains("write strict, permissive or off"));
    }

    #[test]
    fn exclusions_that_cannot_be_read_exclude_nothing() {
        let pod = pod(
            &json!({"annotations": {
                "mtls-daemon.io/excluded-inbound-ports": "8081, http, 9100",
                "mtls-daemon.io/excluded-outbound-ports": "99999",
                "mtls-daemon.io/excluded-networks": "10.9.0.0/16,fd09::/64",
            }}),
            &plain(),
            &json!({}),
        );
        let workload = pod.workload(None, &rules()).unwrap();
        assert_eq!(workload.excluded_inbound_ports, [8081, 9100]);
        assert_eq!(workload.excluded_outbound_ports, [0; 0]);
        assert_eq!(workload.excluded.len(), 2);
        assert_eq!(pod.complaints.len(), 2);
    }

    #[test]
    fn neither_the_nodes_own_pods_nor_ended_ones_have_an_identity() {
        let host = json!({"containers": [], "hostNetwork": true});
        assert_eq!(pod(&json!({}), &host, &json!({})).identity(&rules()), None);
        for phase in ["Succeeded", "Failed"] {
            let ended = pod(&json!({}), &plain(), &json!({"phase": phase}));
            assert_eq!(ended.identity(&rules()), None);
        }
        let at = |phase: &str| {
            let status = json!({"phase": phase, "podIPs": [{"ip": "192.0.2.7"}]});
            let pod = pod(&json!({}), &host, &status);
            pod.at("192.0.2.7".parse().unwrap(), Some(None), &rules())
        };
        assert_eq!([at("Running"), at("Failed")], [Who::Node, Who::Nobody]);
        let nameless = json!({"containers": []});
        let id = pod(&json!({}), &nameless, &json!({})).identity(&rules());
        assert!(id.unwrap().as_str().ends_with("/sa/default"));
    }

    #[test]
    fn a_pod_is_known_to_have_no_daemon_by_labels_alone() {
        let status = json!({"podIPs": [{"ip": "10.0.1.4"}]});
        let is_off = |labels: Value, namespace| {
            let metadata = json!({"labels": labels});
            let pod = pod(&metadata, &plain(), &status);
            let who = pod.at("10.0.1.4".parse().unwrap(), namespace, &rules());
            assert!(who.identity().is_some(), "{who:?}");
            matches!(who, Who::NotEnrolled(_))
        };
        let off = json!({"mtls-daemon.io/mode": "off"});
        let on = json!({"mtls-daemon.io/mode": "permissive"});
        assert!(is_off(json!({}), Some(None)), "by default");
        assert!(is_off(json!({}), Some(Some(Mode::Off))));
        assert!(is_off(off.clone(), Some(Some(Mode::Strict))));
        assert!(is_off(off, None), "its own label is enough");
        assert!(!is_off(json!({}), None), "its namespace may say anything");
        assert!(!is_off(json!({}), Some(Some(Mode::Permissive))));
        assert!(!is_off(on, Some(Some(Mode::Off))));
    }

    #[test]
    fn what_the_hooks_cannot_see_is_not_enrolled_and_says_why() {
        let host = json!({"containers": [], "hostNetwork": true});
        let kata = json!({"containers": [], "runtimeClassName": "kata-qemu"});
        let plain = json!({"containers": [], "runtimeClassName": "nvidia"});
        for (spec, said) in [(host, "hostNetwork"), (kata, "kata-qemu")] {
            let pod = pod(&json!({}), &spec, &json!({}));
            let unfit = pod.unfit(Some(Mode::Strict), &rules()).unwrap();
            assert!(unfit.why.contains(said), "{}", unfit.why);
            assert_eq!(unfit.pod.uid, "u1");
            assert_eq!(pod.workload(Some(Mode::Strict), &rules()), None);
            assert_eq!(pod.unfit(None, &rules()), None, "nobody wanted it");
        }
        let plain = pod(&json!({}), &plain, &json!({}));
        assert_eq!(plain.unfit(Some(Mode::Strict), &rules()), None);
        assert!(plain.workload(Some(Mode::Strict), &rules()).is_some());
    }

    #[test]
    fn an_agent_is_asked_by_the_pods_selectors() {
        let spire = Spire {
            socket: "/run/spire.sock".into(),
        };
        let rules = Rules {
            source: Some(Source::Spire(spire, SelectedBy::Name)),
            ..rules()
        };
        let workload = pod(&json!({}), &plain(), &json!({})).workload(None, &rules);
        let Some(Source::Spire(_, SelectedBy::Selectors(selectors))) = workload.unwrap().source
        else {
            panic!("no selectors");
        };
        let selectors: Vec<String> = selectors.iter().map(ToString::to_string).collect();
        assert!(selectors.contains(&"k8s:ns:shop".to_owned()));
        assert!(selectors.contains(&"k8s:sa:web".to_owned()));
        assert!(selectors.contains(&"k8s:pod-uid:u1".to_owned()));
    }
}
