//! The living tunnels of one worker, both directions: who ends them, and when.

use std::cell::{Cell, RefCell};
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use slab::Slab;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::config::ForeignPastExpiry;
use crate::facts::Newest;
use crate::identity::{PeerFault, PeerSvid, Presenter, Svid, TrustBundles};
use crate::metrics::{Direction, Outcome, ThreadMetrics, TunnelFault};
use crate::netns::Cookie;
use crate::reason::Reason;
use crate::tls::Judging;
use crate::tls::proof::{self, Binding};
use crate::tunnel::{Cut, ProofNews, Tunnel, TunnelEnd};
use crate::workload::Workload;

pub struct Tunnels {
    facts: Newest,
    judging: Judging,
    metrics: ThreadMetrics,
    live: RefCell<Slab<(Cookie, Tunnel)>>,
    /// Told whenever the last tunnel has ended.
    emptied: Notify,
    draining: Cell<bool>,
}

/// What both ends have proved on a tunnel: when it was opened, and since.
pub struct Proved {
    pub workload: Arc<Workload>,
    /// Ours.
    pub own: Arc<Svid>,
    pub peer: PeerSvid,
    /// The peer's, leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// Which end the peer is.
    pub presenter: Presenter,
    pub binding: Binding,
    /// What the handshake judged it by.
    pub bundles: TrustBundles,
}

impl Proved {
    /// How long it counts, if nothing is withdrawn.
    pub fn valid_for(&self, judging: &Judging) -> Duration {
        let expires = self.own.good_until().min(self.peer.good_until);
        let left = expires.duration_since(judging.clock.now());
        left.unwrap_or_default().min(FAR_AWAY)
    }

    fn own_end(&self) -> Presenter {
        match self.presenter {
            Presenter::Client => Presenter::Server,
            Presenter::Server => Presenter::Client,
        }
    }

    fn direction(&self) -> Direction {
        match self.presenter {
            Presenter::Client => Direction::Inbound,
            Presenter::Server => Direction::Outbound,
        }
    }

    /// Whether peers would still take us, and we the peer.
    fn check(&self, judging: &Judging) -> Result<(), PeerFault> {
        let bundles = self.workload.identity.borrow().bundles.clone();
        judging.judge(&self.chain, self.presenter, &bundles)?;
        match judging.judge(&self.own.key().cert, Presenter::Client, &bundles) {
            // Whether the lists that the peer has can tell is for it to say.
            Ok(_) | Err(PeerFault::RevocationUnknown(..)) => Ok(()),
            Err(fault) => Err(fault),
        }
    }
}

impl Tunnels {
    pub fn new(facts: Newest, judging: Judging, metrics: ThreadMetrics) -> Self {
        Self {
            facts,
            judging,
            metrics,
            live: RefCell::default(),
            emptied: Notify::new(),
            draining: Cell::new(false),
        }
    }

    pub fn judging(&self) -> &Judging {
        &self.judging
    }

    /// Watch over a tunnel until it has ended: by itself, without connections
    /// for too long, or because what was proved on it does not count any more.
    /// `renewed` hears of what either end proves meanwhile.
    pub async fn guard(&self, tunnel: Tunnel, mut proved: Proved, renewed: impl Fn(&Proved)) {
        let instance = proved.workload.netns.cookie();
        let key = self.live.borrow_mut().insert((instance, tunnel.clone()));
        let mut revocations = self.judging.revocations.clone();
        let mut identity = proved.workload.identity.clone();
        // They may have changed during the handshake.
        identity.mark_changed();
        let mut kept = false;
        loop {
            if self.prove_renewed(&tunnel, &mut proved) {
                renewed(&proved);
            }
            let expiry = match kept {
                true => Instant::now() + FAR_AWAY,
                false => Instant::now() + proved.valid_for(&self.judging),
            };
            let idle_limit = self.facts.get().limits.tunnel_idle;
            let since = tunnel.idle_since();
            tokio::select! {
                end = tunnel.closed() => {
                    self.ended(&end, &proved);
                    break;
                }
                () = sleep_until(expiry) => kept = self.expire(&tunnel, &proved),
                () = sleep_until(since.unwrap_or_else(Instant::now) + idle_limit) => {
                    if since.is_some() && tunnel.idle_since() == since {
                        tunnel.drain();
                    }
                }
                () = revocations.changed() => self.judge_again(&tunnel, &proved),
                Ok(()) = identity.changed() => {
                    let now = identity.borrow_and_update().bundles.clone();
                    if !now.same_as(&proved.bundles) {
                        self.judge_again(&tunnel, &proved);
                    }
                    proved.bundles = now;
                }
                news = tunnel.proof_news() => match news {
                    // Ours may have been renewed before it could say so.
                    ProofNews::Takes => {}
                    ProofNews::Proved(proof) => {
                        if self.take_proof(&tunnel, &mut proved, &proof) {
                            renewed(&proved);
                        }
                    }
                }
            }
        }
        let mut live = self.live.borrow_mut();
        live.remove(key);
        if live.is_empty() {
            self.emptied.notify_waiters();
        }
    }

    fn ended(&self, end: &TunnelEnd, proved: &Proved) {
        let fault = match end {
            TunnelEnd::Violation(violation) if violation.is_flood() => TunnelFault::Flood,
            TunnelEnd::Violation(_) => TunnelFault::Protocol,
            TunnelEnd::Unresponsive => TunnelFault::Silent,
            _ => return tracing::debug!(%end, "tunnel ended"),
        };
        self.metrics.tunnel_fault(proved.direction(), fault);
        tracing::warn!(
            workload = %proved.workload.name, direction = proved.direction().word(),
            peer = %proved.peer.id, %end, "ended a tunnel for what its peer did"
        );
    }

