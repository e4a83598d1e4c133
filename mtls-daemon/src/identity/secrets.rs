//! `secrets`: certificates and keys that lie in Secrets beside the pods, as
//! cert-manager's Certificates keep them. Each is followed while a workload of
//! this node needs it, and no other is looked at.
//!
//! A Secret that is gone, or cannot be read, changes nothing for who has its
//! certificate already: that counts until it ends.

use std::collections::HashMap;
use std::future::pending;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::runtime::{WatchStreamExt, watcher};
use rustls::sign::CertifiedKey;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use zeroize::Zeroizing;

use super::bundle::{TrustBundle, TrustBundles};
use super::pace::{Pace, Timings};
use super::pem;
use super::signing;
use super::source::{Next, Source, SourceError, Standing, Update, Updates};
use super::svid::{Issued, check_pair};
use super::watched::Watched;
use crate::api_server::{Login, watch_trouble};
use crate::clock::Clock;
use crate::config::{self, PodSecret};
use crate::spiffe::{SpiffeId, TrustDomain};

/// The source: one login for all workloads, and one watch for all pods of a
/// service account.
pub struct Secrets {
    cluster: Arc<Cluster>,
    bundle: watch::Receiver<Watched<TrustBundle>>,
    clock: Clock,
    timings: Timings,
    seed: u64,
}

struct Cluster {
    /// Whose Secrets are read.
    namespaces: Vec<String>,
    login: Login,
    followed: Mutex<HashMap<PodSecret, watch::Sender<Seen>>>,
}

/// What is known of a Secret. Neither: nobody has looked yet.
#[derive(Debug, Default)]
struct Seen {
    /// What is in it, or why that is of no use.
    state: Option<Result<Arc<Pems>, String>>,
    /// Why there is no news.
    trouble: Option<String>,
}

/// As they lie in the Secret.
struct Pems {
    certificate: Vec<u8>,
    key: Zeroizing<Vec<u8>>,
}

const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
/// A service account's token that is not there may come.
const LOGIN_AGAIN: Duration = Duration::from_secs(10);
/// A watch that does not fail for longer than the longest pause (half a
/// minute, and as much again by chance) and an attempt works.
const SILENCE: Duration = Duration::from_secs(65);

impl Secrets {
    /// Follows the bundle's file from now on.
    pub fn start(
        config: &config::Secrets,
        trust_domain: &TrustDomain,
        clock: Clock,
        timings: Timings,
        seed: u64,
    ) -> Self {
        Self {
            cluster: Arc::new(Cluster {
                namespaces: config.namespaces.clone(),
                login: Login::new(config.kubeconfig.as_deref()),
                followed: Mutex::default(),
            }),
            bundle: signing::follow(&config.bundle, trust_domain, timings),
            clock,
            timings,
            seed,
        }
    }
}

impl Source for Secrets {
    fn kind(&self) -> &'static str {
        "secrets"
    }

    fn updates(&self, workload: &config::Workload) -> Box<dyn Updates> {
        let secret = match &workload.source {
            Some(config::Source::Secrets(_, Some(secret))) => secret,
            _ => return NotRead::because(format!("workload {} has no Secret", workload.name)),
        };
        if !self.cluster.namespaces.contains(&secret.namespace) {
            return NotRead::because(format!(
                "Secrets are not read in namespace {}: add it to `identity.secrets.namespaces`",
                secret.namespace
            ));
        }
        let mut bundle = self.bundle.clone();
        // What is known of either is news to this workload.
        bundle.mark_changed();
        let mut seen = self.cluster.follow(secret);
        seen.mark_changed();
        Box::new(Following {
            workload: workload.spiffe_id.clone(),
            secret: secret.clone(),
            seen,
            bundle,
            clock: self.clock.clone(),
            pace: Pace::new(self.timings, self.clock.clone(), self.seed),
        })
    }
}

