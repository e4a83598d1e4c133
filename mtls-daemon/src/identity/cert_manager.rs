//! `cert-manager`: the certificates of a cluster's issuers. The daemon makes a
//! CertificateRequest for a key that stays here, waits until it is approved
//! and signed, and deletes it, as nobody needs it any more.

mod explain;
mod request;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;
use kube::api::{
    ApiResource, DeleteParams, DynamicObject, GroupVersionKind, PostParams, WatchEvent, WatchParams,
};
use kube::{Api, ResourceExt};
use rustls::sign::SigningKey;
use thiserror::Error;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use self::request::Answer;
use super::bundle::TrustBundle;
use super::csr;
use super::key::new_key;
use super::pace::{Pace, Timings};
use super::signing::{self, Signed, Signer, Signing};
use super::source::{Source, SourceError, Updates};
use super::svid::Issued;
use super::watched::Watched;
use crate::api_server::{Login, LoginError};
use crate::clock::Clock;
use crate::config::{self, OwningPod};
use crate::spiffe::{SpiffeId, TrustDomain};

/// The source: one login for all workloads with the same issuer.
pub struct CertManager {
    cluster: Arc<Cluster>,
    bundle: watch::Receiver<Watched<TrustBundle>>,
    clock: Clock,
    timings: Timings,
    seed: u64,
}

struct Cluster {
    config: config::CertManager,
    login: Login,
    /// All workloads of a node ask at once when it starts, and each has a
    /// connection to the API server while it waits for its answer.
    at_once: Semaphore,
}

const AT_ONCE: usize = 16;
/// What is neither signed nor refused by then is told of, and looked at again
/// at the pace of failures: it may wait for a human being.
const SIGNED_WITHIN: Duration = Duration::from_secs(5);
/// A question to the API server that takes longer has no answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Between two watches, whatever ends them.
const WATCH_AGAIN: Duration = Duration::from_millis(200);

impl CertManager {
    /// Follows the bundle's file from now on.
    pub fn start(
        config: &config::CertManager,
        trust_domain: &TrustDomain,
        clock: Clock,
        timings: Timings,
        seed: u64,
    ) -> Self {
        Self {
            cluster: Arc::new(Cluster {
                config: config.clone(),
                login: Login::new(config.kubeconfig.as_deref()),
                at_once: Semaphore::new(AT_ONCE),
            }),
            bundle: signing::follow(&config.bundle, trust_domain, timings),
            clock,
            timings,
            seed,
        }
    }
}

impl Source for CertManager {
    fn kind(&self) -> &'static str {
        "cert-manager"
    }

    fn updates(&self, workload: &config::Workload) -> Box<dyn Updates> {
        let pod = match &workload.source {
            Some(config::Source::CertManager(_, pod)) => pod.clone(),
            _ => None,
        };
        let asking = Asking {
            workload: workload.spiffe_id.clone(),
            cluster: Arc::clone(&self.cluster),
            pod,
            open: None,
        };
        let pace = Pace::new(self.timings, self.clock.clone(), self.seed);
        Box::new(Signing::new(asking, &self.bundle, pace))
    }
}

/// Has one workload's certificates signed.
struct Asking {
    workload: SpiffeId,
    cluster: Arc<Cluster>,
    pod: Option<OwningPod>,
    /// Asked for and not answered yet.
    open: Option<Open>,
}

/// A CertificateRequest of ours that is there.
struct Open {
    requests: Api<DynamicObject>,
    namespace: String,
    name: String,
    key: Arc<dyn SigningKey>,
}

