//! What a store makes of the objects of Istio's API that it is told.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use kube::core::DynamicObject;
use kube::runtime::watcher::Event;

use super::super::crd::Served;
use super::super::kept::Kept;
use super::super::policies::{self, Candidate, Kind, Object, Policies, Reading, authentication};
use super::{Pod, Store, changed, key};

/// Those of one kind, and whether there can be any.
#[derive(Debug)]
pub(super) struct Istio {
    pub(super) definitions: Kept<Served>,
    pub(super) objects: Kept<Object>,
}

impl Istio {
    pub(super) fn new(is_read: bool) -> Self {
        match is_read {
            true => Self {
                definitions: Kept::default(),
                objects: Kept::default(),
            },
            // What is not read is known not to be there.
            false => Self {
                definitions: Kept::known(HashMap::new()),
                objects: Kept::known(HashMap::new()),
            },
        }
    }

    pub(super) fn is_whole(&self) -> bool {
        self.definitions.is_whole() && self.objects.is_whole()
    }

    /// The version of their API to watch; `None`: there are none.
    fn served(&self) -> Option<&str> {
        self.definitions.values().find_map(|served| match served {
            Served::Version(version) => Some(version.as_str()),
            Served::NotYet => None,
        })
    }
}

impl Store {
    pub(in super::super) fn served(&self, kind: Kind) -> Option<&str> {
        self.istio(kind).served()
    }

    fn istio(&self, kind: Kind) -> &Istio {
        match kind {
            Kind::AuthorizationPolicy => &self.authorization,
            Kind::PeerAuthentication => &self.authentication,
        }
    }

    fn istio_mut(&mut self, kind: Kind) -> &mut Istio {
        match kind {
            Kind::AuthorizationPolicy => &mut self.authorization,
            Kind::PeerAuthentication => &mut self.authentication,
        }
    }

    pub(super) fn heed_definition(&mut self, kind: Kind, event: Event<DynamicObject>) -> bool {
        let read = |object: DynamicObject| Some(Served::read(&object.data));
        let istio = self.istio_mut(kind);
        let change = istio.definitions.heed(event, key, read);
        // Objects end with their definition.
        if istio.definitions.is_whole() && istio.definitions.now().is_empty() {
            istio.objects = Kept::known(HashMap::new());
        }
        if changed(&change) {
            self.resolved = None;
        }
        changed(&change)
    }

    pub(super) fn heed_policy(&mut self, kind: Kind, event: Event<DynamicObject>) -> bool {
        let istio = self.istio_mut(kind);
        // Of a watch that has ended.
        if istio.served().is_none() {
            return false;
        }
        let change = istio.objects.heed(event, key, Object::read);
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
        let version = |kind| self.served(kind).unwrap_or_default();
        let objects = self.authorization.objects.values();
        let behind = |service: &str| self.own_pods_behind(service);
        let of_policies = version(Kind::AuthorizationPolicy);
        let mut resolved = policies::resolve(objects, &pods, &reading, of_policies, behind);
        let objects = self.authentication.objects.values();
        let of_modes = version(Kind::PeerAuthentication);
        let (modes, notes) = authentication::resolve(objects, &pods, &reading, of_modes);
        resolved.authentication = modes;
        resolved.notes.extend(notes);
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