    /// If our certificate was renewed, the peer learns of it on the open
    /// tunnel. Says whether it did.
    fn prove_renewed(&self, tunnel: &Tunnel, proved: &mut Proved) -> bool {
        let newest = proved.workload.identity.borrow().svid.clone();
        let Some(newest) = newest.filter(|newest| !Arc::ptr_eq(newest, &proved.own)) else {
            return false;
        };
        // Not yet, or never: the peer's first words say which.
        if !tunnel.takes_proofs() || self.cut_if_revoked(tunnel, proved) {
            return false;
        }
        match proof::prove(newest.key(), proved.own_end(), &proved.binding) {
            Ok(proof) if tunnel.prove(&proof) => {
                proved.own = newest;
                true
            }
            Ok(_) => false,
            Err(error) => {
                let workload = &proved.workload.name;
                tracing::error!(%workload, %error, "a renewed certificate cannot be proved");
                false
            }
        }
    }

    /// The peer's certificate was renewed, it says. Says whether that is so.
    fn take_proof(&self, tunnel: &Tunnel, proved: &mut Proved, proof: &[u8]) -> bool {
        if self.cut_if_revoked(tunnel, proved) {
            return false;
        }
        let bundles = proved.workload.identity.borrow().bundles.clone();
        let checked = proof::check(
            proof,
            proved.presenter,
            &proved.binding,
            &proved.peer.id,
            &bundles,
            &self.judging,
        );
        let direction = proved.direction();
        match checked {
            Ok((peer, chain)) => {
                self.metrics.tunnel_proof(direction, Outcome::Ok);
                tracing::debug!(peer = %peer.id, serial = peer.serial, "renewed on an open tunnel");
                proved.peer = peer;
                proved.chain = chain;
                true
            }
            Err(fault) => {
                self.metrics.tunnel_proof(direction, Outcome::Error);
                self.cut_for(tunnel, proved, fault.reason(), &fault);
                false
            }
        }
    }

    /// A certificate that was proved on the tunnel has ended. Says whether it
    /// goes on nevertheless.
    fn expire(&self, tunnel: &Tunnel, proved: &Proved) -> bool {
        let keep = self.facts.get().foreign_past_expiry == ForeignPastExpiry::Keep;
        if keep && !tunnel.takes_proofs() {
            tracing::warn!(
                workload = %proved.workload.name, peer = %proved.peer.id,
                "connections go on past the end of the certificate that the peer proved"
            );
            return true;
        }
        tunnel.abort(Cut(Reason::TunnelExpired));
        false
    }

    /// Something that certificates are judged by has changed.
    fn judge_again(&self, tunnel: &Tunnel, proved: &Proved) {
        match proved.check(&self.judging) {
            Ok(()) => {}
            // Nothing is said against the peer: what runs goes on, and
            // nothing new begins without an answer.
            Err(PeerFault::RevocationUnknown(..)) => tunnel.drain(),
            Err(fault) => self.cut_for(tunnel, proved, fault.reason(), &fault),
        }
    }

    /// Before a new proof takes the place of one that was revoked, of which we
    /// may hear in the same moment. Says whether one was.
    fn cut_if_revoked(&self, tunnel: &Tunnel, proved: &Proved) -> bool {
        let revoked = |chain: &[_], presenter| {
            let judged = self.judging.judge(chain, presenter, &proved.bundles);
            judged
                .err()
                .filter(|fault| fault.reason() == Reason::Revoked)
        };
        let fault = revoked(&proved.chain, proved.presenter)
            .or_else(|| revoked(&proved.own.key().cert, Presenter::Client));
        if let Some(fault) = &fault {
            self.cut_for(tunnel, proved, Reason::Revoked, fault);
        }
        fault.is_some()
    }

    fn cut_for(&self, tunnel: &Tunnel, proved: &Proved, reason: Reason, fault: &dyn Display) {
        tracing::warn!(
            workload = %proved.workload.name, peer = %proved.peer.id,
            serial = proved.peer.serial, %reason,
            "a tunnel is cut: {fault}"
        );
        tunnel.abort(Cut(reason));
    }

    /// Returns when no tunnel is open.
    pub async fn none(&self) {
        while !self.live.borrow().is_empty() {
            self.emptied.notified().await;
        }
    }

    /// No new connections on any tunnel; each ends with its last connection.
    pub fn drain(&self) {
        self.draining.set(true);
        for tunnel in self.of(None) {
            tunnel.drain();
        }
    }

    /// Whether new tunnels and connections are refused.
    pub fn are_draining(&self) -> bool {
        self.draining.get()
    }

    /// Reset whatever runs in the tunnels of `instance`, or in all.
    pub fn cut(&self, instance: Option<Cookie>, why: Cut) {
        for tunnel in self.of(instance) {
            tunnel.abort(why);
        }
    }

    /// Collected first: ending one runs code that comes back here.
    fn of(&self, instance: Option<Cookie>) -> Vec<Tunnel> {
        let live = self.live.borrow();
        let wanted = live
            .iter()
            .filter(|(_, (of, _))| instance.is_none_or(|wanted| wanted == *of));
        wanted.map(|(_, (_, tunnel))| tunnel.clone()).collect()
    }
}

/// A certificate may name a year that tokio's clock does not reach.
const FAR_AWAY: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
