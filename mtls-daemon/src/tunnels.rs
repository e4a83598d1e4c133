//! The living tunnels of one worker, both directions: who ends them, and when.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use slab::Slab;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::facts::Newest;
use crate::identity::{PeerFault, PeerSvid, Presenter, Svid};
use crate::netns::Cookie;
use crate::reason::Reason;
use crate::tls::Judging;
use crate::tunnel::{Cut, Tunnel};
use crate::workload::Workload;

pub struct Tunnels {
    facts: Newest,
    judging: Judging,
    live: RefCell<Slab<(Cookie, Tunnel)>>,
    /// Told whenever the last tunnel has ended.
    emptied: Notify,
    draining: Cell<bool>,
}

/// What both ends proved on a tunnel when it was opened.
pub struct Proof {
    pub workload: Arc<Workload>,
    /// Ours.
    pub own: Arc<Svid>,
    pub peer: PeerSvid,
    /// The peer's, leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// Which end the peer is.
    pub presenter: Presenter,
}

impl Proof {
    /// How long it counts, if nothing is withdrawn.
    pub fn valid_for(&self, judging: &Judging) -> Duration {
        let expires = self.own.good_until().min(self.peer.good_until);
        let left = expires.duration_since(judging.clock.now());
        left.unwrap_or_default().min(FAR_AWAY)
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
    pub fn new(facts: Newest, judging: Judging) -> Self {
        Self {
            facts,
            judging,
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
    pub async fn guard(&self, tunnel: Tunnel, proof: Proof) {
        let instance = proof.workload.netns.cookie();
        let key = self.live.borrow_mut().insert((instance, tunnel.clone()));
        let expiry = Instant::now() + proof.valid_for(&self.judging);
        let mut revocations = self.judging.revocations.clone();
        let mut identity = proof.workload.identity.clone();
        let mut bundles = identity.borrow_and_update().bundles.clone();
        loop {
            let idle_limit = self.facts.get().limits.tunnel_idle;
            let since = tunnel.idle_since();
            tokio::select! {
                end = tunnel.closed() => {
                    tracing::debug!(%end, "tunnel ended");
                    break;
                }
                () = sleep_until(expiry) => tunnel.abort(Cut(Reason::TunnelExpired)),
                () = sleep_until(since.unwrap_or_else(Instant::now) + idle_limit) => {
                    if since.is_some() && tunnel.idle_since() == since {
                        tunnel.drain();
                    }
                }
                () = revocations.changed() => self.judge_again(&tunnel, &proof),
                Ok(()) = identity.changed() => {
                    let now = identity.borrow_and_update().bundles.clone();
                    if !now.same_as(&bundles) {
                        self.judge_again(&tunnel, &proof);
                    }
                    bundles = now;
                }
            }
        }
        let mut live = self.live.borrow_mut();
        live.remove(key);
        if live.is_empty() {
            self.emptied.notify_waiters();
        }
    }

    /// Something that certificates are judged by has changed.
    fn judge_again(&self, tunnel: &Tunnel, proof: &Proof) {
        match proof.check(&self.judging) {
            Ok(()) => {}
            // Nothing is said against the peer: what runs goes on, and
            // nothing new begins without an answer.
            Err(PeerFault::RevocationUnknown(..)) => tunnel.drain(),
            Err(fault) => {
                tracing::warn!(
                    workload = %proof.workload.name, peer = %proof.peer.id,
                    serial = proof.peer.serial, reason = %fault.reason(),
                    "a tunnel is cut: {fault}"
                );
                tunnel.abort(Cut(fault.reason()));
            }
        }
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
