//! What this daemon runs as in its cluster, and whether it is to stay.

use std::fs;
use std::io;
use std::path::PathBuf;

use k8s_openapi::api::apps::v1::DaemonSet;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::Event;
use kube::{Api, Client, ResourceExt};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use crate::api_server::{client, root_cause};
use crate::config::{self, Config};

use super::ANSWER_WITHIN;

/// Says at a DaemonSet that its daemons have a network plug-in.
const PLUGIN: &str = "mtls-daemon.io/cni";

/// With anything behind it, says at a DaemonSet that its daemons are to detach.
pub const UNINSTALL: &str = "mtls-daemon.io/uninstall";

/// Whether this daemon is to stay, as its own DaemonSet has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Own {
    #[default]
    NotTold,
    Stays,
    Leaves(Uninstall),
}

/// Somebody who may change the DaemonSet wants its daemons to detach.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uninstall {
    /// What the annotation says: who asks waits for answers to this.
    pub request: String,
    pub namespace: String,
    pub daemonset: String,
    pub uid: String,
}

impl Own {
    /// Whether it changed anything. A DaemonSet that is not there says nothing:
    /// nobody detaches because of what is missing, or enforces again.
    pub(super) fn heed(&mut self, event: Event<PartialObjectMeta<DaemonSet>>) -> bool {
        let now = match event {
            Event::Apply(set) | Event::InitApply(set) => Self::said_by(&set),
            Event::InitDone if *self == Self::NotTold => Self::Stays,
            Event::Init | Event::InitDone | Event::Delete(_) => return false,
        };
        let changed = *self != now;
        *self = now;
        changed
    }

    fn said_by(set: &PartialObjectMeta<DaemonSet>) -> Self {
        let request = set.annotations().get(UNINSTALL).map(|it| it.trim());
        match request {
            None | Some("") => Self::Stays,
            Some(request) => Self::Leaves(Uninstall {
                request: request.to_owned(),
                namespace: set.namespace().unwrap_or_default(),
                daemonset: set.name_any(),
                uid: set.uid().unwrap_or_default(),
            }),
        }
    }
}

/// In the daemon's own namespace.
pub(super) fn sets(client: &Client) -> Api<PartialObjectMeta<DaemonSet>> {
    Api::default_namespaced(client.clone())
}

/// The file that tells a daemon's successor not to attach, should it start
/// while the API server is away. It lies where a pod, or a machine, begins
/// empty: no later installation finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark(PathBuf);

impl Mark {
    pub fn of(config: &Config) -> Self {
        Self(config.admin.socket.with_file_name("uninstalled"))
    }

    /// What cannot be read says nothing: enforcement goes on.
    pub fn read(&self) -> Option<Uninstall> {
        let text = fs::read(&self.0).ok()?;
        serde_json::from_slice(&text)
            .inspect_err(|error| {
                tracing::warn!(path = %self.0.display(), %error, "not a mark of this daemon's");
            })
            .ok()
    }

    pub fn set(&self, uninstall: &Uninstall) -> io::Result<()> {
        if self.read().as_ref() == Some(uninstall) {
            return Ok(());
        }
        let new = self.0.with_extension("new");
        fs::write(&new, serde_json::to_vec(uninstall)?)?;
        fs::rename(new, &self.0)
    }

