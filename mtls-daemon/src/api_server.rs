//! The way to a cluster's API server: where it is, and as whom the daemon
//! logs in.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::Status;
use kube::runtime::watcher;
use thiserror::Error;
use tokio::sync::OnceCell;

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

/// One client for all who ask, made when the first of them does.
pub struct Login {
    kubeconfig: Option<PathBuf>,
    client: OnceCell<Client>,
}

impl Login {
    /// As [`client`] takes it.
    pub fn new(kubeconfig: Option<&Path>) -> Self {
        Self {
            kubeconfig: kubeconfig.map(Path::to_owned),
            client: OnceCell::new(),
        }
    }

    pub async fn client(&self) -> Result<&Client, LoginError> {
        let log_in = || client(self.kubeconfig.as_deref());
        self.client.get_or_try_init(log_in).await
    }
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

/// What the API server said to a watch; `None`: it has not answered.
pub fn status_of(error: &watcher::Error) -> Option<&Status> {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => Some(&**status),
        _ => None,
    }
}

/// Why `what` is not told of; `rights` is the remedy where that is forbidden.
pub fn watch_trouble(what: &str, error: &watcher::Error, rights: &str) -> String {
    let status = status_of(error);
    let remedy = match status.map(|status| status.code) {
        Some(401) => ": is the token, or the certificate, of the kubeconfig still valid?",
        Some(403) => &format!(": {rights}"),
        _ => "",
    };
    let why = match (status, std::error::Error::source(error)) {
        (Some(status), _) if !status.message.is_empty() => status.message.clone(),
        (_, Some(cause)) => root_cause(cause),
        (_, None) => error.to_string(),
    };
    format!("watching {what}: {why}{remedy}")
}
