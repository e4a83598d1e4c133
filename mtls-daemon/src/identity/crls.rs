//! Revocation lists in files, followed for as long as they are configured.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::certificate::shown;
use super::pace::Timings;
use super::revocation::{Lists, Revocation, Revocations};
use super::watched::{self, Content, Loaded, Watched};
use crate::clock::Clock;
use crate::config;
use crate::spiffe::TrustDomain;

/// The newest revocation lists; cheap to read, at every handshake.
#[derive(Clone, Debug)]
pub struct NewestRevocations(watch::Receiver<Arc<Revocations>>);

impl NewestRevocations {
    /// Of a node without any lists.
    pub fn none() -> Self {
        Revocations::default().into()
    }

    pub fn get(&self) -> Arc<Revocations> {
        Arc::clone(&self.0.borrow())
    }

    /// Returns when there is something new, or a list has become stale.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            // The daemon is on its way out.
            std::future::pending::<()>().await;
        }
    }
}

impl From<watch::Receiver<Arc<Revocations>>> for NewestRevocations {
    fn from(newest: watch::Receiver<Arc<Revocations>>) -> Self {
        Self(newest)
    }
}

/// Lists that never change.
impl From<Revocations> for NewestRevocations {
    fn from(revocations: Revocations) -> Self {
        Self(watch::channel(Arc::new(revocations)).1)
    }
}

/// Follows the configured lists and publishes what they say.
pub(super) struct Crls {
    published: watch::Sender<Arc<Revocations>>,
    clock: Clock,
    timings: Timings,
    followed: Vec<Followed>,
}

struct Followed {
    config: config::Crl,
    task: AbortHandle,
}

/// A withdrawn peer must be gone two seconds after the file said so.
const POLL: Duration = Duration::from_millis(500);

impl Crls {
    /// Until a list was read for the first time nobody can be asked, and
    /// `hard` refuses.
    pub(super) fn follow(config: &[config::Crl], clock: Clock, timings: Timings) -> Self {
        let mut unread = Revocations::default();
        for crl in config {
            let fault = "its files are being read for the first time".to_owned();
            unread.put(
                crl.trust_domain.clone(),
                Revocation::at_fault(crl.policy, crl.depth, fault),
            );
        }
        let mut crls = Self {
            published: watch::Sender::new(Arc::new(unread)),
            clock,
            timings: Timings {
                poll: timings.poll.min(POLL),
                ..timings
            },
            followed: Vec::new(),
        };
        crls.change(config);
        crls
    }

    /// Follows what is configured now. What was in force for a trust domain
    /// stays until its new files have been read.
    pub(super) fn change(&mut self, config: &[config::Crl]) {
        self.followed
            .retain(|followed| config.contains(&followed.config));
        self.published.send_if_modified(|all| {
            let kept = |name: &TrustDomain| config.iter().any(|crl| crl.trust_domain == *name);
            let goes = all.iter().any(|(name, _)| !kept(name));
            if goes {
                Arc::make_mut(all).retain(kept);
            }
            goes
        });
        for crl in config {
            if self.followed.iter().all(|one| one.config != *crl) {
                let task = tokio::spawn(follow_one(
                    crl.clone(),
                    self.published.clone(),
                    self.clock.clone(),
                    self.timings,
                ));
                self.followed.push(Followed {
                    config: crl.clone(),
                    task: task.abort_handle(),
                });
            }
        }
    }

    pub(super) fn newest(&self) -> NewestRevocations {
        NewestRevocations(self.published.subscribe())
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn load(files: &[Content]) -> Loaded<Lists> {
    let mut lists = Lists::default();
    let complaints: Vec<String> = files
        .iter()
        .filter_map(|file| file.parse(|text| lists.add(text)).err())
        .collect();
    if complaints.is_empty() {
        Loaded {
            good: Some(lists),
            complaint: None,
        }
    } else {
        Loaded::complaining(complaints.join("; "))
    }
}

async fn follow_one(
    crl: config::Crl,
    published: watch::Sender<Arc<Revocations>>,
    clock: Clock,
    timings: Timings,
) {
    let paths: Vec<PathBuf> = crl.files.clone();
    let mut files = watched::watch(paths, timings, load);
    let mut stale_at = None;
    loop {
        tokio::select! {
            changed = files.changed() => {
                if changed.is_err() {
                    return;
                }
                let revocation = revocation(&crl, &files.borrow_and_update());
                stale_at = first_end(&revocation, clock.now());
                tell(&crl.trust_domain, &revocation, clock.now());
                published.send_modify(|all| {
                    Arc::make_mut(all).put(crl.trust_domain.clone(), revocation);
                });
            }
            () = clock.ring(stale_at) => {
                stale_at = None;
                if let Some(now) = published.borrow().get(&crl.trust_domain) {
                    tell(&crl.trust_domain, now, clock.now());
                    stale_at = first_end(now, clock.now());
                }
                // Whoever rides on it looks again.
                published.send_modify(|_| {});
            }
        }
    }
}

fn revocation(crl: &config::Crl, files: &Watched<Lists>) -> Revocation {
    match (&files.good, &files.complaint) {
        (Some(lists), None) => Revocation::new(crl.policy, crl.depth, Arc::clone(lists)),
        // What was read before may lack the newest entries: it does not count.
        (_, complaint) => {
            let fault = complaint.as_deref().unwrap_or("it was not read").to_owned();
            Revocation::at_fault(crl.policy, crl.depth, fault)
        }
    }
}

/// When the next list becomes stale.
fn first_end(revocation: &Revocation, now: SystemTime) -> Option<SystemTime> {
    let ends = revocation.lists().iter().map(|list| list.next_update);
    ends.filter(|end| *end > now).min()
}

fn tell(trust_domain: &TrustDomain, revocation: &Revocation, now: SystemTime) {
    let policy = revocation.policy();
    if let Some(fault) = revocation.fault() {
        tracing::error!(%trust_domain, %policy, "revocation lists: {fault}");
    }
    for list in revocation.lists() {
        let (issuer, entries, next) = (&list.issuer, list.entries, shown(list.next_update));
        if list.next_update <= now {
            tracing::error!(
                %trust_domain, %policy, issuer,
                "the revocation list is stale, the next one was due at {next}"
            );
        } else {
            tracing::info!(%trust_domain, %policy, issuer, entries, next, "revocation list read");
        }
    }
}
