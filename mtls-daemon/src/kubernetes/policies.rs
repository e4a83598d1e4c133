//! AuthorizationPolicies and PeerAuthentications of Istio's API, as policies
//! and modes for this node's pods.

pub(super) mod authentication;
mod read;
mod rules;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::core::DynamicObject;
use serde::{Deserialize, Serialize};

use crate::config::{AuthorizationPolicy, Scope};
use crate::spiffe::TrustDomain;

pub(super) use authentication::Authentication;
pub use read::Standing;
use read::{Effect, Said, Selects};

pub(super) const GROUP: &str = "security.istio.io";

/// The kinds that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    AuthorizationPolicy,
    PeerAuthentication,
}

impl Kind {
    pub const ALL: [Self; 2] = [Self::AuthorizationPolicy, Self::PeerAuthentication];

    pub fn word(self) -> &'static str {
        match self {
            Self::AuthorizationPolicy => "AuthorizationPolicy",
            Self::PeerAuthentication => "PeerAuthentication",
        }
    }

    pub(super) fn plural(self) -> &'static str {
        match self {
            Self::AuthorizationPolicy => "authorizationpolicies",
            Self::PeerAuthentication => "peerauthentications",
        }
    }

    /// The name of its CustomResourceDefinition.
    pub(super) fn definition(self) -> &'static str {
        match self {
            Self::AuthorizationPolicy => "authorizationpolicies.security.istio.io",
            Self::PeerAuthentication => "peerauthentications.security.istio.io",
        }
    }
}

/// An object as it is kept: what it says stays text until pods of this node
/// want to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Object {
    namespace: String,
    name: String,
    uid: String,
    /// In seconds of the epoch: of PeerAuthentications the oldest counts.
    created: i64,
    /// The annotation `istio.io/dry-run`.
    dry_run: Option<String>,
    /// In JSON.
    spec: Box<str>,
}

/// How this node reads objects.
#[derive(Clone, Debug)]
pub(super) struct Reading {
    /// Whose objects speak of every namespace's pods.
    pub(super) root_namespace: String,
    pub(super) trust_domain: TrustDomain,
    /// Whether pods' SPIFFE IDs name namespace and account where Istio's do.
    pub(super) paths_as_istio: bool,
}

/// A pod of this node, as objects select it.
#[derive(Clone, Copy)]
pub(super) struct Candidate<'a> {
    pub(super) namespace: &'a str,
    pub(super) name: &'a str,
    pub(super) labels: &'a BTreeMap<String, String>,
}

/// What the objects say for this node's pods.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policies {
    pub in_force: Vec<AuthorizationPolicy>,
    /// By NAMESPACE/POD.
    pub(super) authentication: HashMap<String, Authentication>,
    /// Every object that selects a pod of this node.
    pub notes: Vec<Note>,
    /// Whether Services are asked who stands behind them.
    pub(super) ask_services: bool,
}

/// How an object is taken.
#[derive(Clone, Debug, PartialEq)]
pub struct Note {
    pub kind: Kind,
    /// NAMESPACE/NAME
    pub name: String,
    pub standing: Standing,
    /// What of it is not judged as it is written.
    pub complaints: Vec<String>,
    pub(super) object: ObjectReference,
}

impl Object {
    pub(super) fn read(object: DynamicObject) -> Option<Self> {
        let metadata = object.metadata;
        let mut annotations = metadata.annotations.unwrap_or_default();
        let created = metadata.creation_timestamp;
        let spec = object.data.get("spec");
        Some(Self {
            namespace: metadata.namespace?,
            name: metadata.name?,
            uid: metadata.uid?,
            created: created.map_or(0, |at| at.0.as_second()),
            dry_run: annotations.remove("istio.io/dry-run"),
            // Without one a policy allows nobody, and no mode is said.
            spec: spec.map_or_else(|| "{}".into(), |spec| spec.to_string().into()),
        })
    }

    fn reference(&self, kind: Kind, version: &str) -> ObjectReference {
        ObjectReference {
            api_version: Some(format!("{GROUP}/{version}")),
            kind: Some(kind.word().to_owned()),
            namespace: Some(self.namespace.clone()),
            name: Some(self.name.clone()),
            uid: Some(self.uid.clone()),
            ..ObjectReference::default()
        }
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl Candidate<'_> {
    /// As workloads are called.
    fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    fn is_selected(&self, object: &Object, labels: &[(String, String)], reading: &Reading) -> bool {
        let everywhere = object.namespace == reading.root_namespace;
        (everywhere || self.namespace == object.namespace)
            && (labels.iter()).all(|(key, value)| self.labels.get(key) == Some(value))
    }
}

/// What AuthorizationPolicies say for `pods`. `version` is the API's, and `behind` who
/// stands behind a Service, `NAMESPACE/NAME`.
pub(super) fn resolve<'a>(
    objects: impl Iterator<Item = &'a Object>,
    pods: &[Candidate<'_>],
    reading: &Reading,
    version: &str,
    behind: impl Fn(&str) -> BTreeSet<String>,
) -> Policies {
    let mut policies = Policies::default();
    let namespaces: BTreeSet<&str> = pods.iter().map(|pod| pod.namespace).collect();
    let mut objects: Vec<&Object> = objects
        .filter(|object| {
            object.namespace == reading.root_namespace
                || namespaces.contains(object.namespace.as_str())
        })
        .collect();
    objects.sort_unstable_by_key(|object| (&object.namespace, &object.name));
    for object in objects {
        let Said {
            selects,
            effect,
            standing,
            complaints,
        } = read::read(object, reading);
        policies.ask_services |= matches!(selects, Selects::Services(_));
        let selected = selected(object, &selects, pods, reading, &behind);
        if selected.is_empty() {
            continue;
        }
        let name = object.to_string();
        policies.notes.push(Note {
            kind: Kind::AuthorizationPolicy,
            name: name.clone(),
            standing,
            complaints,
            object: object.reference(Kind::AuthorizationPolicy, version),
        });
        policies.in_force.extend(effect.map(
            |Effect {
                 action,
                 dry_run,
                 rules,
             }| AuthorizationPolicy {
                name,
                action,
                dry_run,
                workloads: Scope::Pods(selected),
                rules,
                written: read::written(object),
            },
        ));
    }
    policies
}

fn selected(
    object: &Object,
    selects: &Selects,
    pods: &[Candidate<'_>],
    reading: &Reading,
    behind: &impl Fn(&str) -> BTreeSet<String>,
) -> BTreeSet<String> {
    match selects {
        Selects::Labels(labels) => (pods.iter())
            .filter(|pod| pod.is_selected(object, labels, reading))
            .map(Candidate::full_name)
            .collect(),
        Selects::Services(services) => services
            .iter()
            .flat_map(|service| behind(&format!("{}/{service}", object.namespace)))
            .collect(),
    }
}
