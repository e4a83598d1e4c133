//! What a store makes of the AuthorizationPolicies that it is told.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use kube::core::DynamicObject;
use kube::runtime::watcher::Event;

use super::super::crd::Served;
use super::super::kept::Kept;
use super::super::policies::{self, Candidate, Object, Policies, Reading};
use super::{Pod, Store, changed, key};

impl Store {
    /// The version of their API to watch; `None`: there are none.
    pub(in super::super) fn served_policies(&self) -> Option<&str> {
        self.definitions.values().find_map(|served| match served {
            Served::Version(version) => Some(version.as_str()),
            Served::NotYet => None,
        })
    }

    pub(super) fn heed_definition(&mut self, event: Event<DynamicObject>) -> bool {
        let read = |object: DynamicObject| Some(Served::read(&object.data));
        let change = self.definitions.heed(event, key, read);
        // Objects end with their definition.
        if self.definitions.is_whole() && self.definitions.now().is_empty() {
            self.policies = Kept::known(HashMap::new());
        }
        if changed(&change) {
            self.resolved = None;
        }
        changed(&change)
    }

    pub(super) fn heed_policy(&mut self, event: Event<DynamicObject>) -> bool {
        // Of a watch that has ended.
        if self.served_policies().is_none() {
            return false;
        }
        let change = self.policies.heed(event, key, Object::read);
        if changed(&change) {
            self.resolved = None;
        }
        changed(&change)
    }

    /// For the pods of this node.
    pub(super) fn policies(&mut self) -> Arc<Policies> {
        if let Some(resolved) = &self.resolved {
            return Arc::clone(resolved);
        }
        let pods: Vec<Candidate<'_>> = self.pods.values().filter_map(Pod::candidate).collect();
        let reading = Reading {
            root_namespace: self.rules.root_namespace.clone(),
            trust_domain: self.rules.trust_domain.clone(),
            paths_as_istio: self.rules.template.is_as_istios(),
        };
        let version = self.served_policies().unwrap_or_default();
        let objects = self.policies.values();
        let behind = |service: &str| self.own_pods_behind(service);
        let resolved = policies::resolve(objects, &pods, &reading, version, behind);
        let resolved = Arc::new(resolved);
        self.resolved = Some(Arc::clone(&resolved));
        resolved
    }

    /// As NAMESPACE/POD.
    fn own_pods_behind(&self, service: &str) -> BTreeSet<String> {
        let keys = self.slices_of.get(service).into_iter().flatten();
        let slices = keys.filter_map(|key| self.slices.get(key));
        let pods = slices
            .flat_map(|slice| &slice.endpoints)
            .filter_map(|endpoint| endpoint.pod.as_ref());
        let names = pods.map(|pod| format!("{}/{}", pod.namespace, pod.name));
        names
            .filter(|name| {
                self.pods
                    .get(name)
                    .is_some_and(|pod| pod.candidate().is_some())
            })
            .collect()
    }
}
