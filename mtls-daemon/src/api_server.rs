//! The way to a cluster's API server: where it is, and as whom the daemon
//! logs in.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use thiserror::Error;

const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// Why the API server cannot even be asked.
#[derive(Debug, Error)]
pub enum LoginError {
    #[error("kubeconfig: {0}: {1}")]
    Kubeconfig(PathBuf, String),
    #[error("no service account to log in with: {0} (outside of a pod, write `kubeconfig`)")]
    InCluster(String),
    #[error("{0}")]
    Client(String),
}

/// `None`: the service account of the daemon's own pod.
pub async fn client(kubeconfig: Option<&Path>) -> Result<Client, LoginError> {
    let mut config = match kubeconfig {
        Some(path) => {
            let failed = |error: kube::config::KubeconfigError| {
                LoginError::Kubeconfig(path.to_owned(), root_cause(&error))
            };
            let read = Kubeconfig::read_from(path).map_err(failed)?;
            let options = KubeConfigOptions::default();
            let config = kube::Config::from_custom_kubeconfig(read, &options);
            config.await.map_err(failed)?
        }
        None => {
            kube::Config::incluster().map_err(|error| LoginError::InCluster(root_cause(&error)))?
        }
    };
    config.connect_timeout = Some(CONNECT_WITHIN);
    Client::try_from(config).map_err(|error| LoginError::Client(root_cause(&error)))
}

/// The last in the chain says what happened; those before it, who was hit.
pub fn root_cause(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}
