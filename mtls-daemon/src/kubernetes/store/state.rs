//! What a store holds, as it is saved for the next daemon.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::super::crd::Served;
use super::super::kept::Kept;
use super::super::pods::{Pod, Rules};
use super::super::policies::Object;
use super::super::services::{Service, Slice};
use super::guard::Istio;
use super::{Networks, Node, Store};
use crate::config::Mode;
use crate::directory::{Seen, Who};

/// What objects were read by. Under other rules they would have been read as
/// something else.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct ReadBy {
    node: String,
    trust_domain: String,
    spiffe_path: String,
    label_prefix: String,
    policies: bool,
}

#[derive(Serialize)]
struct Written<'a> {
    read_by: ReadBy,
    pods: &'a HashMap<String, Pod>,
    namespaces: &'a HashMap<String, Option<Mode>>,
    services: &'a HashMap<String, Service>,
    slices: &'a HashMap<String, Slice>,
    nodes: &'a HashMap<String, Node>,
    networks: &'a HashMap<String, Networks>,
    policy_definitions: &'a HashMap<String, Served>,
    policies: &'a HashMap<String, Object>,
    authentication_definitions: &'a HashMap<String, Served>,
    authentications: &'a HashMap<String, Object>,
    answers: HashMap<IpAddr, Answer>,
}

/// The same when it is read.
#[derive(Deserialize)]
struct Known {
    read_by: ReadBy,
    pods: HashMap<String, Pod>,
    namespaces: HashMap<String, Option<Mode>>,
    services: HashMap<String, Service>,
    slices: HashMap<String, Slice>,
    nodes: HashMap<String, Node>,
    networks: HashMap<String, Networks>,
    policy_definitions: HashMap<String, Served>,
    policies: HashMap<String, Object>,
    authentication_definitions: HashMap<String, Served>,
    authentications: HashMap<String, Object>,
    answers: HashMap<IpAddr, Answer>,
}

#[derive(Serialize, Deserialize)]
enum Answer {
    Workload(String),
    NotEnrolled(String),
    Node,
}

/// Why a saved state is not one.
#[derive(Debug, PartialEq, Eq)]
pub(in super::super) enum NotKnown {
    OtherRules,
    Unreadable(String),
}

impl Store {
    pub(in super::super) fn saved(&self) -> Vec<u8> {
        let answers = self.answers.iter().filter_map(|(address, seen)| {
            let answer = match &seen.who {
                Who::Workload(id) => Answer::Workload(id.as_str().to_owned()),
                Who::NotEnrolled(id) => Answer::NotEnrolled(id.as_str().to_owned()),
                Who::Node => Answer::Node,
                Who::Nobody => return None,
            };
            Some((*address, answer))
        });
        let written = Written {
            read_by: ReadBy::of(&self.rules),
            pods: self.pods.now(),
            namespaces: self.namespaces.now(),
            services: self.services.now(),
            slices: self.slices.now(),
            nodes: self.nodes.now(),
            networks: self.networks.now(),
            policy_definitions: self.authorization.definitions.now(),
            policies: self.authorization.objects.now(),
            authentication_definitions: self.authentication.definitions.now(),
            authentications: self.authentication.objects.now(),
            answers: answers.collect(),
        };
        serde_json::to_vec(&written).expect("texts and numbers, by keys that are texts")
    }

    /// A store that knows what an earlier one knew, of the pods only those
    /// that `are_here`, by their UIDs.
    pub(in super::super) fn known(
        rules: Rules,
        saved: &[u8],
        now: Instant,
        are_here: impl FnOnce(Vec<&str>) -> HashSet<String>,
    ) -> Result<Self, NotKnown> {
        let unreadable = |error: String| NotKnown::Unreadable(error);
        let mut known: Known =
            serde_json::from_slice(saved).map_err(|error| unreadable(error.to_string()))?;
        if known.read_by != ReadBy::of(&rules) {
            return Err(NotKnown::OtherRules);
        }
        let here = are_here(known.pods.values().map(Pod::local_uid).collect());
        known.pods.retain(|_, pod| here.contains(pod.local_uid()));
        let mut answers = HashMap::new();
        for (address, answer) in known.answers {
            let id = |id: String| {
                let id = id.parse();
                id.map_err(|error| unreadable(format!("{address}: {error}")))
            };
            let who = match answer {
                Answer::Workload(name) => Who::Workload(id(name)?),
                Answer::NotEnrolled(name) => Who::NotEnrolled(id(name)?),
                Answer::Node => Who::Node,
            };
            let asked = Some(now);
            answers.insert(address, Seen { who, asked });
        }
        let mut store = Self {
            pods: Kept::known(known.pods),
            namespaces: Kept::known(known.namespaces),
            services: Kept::known(known.services),
            slices: Kept::known(known.slices),
            nodes: Kept::known(known.nodes),
            networks: Kept::known(known.networks),
            authorization: Istio {
                definitions: Kept::known(known.policy_definitions),
                objects: Kept::known(known.policies),
            },
            authentication: Istio {
                definitions: Kept::known(known.authentication_definitions),
                objects: Kept::known(known.authentications),
            },
            answers,
            ..Self::new(rules)
        };
        store.sort_slices();
        store.all_outdated();
        Ok(store)
    }
}

impl ReadBy {
    fn of(rules: &Rules) -> Self {
        Self {
            node: rules.node.clone(),
            trust_domain: rules.trust_domain.as_str().to_owned(),
            spiffe_path: rules.template.to_string(),
            label_prefix: rules.label_prefix.clone(),
            policies: rules.policies,
        }
    }
}