/// Why the API server did not answer.
#[derive(Debug, Error)]
enum AskError {
    #[error(transparent)]
    Login(#[from] LoginError),
    #[error(transparent)]
    Kube(#[from] kube::Error),
    #[error("no answer in time")]
    TimedOut,
}

impl Signer for Asking {
    async fn sign(&mut self) -> Result<Signed, SourceError> {
        let cluster = Arc::clone(&self.cluster);
        let _turn = cluster.at_once.acquire().await;
        let (open, seen) = match self.open.take() {
            Some(open) => (open, None),
            None => self.ask().await.map(|(open, made)| (open, Some(made)))?,
        };
        // It stays open whatever happens, until it is known to be answered.
        let open = self.open.insert(open);
        let answer = (open.answer(seen).await)
            .map_err(|error| SourceError::Load(explain::refused(&error, &open.namespace)))?;
        let place = open.place();
        let why = explain::answer(&answer, &place, &cluster.config, &self.workload);
        if let Answer::Pending(_) = answer {
            return Err(SourceError::Load(why));
        }
        let key = Arc::clone(&open.key);
        let left = (open.delete().await.err()).map(|error| explain::not_deleted(&error, &place));
        self.open = None;
        match answer {
            Answer::Signed(pem) => {
                let chain = signing::chain([pem.as_str()])
                    .map_err(|what| SourceError::Issue(format!("the answer to {place} {what}")))?;
                let issued = Issued { chain, key };
                Ok(Signed {
                    issued,
                    complaint: left,
                })
            }
            _ => Err(SourceError::Load(match left {
                Some(left) => format!("{why}; {left}"),
                None => why,
            })),
        }
    }
}

impl Asking {
    /// Makes a request; it, and its status as it was made.
    async fn ask(&self) -> Result<(Open, Seen), SourceError> {
        let config = &self.cluster.config;
        let pods = self.pod.as_ref().map(|pod| &pod.namespace);
        let namespace = (config.namespace.as_ref().or(pods)).ok_or_else(|| {
            SourceError::Load(format!(
                "{} is no pod, and `namespace` is not set",
                self.workload
            ))
        })?;
        let failed = |error: AskError| SourceError::Load(explain::refused(&error, namespace));
        let requests = (self.cluster.requests(namespace).await).map_err(failed)?;
        let key = new_key()?;
        let csr = csr::request(&self.workload, &*key)
            .ok_or_else(|| SourceError::Issue("a request could not be signed".into()))?;
        let manifest = request::manifest(&csr, config, namespace, self.pod.as_ref());
        let manifest = serde_json::from_value(manifest)
            .map_err(|error| SourceError::Issue(format!("a request could not be made: {error}")))?;
        let plainly = PostParams::default();
        let made = within(requests.create(&plainly, &manifest)).await;
        let made = made.map_err(failed)?;
        let open = Open {
            name: made.name_any(),
            namespace: namespace.clone(),
            requests,
            key,
        };
        Ok((open, Seen::of(&made)))
    }
}

impl Cluster {
    async fn requests(&self, namespace: &str) -> Result<Api<DynamicObject>, AskError> {
        let client = self.login.client().await?;
        let kind = GroupVersionKind::gvk(request::GROUP, request::VERSION, request::KIND);
        let resource = ApiResource::from_gvk_with_plural(&kind, request::PLURAL);
        Ok(Api::namespaced_with(client.clone(), namespace, &resource))
    }
}

/// What a request was when it was last looked at.
struct Seen {
    answer: Answer,
    version: String,
}

impl Seen {
    fn of(object: &DynamicObject) -> Self {
        Self {
            answer: Answer::read(&object.data["status"]),
            version: object.resource_version().unwrap_or_default(),
        }
    }
}

impl Open {
    fn place(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// What has become of it, after a while at most.
    async fn answer(&self, made: Option<Seen>) -> Result<Answer, AskError> {
        let until = Instant::now() + SIGNED_WITHIN;
        let mut seen = match made {
            Some(seen) => seen,
            None => match self.look().await? {
                Some(seen) => seen,
                None => return Ok(Answer::Gone),
            },
        };
        while let Answer::Pending(_) = seen.answer {
            let Ok(watched) = timeout_at(until, self.next_change(&mut seen)).await else {
                break;
            };
            if let Some(gone) = watched? {
                return Ok(gone);
            }
        }
        Ok(seen.answer)
    }

    /// Follows it until it is answered, or the watch ends. `Some`: it is gone.
    async fn next_change(&self, seen: &mut Seen) -> Result<Option<Answer>, AskError> {
        let only = WatchParams::default().fields(&format!("metadata.name={}", self.name));
        let changes = self.requests.watch(&only, &seen.version).await?;
        let mut changes = pin!(changes);
        while let Some(change) = changes.try_next().await? {
            match change {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    *seen = Seen::of(&object);
                    if !matches!(seen.answer, Answer::Pending(_)) {
                        return Ok(None);
                    }
                }
                WatchEvent::Deleted(_) => return Ok(Some(Answer::Gone)),
                WatchEvent::Bookmark(_) => {}
                // The version is too old: it is looked at anew.
                WatchEvent::Error(_) => break,
            }
        }
        sleep(WATCH_AGAIN).await;
        match self.look().await? {
            Some(now) => *seen = now,
            None => return Ok(Some(Answer::Gone)),
        }
        Ok(None)
    }

    async fn look(&self) -> Result<Option<Seen>, AskError> {
        let object = within(self.requests.get_opt(&self.name)).await?;
        Ok(object.as_ref().map(Seen::of))
    }

    /// Nobody needs it any more.
    async fn delete(&self) -> Result<(), AskError> {
        let plainly = DeleteParams::default();
        match within(self.requests.delete(&self.name, &plainly)).await {
            Err(AskError::Kube(kube::Error::Api(status))) if status.code == 404 => Ok(()),
            done => done.map(drop),
        }
    }
}

/// A workload that ends does not wait for its certificate any more.
impl Drop for Asking {
    fn drop(&mut self) {
        if let (Some(open), Ok(runtime)) = (self.open.take(), Handle::try_current()) {
            runtime.spawn(async move { open.delete().await });
        }
    }
}

async fn within<T>(answer: impl Future<Output = kube::Result<T>>) -> Result<T, AskError> {
    let answered = timeout(ANSWER_WITHIN, answer).await;
    Ok(answered.map_err(|_elapsed| AskError::TimedOut)??)
}