impl Cluster {
    fn follow(self: &Arc<Self>, secret: &PodSecret) -> watch::Receiver<Seen> {
        let mut followed = self.followed();
        if let Some(seen) = followed.get(secret) {
            return seen.subscribe();
        }
        let (seen, receiver) = watch::channel(Seen::default());
        followed.insert(secret.clone(), seen.clone());
        tokio::spawn(Arc::clone(self).keep_following(secret.clone(), seen));
        receiver
    }

    /// Until nobody needs it any more.
    async fn keep_following(self: Arc<Self>, secret: PodSecret, seen: watch::Sender<Seen>) {
        loop {
            tokio::select! {
                () = self.tell(&secret, &seen) => {}
                () = seen.closed() => {}
            }
            // Nobody subscribes meanwhile.
            let mut followed = self.followed();
            if seen.is_closed() {
                followed.remove(&secret);
                return;
            }
        }
    }

    async fn tell(&self, secret: &PodSecret, seen: &watch::Sender<Seen>) {
        let client = match self.login.client().await {
            Ok(client) => client,
            Err(error) => {
                seen.send_modify(|seen| seen.trouble = Some(format!("API server: {error}")));
                return sleep(LOGIN_AGAIN).await;
            }
        };
        let api = Api::namespaced(client.clone(), &secret.namespace);
        let mut states = pin!(watcher::watch_object(api, &secret.name).default_backoff());
        let mut fails = false;
        loop {
            let state = match fails {
                true => timeout(SILENCE, states.next()).await,
                false => Ok(states.next().await),
            };
            match state {
                Ok(None) => return,
                Ok(Some(Ok(state))) => {
                    fails = false;
                    seen.send_replace(Seen {
                        state: Some(Pems::of(state, secret)),
                        trouble: None,
                    });
                }
                Ok(Some(Err(error))) => {
                    fails = true;
                    let trouble = trouble(&error, secret);
                    seen.send_if_modified(|seen| {
                        let is_news = seen.trouble.as_ref() != Some(&trouble);
                        seen.trouble = Some(trouble);
                        is_news
                    });
                }
                // It goes on where it was, and there is no news.
                Err(_) => {
                    fails = false;
                    seen.send_modify(|seen| seen.trouble = None);
                }
            }
        }
    }

    fn followed(&self) -> MutexGuard<'_, HashMap<PodSecret, watch::Sender<Seen>>> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    fn is_known(&self) -> bool {
        self.state.is_some() || self.trouble.is_some()
    }
}

impl Pems {
    /// `None`: there is no such Secret.
    fn of(state: Option<Secret>, secret: &PodSecret) -> Result<Arc<Self>, String> {
        let state = state.ok_or_else(|| {
            format!(
                "there is no Secret {secret}: make it, with {CERTIFICATE} and {KEY}, by a Certificate of cert-manager or by hand"
            )
        })?;
        let mut data = state.data.unwrap_or_default();
        let mut take = |name: &str| data.remove(name).map(|bytes| bytes.0);
        let (certificate, key) = (take(CERTIFICATE), take(KEY).map(Zeroizing::new));
        let pems = certificate
            .zip(key)
            .map(|(certificate, key)| Self { certificate, key });
        pems.map(Arc::new).ok_or_else(|| {
            format!(
                "Secret {secret} lacks {CERTIFICATE} or {KEY}: it is to be of type kubernetes.io/tls"
            )
        })
    }
}

fn trouble(error: &watcher::Error, secret: &PodSecret) -> String {
    let rights = format!(
        "let the daemon's account list and watch Secrets in {} (deploy/chart/templates/rbac.yaml)",
        secret.namespace
    );
    watch_trouble(&format!("Secret {secret}"), error, &rights)
}

/// One workload's updates.
struct Following {
    workload: SpiffeId,
    secret: PodSecret,
    seen: watch::Receiver<Seen>,
    bundle: watch::Receiver<Watched<TrustBundle>>,
    clock: Clock,
    pace: Pace,
}

