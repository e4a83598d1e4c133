//! Revocation lists in files and where issuers publish them, followed for as
//! long as they are configured.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use super::certificate::shown;
use super::pace::{Pace, Timings};
use super::published;
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
    seed: u64,
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
    pub(super) fn follow(
        config: &[config::Crl],
        clock: Clock,
        timings: Timings,
        seed: u64,
    ) -> Self {
        let mut unread = Revocations::default();
        for crl in config {
            let fault = "they are being read for the first time".to_owned();
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
            seed,
            followed: Vec::new(),
        };
        crls.change(config);
        crls
    }

    /// Follows what is configured now. What was in force for a trust domain
    /// stays until its new lists have been read.
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
                    Pace::new(self.timings, self.clock.clone(), self.seed),
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

/// Lists out of files or from a URL, at this moment.
#[derive(Default)]
pub(super) struct Part {
    pub(super) lists: Option<Arc<Lists>>,
    pub(super) complaint: Option<String>,
}

/// All of one trust domain: first those in files, then one of each URL. `None`
/// until somebody has looked.
type Parts = Vec<Option<Part>>;

async fn follow_one(
    crl: config::Crl,
    published: watch::Sender<Arc<Revocations>>,
    clock: Clock,
    timings: Timings,
    pace: Pace,
) {
    let mut unread = Parts::new();
    unread.resize_with(1 + crl.urls.len(), || None);
    let (sender, mut parts) = watch::channel(unread);
    // They end with this task.
    let mut looking = JoinSet::new();
    looking.spawn(follow_files(crl.clone(), sender.clone(), timings));
    for (nth, url) in (1..).zip(&crl.urls) {
        let give = sender.clone();
        let give = move |part| give.send_modify(|parts| parts[nth] = Some(part));
        let server_ca = crl.server_ca.clone();
        looking.spawn(published::follow(
            url.clone(),
            server_ca,
            crl.poll,
            pace.clone(),
            give,
        ));
    }
    let mut stale_at = None;
    loop {
        tokio::select! {
            changed = parts.changed() => {
                if changed.is_err() {
                    return;
                }
                let Some(revocation) = revocation(&crl, &parts.borrow_and_update()) else {
                    continue;
                };
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

async fn follow_files(crl: config::Crl, parts: watch::Sender<Parts>, timings: Timings) {
    if crl.files.is_empty() {
        return parts.send_modify(|parts| parts[0] = Some(Part::default()));
    }
    let mut files = watched::watch(crl.files, timings, load);
    while files.changed().await.is_ok() {
        let part = of_files(&files.borrow_and_update());
        parts.send_modify(|parts| parts[0] = Some(part));
    }
}

fn of_files(files: &Watched<Lists>) -> Part {
    match &files.complaint {
        None => Part {
            lists: files.good.clone(),
            complaint: None,
        },
        // What was read before may lack the newest entries: it does not count.
        complaint => Part {
            lists: None,
            complaint: complaint.clone(),
        },
    }
}

/// `None` while somebody is still looking for the first time.
fn revocation(crl: &config::Crl, parts: &Parts) -> Option<Revocation> {
    let parts: Vec<&Part> = parts.iter().map(Option::as_ref).collect::<Option<_>>()?;
    let complaints: Vec<&str> = (parts.iter())
        .filter_map(|part| part.complaint.as_deref())
        .collect();
    let complaint = (!complaints.is_empty()).then(|| complaints.join("; "));
    let is_lacking = |part: &&Part| part.lists.is_none() && part.complaint.is_some();
    Some(match complaint {
        // A part of the lists is no list for those that it lacks.
        Some(fault) if parts.iter().any(is_lacking) => {
            Revocation::at_fault(crl.policy, crl.depth, fault)
        }
        complaint => {
            let lists = parts.iter().filter_map(|part| part.lists.as_deref());
            let lists = Arc::new(Lists::joined(lists));
            Revocation::new(crl.policy, crl.depth, lists).complaining(complaint)
        }
    })
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
    if let Some(complaint) = revocation.complaint() {
        tracing::warn!(%trust_domain, %policy, "revocation lists are not renewed: {complaint}");
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
