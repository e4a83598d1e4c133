//! The living tunnels of one worker, both directions: who ends them, and when.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use slab::Slab;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::facts::Newest;
use crate::netns::Cookie;
use crate::reason::Reason;
use crate::tunnel::{Cut, Tunnel};

pub struct Tunnels {
    facts: Newest,
    live: RefCell<Slab<(Cookie, Tunnel)>>,
    /// Told whenever the last tunnel has ended.
    emptied: Notify,
    draining: Cell<bool>,
}

impl Tunnels {
    pub fn new(facts: Newest) -> Self {
        Self {
            facts,
            live: RefCell::default(),
            emptied: Notify::new(),
            draining: Cell::new(false),
        }
    }

    /// Watch over a tunnel of the workload `instance` until it has ended: by
    /// itself, without connections for too long, or because a certificate
    /// that was proved on it has expired.
    pub async fn guard(&self, instance: Cookie, tunnel: Tunnel, expires_in: Duration) {
        let key = self.live.borrow_mut().insert((instance, tunnel.clone()));
        let expiry = Instant::now() + expires_in.min(FAR_AWAY);
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
            }
        }
        let mut live = self.live.borrow_mut();
        live.remove(key);
        if live.is_empty() {
            self.emptied.notify_waiters();
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
pub(crate) const FAR_AWAY: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
