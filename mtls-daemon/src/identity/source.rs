//! What every authority looks like to the daemon: a stream of updates a
//! workload. An authority that is asked for each certificate (disk-ca,
//! vault, cert-manager) waits in [`Updates::next`] until one is due and
//! asks; one that sends by itself (files, spire) waits for its news.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::Notify;

use thiserror::Error;

use super::bundle::TrustBundles;
use super::svid::{Issued, Svid};
use crate::config;

/// An authority, as the configuration names it; shared by its workloads.
pub trait Source: Send + Sync {
    /// Its name in the configuration, in status output and in logs.
    fn kind(&self) -> &'static str;

    /// The updates of one workload, whose `source` this is, from its first
    /// certificate on.
    fn updates(&self, workload: &config::Workload) -> Box<dyn Updates>;
}

/// One workload's stream of updates.
pub trait Updates: Send {
    /// Waits for the next update. Called again after each, whether it was
    /// taken or not; never dropped half-way while the workload lives.
    fn next(&mut self, standing: Standing) -> Next<'_>;

    /// When a new certificate will be asked for; `None`: the source sends by
    /// itself.
    fn renews_at(&self, _held: &Svid) -> Option<SystemTime> {
        None
    }
}

pub type Next<'a> = Pin<Box<dyn Future<Output = Result<Update, SourceError>> + Send + 'a>>;

/// Where a workload stands when its source is asked for news.
#[derive(Clone, Debug)]
pub struct Standing {
    pub held: Option<Arc<Svid>>,
    /// Attempts in a row that brought nothing usable.
    pub failures: u32,
    /// Told when the certificate is of no use any more before its time.
    pub hurry: Arc<Notify>,
}

/// News. What is `None` stays as it is.
#[derive(Debug, Default)]
pub struct Update {
    pub issued: Option<Issued>,
    /// All bundles that the source vouches for now.
    pub bundles: Option<TrustBundles>,
    /// What is wrong with the source although it delivers.
    pub complaint: Option<String>,
}

/// Why a source has nothing to give.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SourceError {
    #[error("{0}")]
    Load(String),
    #[error("the authority could not make a certificate: {0}")]
    Issue(String),
    /// What came before must not be used any more.
    #[error("{0}")]
    Withdrawn(String),
    #[error("the authority's own certificate ended at {}", super::certificate::shown(*.0))]
    AuthorityExpired(SystemTime),
}