    pub fn clear(&self) -> io::Result<()> {
        match fs::remove_file(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// Whether a DaemonSet wants its nodes to have the network plug-in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plugin {
    Wanted,
    /// It is gone, or going, or says that it has none any more.
    NotWanted,
    /// Who is uninstalled loses its rights at the same time.
    Forbidden,
    Unknown(String),
}

/// Asks the API server, in the daemon's own namespace.
pub async fn plugin(kubernetes: &config::Kubernetes, daemonset: &str) -> Plugin {
    let asked = async {
        let client = client(kubernetes.kubeconfig.as_deref())
            .await
            .map_err(|error| error.to_string())?;
        let sets: Api<DaemonSet> = Api::default_namespaced(client);
        match sets.get_metadata_opt(daemonset).await {
            Ok(Some(set)) if set.metadata.deletion_timestamp.is_some() => Ok(Plugin::NotWanted),
            Ok(Some(set)) => Ok(match set.annotations().get(PLUGIN).map(String::as_str) {
                Some("true") => Plugin::Wanted,
                _ => Plugin::NotWanted,
            }),
            Ok(None) => Ok(Plugin::NotWanted),
            Err(kube::Error::Api(status)) if matches!(status.code, 401 | 403) => {
                Ok(Plugin::Forbidden)
            }
            Err(error) => Err(root_cause(&error)),
        }
    };
    match timeout(ANSWER_WITHIN, asked).await {
        Ok(answer) => answer.unwrap_or_else(Plugin::Unknown),
        Err(_elapsed) => Plugin::Unknown(format!("no answer within {ANSWER_WITHIN:?}")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn set(annotations: serde_json::Value) -> PartialObjectMeta<DaemonSet> {
        serde_json::from_value(json!({
            "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
            "metadata": {
                "name": "mesh", "namespace": "infra", "uid": "u1", "annotations": annotations,
            },
        }))
        .unwrap()
    }

    fn asked() -> PartialObjectMeta<DaemonSet> {
        set(json!({"mtls-daemon.io/uninstall": "today"}))
    }

    fn leaves(own: &Own) -> Option<&str> {
        match own {
            Own::Leaves(uninstall) => Some(&uninstall.request),
            Own::Stays | Own::NotTold => None,
        }
    }

    #[test]
    fn only_an_annotation_with_something_in_it_detaches() {
        for stays in [
            json!(null),
            json!({}),
            json!({"mtls-daemon.io/uninstall": ""}),
            json!({"mtls-daemon.io/uninstall": " "}),
            json!({"example.org/uninstall": "today", "mtls-daemon.io/cni": "true"}),
        ] {
            let mut own = Own::NotTold;
            assert!(own.heed(Event::InitApply(set(stays.clone()))), "{stays}");
            assert_eq!(own, Own::Stays, "{stays}");
        }
        let mut own = Own::Stays;
        assert!(own.heed(Event::Apply(asked())));
        let uninstall = Uninstall {
            request: "today".to_owned(),
            namespace: "infra".to_owned(),
            daemonset: "mesh".to_owned(),
            uid: "u1".to_owned(),
        };
        assert_eq!(own, Own::Leaves(uninstall));
        assert!(!own.heed(Event::Apply(asked())));
    }

    #[test]
    fn what_is_missing_neither_detaches_nor_attaches() {
        // There is no such DaemonSet: no reason to wait, and none to detach.
        let mut own = Own::NotTold;
        assert!(!own.heed(Event::Init));
        assert_eq!(own, Own::NotTold);
        assert!(own.heed(Event::InitDone));
        assert_eq!(own, Own::Stays);
        assert!(!own.heed(Event::Delete(asked())));
        assert_eq!(own, Own::Stays);

        // It was deleted after its daemons had detached, and nothing is told
        // of it when the watch begins anew.
        assert!(own.heed(Event::Apply(asked())));
        for event in [Event::Delete(asked()), Event::Init, Event::InitDone] {
            assert!(!own.heed(event));
            assert_eq!(leaves(&own), Some("today"));
        }
        // Somebody took the word back.
        assert!(own.heed(Event::Apply(set(json!({"mtls-daemon.io/uninstall": ""})))));
        assert_eq!(own, Own::Stays);
    }

    #[test]
    fn a_mark_is_found_by_a_successor_until_it_is_cleared() {
        let folder = std::env::temp_dir().join(format!("mtls-mark-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let mark = Mark(folder.join("uninstalled"));
        assert_eq!(mark.read(), None);
        let mut own = Own::NotTold;
        own.heed(Event::Apply(asked()));
        let Own::Leaves(uninstall) = own else {
            panic!("{own:?}")
        };
        mark.set(&uninstall).unwrap();
        assert_eq!(mark.read(), Some(uninstall));
        fs::write(&mark.0, "{").unwrap();
        assert_eq!(mark.read(), None);
        mark.clear().unwrap();
        mark.clear().unwrap();
        assert_eq!(mark.read(), None);
        fs::remove_dir_all(folder).unwrap();
    }
}