impl Following {
    /// `None`: not both have been looked at.
    fn update(&self) -> Option<Update> {
        let bundle = self.bundle.borrow();
        let seen = self.seen.borrow();
        let is_known = bundle.good.is_some() || bundle.complaint.is_some();
        if !is_known || !seen.is_known() {
            return None;
        }
        let read = |state: &Result<Arc<Pems>, String>| match state {
            Ok(pems) => self.read(pems),
            Err(why) => Err(why.clone()),
        };
        let (issued, fault) = match seen.state.as_ref().map(read) {
            Some(Ok(issued)) => (Some(issued), None),
            Some(Err(fault)) => (None, Some(fault)),
            None => (None, None),
        };
        let complaints = [bundle.complaint.clone(), seen.trouble.clone(), fault];
        let complaints: Vec<String> = complaints.into_iter().flatten().collect();
        Some(Update {
            issued,
            bundles: (bundle.good.as_ref())
                .map(|bundle| TrustBundles::from_iter([Arc::clone(bundle)])),
            complaint: (!complaints.is_empty()).then(|| complaints.join("; ")),
        })
    }

    fn read(&self, pems: &Pems) -> Result<Issued, String> {
        let within =
            |name: &str, error: pem::PemError| format!("Secret {}: {name}: {error}", self.secret);
        let chain = pem::certificates(&pems.certificate).map_err(|e| within(CERTIFICATE, e))?;
        let key = pem::private_key(&pems.key).map_err(|e| within(KEY, e))?;
        let pair = CertifiedKey::new(chain, key);
        check_pair(&pair, &self.workload, self.clock.now())
            .map_err(|faults| format!("Secret {}: {faults}", self.secret))?;
        Ok(Issued {
            chain: pair.cert,
            key: pair.key,
        })
    }
}

impl Updates for Following {
    fn next(&mut self, standing: Standing) -> Next<'_> {
        Box::pin(async move {
            loop {
                let holds = matches!(self.seen.borrow().state, Some(Ok(_)));
                tokio::select! {
                    changed = self.bundle.changed() => changed.map_err(|_gone| over())?,
                    changed = self.seen.changed() => changed.map_err(|_gone| over())?,
                    // A certificate that begins later than now will do with time.
                    () = sleep(self.pace.backoff(standing.failures)),
                        if standing.failures > 0 && holds => {}
                }
                if let Some(update) = self.update() {
                    return Ok(update);
                }
            }
        })
    }
}

fn over() -> SourceError {
    SourceError::Load("the Secret, or the bundle, is no longer watched".into())
}

/// Of a workload that nothing is read for.
struct NotRead(Option<String>);

impl NotRead {
    fn because(why: String) -> Box<dyn Updates> {
        Box::new(Self(Some(why)))
    }
}

impl Updates for NotRead {
    fn next(&mut self, _standing: Standing) -> Next<'_> {
        let why = self.0.take();
        Box::pin(async move {
            match why {
                Some(why) => Err(SourceError::Load(why)),
                None => pending().await,
            }
        })
    }
}

/// Never shows the key.
impl std::fmt::Debug for Pems {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pems").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_that_is_of_no_use_is_explained() {
        let place = PodSecret {
            namespace: "shop".to_owned(),
            name: "web-tls".to_owned(),
        };
        let of = |data: Option<serde_json::Value>| {
            let state = data.map(|data| serde_json::json!({ "data": data }));
            let state = state.map(|state| serde_json::from_value(state).unwrap());
            Pems::of(state, &place)
        };
        let why = of(None).unwrap_err();
        assert!(why.contains("there is no Secret shop/web-tls"), "{why}");
        for lacking in [
            serde_json::json!({}),
            serde_json::json!({"tls.crt": "YQ=="}),
            serde_json::json!({"tls.key": "YQ==", "ca.crt": "YQ=="}),
        ] {
            let why = of(Some(lacking)).unwrap_err();
            assert!(why.contains("shop/web-tls lacks"), "{why}");
        }
        let pems = of(Some(
            serde_json::json!({"tls.crt": "YQ==", "tls.key": "Yg=="}),
        ));
        let pems = pems.unwrap();
        assert_eq!((&*pems.certificate, &**pems.key), (&b"a"[..], &b"b"[..]));
    }
}
