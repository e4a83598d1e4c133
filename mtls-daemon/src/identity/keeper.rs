//! Keeps one workload's identity: listens to its source, takes in what passes
//! every check, publishes it, and says so when nothing valid is left.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::{Notify, watch};

use super::bundle::TrustBundles;
use super::certificate::shown;
use super::crls::NewestRevocations;
use super::federation::Federation;
use super::pace::Timings;
use super::source::{Source, SourceError, Standing, Update, Updates};
use super::store::{Renewals, WorkloadIdentity};
use super::svid::{Svid, SvidFault};
use super::verify::PeerFault;
use crate::clock::Clock;
use crate::config;

pub(super) struct Keeper {
    updates: Box<dyn Updates>,
    book: Book,
    timings: Timings,
}

/// What is known of the identity, and what is published of it.
struct Book {
    workload: String,
    clock: Clock,
    published: watch::Sender<WorkloadIdentity>,
    /// As the source vouches for them.
    own: TrustBundles,
    /// The inner one is replaced when the configuration changes.
    federations: watch::Receiver<watch::Receiver<Federation>>,
    federation: watch::Receiver<Federation>,
    revocations: NewestRevocations,
    /// Its own authority withdrew it. It comes back if the list was wrong.
    withdrawn: Option<Arc<Svid>>,
    /// Makes the source ask at once.
    hurry: Arc<Notify>,
    /// The SVID whose successor is late: said once.
    late: Option<Arc<Svid>>,
}

/// A source that sends by itself is late when this part of a certificate's
/// life is left and no successor has come.
const LATE: u32 = 5;

impl Keeper {
    pub(super) fn new(
        workload: &config::Workload,
        source: &dyn Source,
        mut federations: watch::Receiver<watch::Receiver<Federation>>,
        revocations: NewestRevocations,
        clock: Clock,
        timings: Timings,
    ) -> Self {
        let id = workload.spiffe_id.clone();
        let federation = federations.borrow_and_update().clone();
        let bundles = federation.borrow().bundles.clone();
        Self {
            updates: source.updates(workload),
            book: Book {
                workload: workload.name.clone(),
                clock,
                published: watch::Sender::new(WorkloadIdentity {
                    id,
                    source: source.kind(),
                    svid: None,
                    bundles,
                    failure: None,
                    next_renewal: None,
                    renewals: Renewals::default(),
                    generation: 0,
                }),
                own: TrustBundles::default(),
                federations,
                federation,
                revocations,
                withdrawn: None,
                hurry: Arc::default(),
                late: None,
            },
            timings,
        }
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<WorkloadIdentity> {
        self.book.published.subscribe()
    }

    pub(super) async fn run(mut self) {
        let mut failures = 0;
        loop {
            let standing = Standing {
                held: self.book.held(),
                failures,
                hurry: Arc::clone(&self.book.hurry),
            };
            let news = self.book.attend_until(self.updates.next(standing)).await;
            let taken = match news {
                Ok(update) => self.book.take(update, &*self.updates),
                Err(error) => {
                    if let SourceError::Withdrawn(_) = error {
                        self.book.let_go();
                    }
                    Err(error.to_string())
                }
            };
            match taken {
                Ok(()) => failures = 0,
                Err(problem) => {
                    failures = failures.saturating_add(1);
                    self.book.failed(problem, failures);
                    // A source that fails without waiting must not spin.
                    tokio::time::sleep(self.timings.backoff_floor / 10).await;
                }
            }
        }
    }
}

impl Book {
    fn held(&self) -> Option<Arc<Svid>> {
        self.published.borrow().svid.clone()
    }

    /// Waits for the source, and meanwhile sees to what else happens: the
    /// certificate at hand ends, or another trust domain's bundle changes.
    /// The source's future is never dropped half-way.
    async fn attend_until(
        &mut self,
        news: impl Future<Output = Result<Update, SourceError>>,
    ) -> Result<Update, SourceError> {
        let mut news = pin!(news);
        loop {
            let (clock, alarm) = (self.clock.clone(), self.next_alarm());
            tokio::select! {
                news = &mut news => return news,
                () = clock.ring(alarm) => self.ring(),
                Ok(()) = self.federations.changed() => {
                    self.federation = self.federations.borrow_and_update().clone();
                    self.publish_bundles();
                }
                Ok(()) = self.federation.changed() => {
                    self.federation.mark_unchanged();
                    self.publish_bundles();
                }
                () = self.revocations.changed() => self.heed_revocations(),
            }
        }
    }

    /// Takes an update in; an error says why it was of no use. New bundles
    /// count whatever comes of the certificate: a root that was withdrawn
    /// must not stay trusted because a certificate is late.
    fn take(&mut self, update: Update, updates: &dyn Updates) -> Result<(), String> {
        if let Some(bundles) = update.bundles {
            self.own = self.own.succeeded_by(bundles);
            self.publish_bundles();
        }
        let bundles = self.published.borrow().bundles.clone();
        let now = self.clock.now();
        match (update.issued, self.held()) {
            (Some(issued), held) => {
                let id = self.published.borrow().id.clone();
                let revocations = self.revocations.get();
                let svid = Svid::admit(issued, &id, &bundles, &revocations, now)
                    .map_err(|e| e.to_string())?;
                let svid = match held {
                    // The same once more: what rides on it goes on.
                    Some(held) if held.key().cert == svid.key().cert => held,
                    _ => Arc::new(svid),
                };
                self.publish(svid, updates, update.complaint);
                Ok(())
            }
            (None, _) if update.complaint.is_some() => Err(update.complaint.unwrap_or_default()),
            (None, Some(held)) => {
                let revocations = self.revocations.get();
                held.check(&bundles, &revocations, now)
                    .map_err(|e| e.to_string())?;
                self.publish(held, updates, None);
                Ok(())
            }
            (None, None) => Ok(()),
        }
    }

