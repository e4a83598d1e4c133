//! What this daemon runs as in its cluster, and whether it is to stay.

use k8s_openapi::api::apps::v1::DaemonSet;
use kube::{Api, ResourceExt};
use tokio::time::timeout;

use crate::api_server::{client, root_cause};
use crate::config;

use super::ANSWER_WITHIN;

/// Says at a DaemonSet that its daemons have a network plug-in.
const PLUGIN: &str = "mtls-daemon.io/cni";

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
