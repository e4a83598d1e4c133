//! Objects of Istio's API, watched while the cluster serves them.

use std::collections::BTreeMap;

use kube::Client;
use kube::runtime::watcher;
use tokio::task::{AbortHandle, spawn_local};

use super::crd;
use super::policies::Kind;
use super::store::{News, Store};
use super::watch::{self, Missing, Teller};

pub(super) struct Watches {
    client: Client,
    tell: Teller,
    /// The version of their API, and who watches them.
    now: BTreeMap<Kind, (String, AbortHandle)>,
}

impl Watches {
    /// Of nothing yet but, if they are `wanted`, the definitions.
    pub(super) fn start(client: &Client, tell: Teller, wanted: bool) -> Self {
        for kind in Kind::ALL.into_iter().filter(|_| wanted) {
            let definition = format!("metadata.name={}", kind.definition());
            spawn_local(watch::objects(
                kind.definition(),
                crd::definitions(client),
                watcher::Config::default().fields(&definition),
                Missing::IsEmpty,
                move |event| News::Definition(kind, event),
                tell.clone(),
            ));
        }
        Self {
            client: client.clone(),
            tell,
            now: BTreeMap::new(),
        }
    }

    /// Watches what is served now, and not a moment longer: nobody asks again
    /// and again for what is not there. Returns which watches have ended.
    pub(super) fn follow(&mut self, store: &Store) -> Vec<&'static str> {
        let changed = |kind: &Kind| {
            let watched = self.now.get(kind).map(|(version, _)| version.as_str());
            store.served(*kind) != watched
        };
        let changed: Vec<Kind> = Kind::ALL.into_iter().filter(changed).collect();
        let mut ended = Vec::new();
        for kind in changed {
            if let Some((_, watching)) = self.now.remove(&kind) {
                watching.abort();
                ended.push(kind.plural());
            }
            let what = kind.plural();
            match store.served(kind) {
                Some(version) => {
                    tracing::info!(what, version, "watching objects of Istio's API");
                    let watching = self.watch(kind, version);
                    self.now.insert(kind, (version.to_owned(), watching));
                }
                None => tracing::info!(what, "the cluster has none of them any more"),
            }
        }
        ended
    }

    fn watch(&self, kind: Kind, version: &str) -> AbortHandle {
        let watching = spawn_local(watch::objects(
            kind.plural(),
            crd::objects(&self.client, kind, version),
            watcher::Config::default(),
            Missing::IsTrouble,
            move |event| News::Policy(kind, event),
            self.tell.clone(),
        ));
        watching.abort_handle()
    }

    /// Whether `what` is told of by a watch that was stopped meanwhile.
    pub(super) fn has_ended(&self, what: &str) -> bool {
        let mut kinds = Kind::ALL.into_iter();
        kinds.any(|kind| kind.plural() == what && !self.now.contains_key(&kind))
    }
}