    fn publish(&self, svid: Arc<Svid>, updates: &dyn Updates, complaint: Option<String>) {
        let next_renewal = updates.renews_at(&svid);
        let recovered = self.published.borrow().failure.is_some() && complaint.is_none();
        self.published.send_modify(|state| {
            let same = state
                .svid
                .as_ref()
                .is_some_and(|held| Arc::ptr_eq(held, &svid));
            if !same {
                state.generation += 1;
                state.renewals.succeeded += 1;
                tracing::info!(
                    workload = self.workload,
                    id = %state.id,
                    source = state.source,
                    serial = svid.serial(),
                    until = shown(svid.good_until()),
                    "certificate taken"
                );
            }
            state.svid = Some(svid);
            state.next_renewal = next_renewal;
            state.failure = complaint;
        });
        if recovered {
            tracing::info!(workload = self.workload, "identity recovered");
        }
    }

    /// The certificate at hand may have been withdrawn, or one that was may
    /// count again.
    fn heed_revocations(&mut self) {
        let revocations = self.revocations.get();
        let now = self.clock.now();
        let bundles = self.published.borrow().bundles.clone();
        let fault = |svid: &Svid| match svid.check(&bundles, &revocations, now) {
            Err(fault @ SvidFault::Chain(PeerFault::Revoked(_))) => Some(fault),
            _ => None,
        };
        if let Some(held) = self.held() {
            if let Some(fault) = fault(&held) {
                self.withdraw(held, &fault);
            }
        } else if let Some(svid) = self.withdrawn.take_if(|svid| fault(svid).is_none())
            && now < svid.good_until()
        {
            tracing::warn!(
                workload = self.workload, id = %svid.id(), serial = svid.serial(),
                "the certificate is no longer on a revocation list and is used again"
            );
            self.published.send_modify(|state| {
                state.svid = Some(svid);
                state.failure = None;
                state.generation += 1;
            });
        }
    }

    fn withdraw(&mut self, svid: Arc<Svid>, fault: &SvidFault) {
        tracing::error!(
            workload = self.workload, id = %svid.id(), serial = svid.serial(),
            "the workload's own certificate was revoked, connections are refused until a new one comes"
        );
        self.published.send_modify(|state| {
            state.svid = None;
            state.next_renewal = None;
            state.failure = Some(fault.to_string());
            state.generation += 1;
        });
        self.withdrawn = Some(svid);
        self.hurry.notify_one();
    }

    fn publish_bundles(&self) {
        let mut bundles = self.own.clone();
        for federated in self.federation.borrow().bundles.iter() {
            // Its own trust domain is its source's alone to vouch for.
            if *federated.trust_domain() != self.published.borrow().id.trust_domain() {
                bundles.put(Arc::clone(federated));
            }
        }
        self.published.send_if_modified(|state| {
            let changed = !bundles.same_as(&state.bundles);
            if changed {
                state.generation += 1;
                state.bundles = bundles;
            }
            changed
        });
    }

    /// The source withdrew what it gave.
    fn let_go(&self) {
        let Some(svid) = self.held() else { return };
        tracing::error!(
            workload = self.workload, id = %svid.id(), serial = svid.serial(),
            "the certificate was withdrawn by its source, and is not used any more"
        );
        self.published.send_modify(|state| {
            state.svid = None;
            state.next_renewal = None;
            state.generation += 1;
        });
    }

    fn failed(&self, problem: String, failures: u32) {
        let state = self.published.borrow();
        let (id, source, until) = (state.id.clone(), state.source, state.svid.clone());
        drop(state);
        match until {
            Some(svid) => tracing::warn!(
                workload = self.workload, %id, source, failures,
                until = shown(svid.good_until()),
                "no new certificate: {problem}"
            ),
            None => tracing::error!(
                workload = self.workload, %id, source, failures,
                "no valid certificate, connections are refused: {problem}"
            ),
        }
        self.published.send_modify(|state| {
            state.renewals.failed += 1;
            state.failure = Some(problem);
        });
    }

    /// When the certificate at hand needs a word: it ends, or its successor
    /// is late.
    fn next_alarm(&self) -> Option<SystemTime> {
        let state = self.published.borrow();
        let svid = state.svid.as_ref()?;
        let said = self
            .late
            .as_ref()
            .is_some_and(|late| Arc::ptr_eq(late, svid));
        if state.next_renewal.is_some() || said {
            return Some(svid.good_until());
        }
        Some(late_at(svid))
    }

    fn ring(&mut self) {
        let Some(svid) = self.held() else { return };
        let until = shown(svid.good_until());
        if self.clock.now() < svid.good_until() {
            tracing::warn!(
                workload = self.workload, id = %svid.id(), until,
                "the certificate ends soon, and its source has not brought a successor"
            );
            self.published.send_modify(|state| {
                state.failure.get_or_insert_with(|| {
                    format!("the certificate ends at {until}, and its source has not brought a successor")
                });
            });
            self.late = Some(svid);
            return;
        }
        tracing::error!(
            workload = self.workload, id = %svid.id(), until,
            "the certificate has ended, connections are refused until a new one comes"
        );
        self.published.send_modify(|state| {
            let why = state
                .failure
                .take()
                .map(|why| format!(": {why}"))
                .unwrap_or_default();
            state.failure = Some(format!("the certificate ended at {until}{why}"));
            state.svid = None;
            state.next_renewal = None;
            state.generation += 1;
        });
    }
}

fn late_at(svid: &Svid) -> SystemTime {
    let life = svid
        .good_until()
        .duration_since(svid.not_before())
        .unwrap_or_default();
    svid.good_until() - life / LATE
}

#[cfg(test)]
mod tests;
