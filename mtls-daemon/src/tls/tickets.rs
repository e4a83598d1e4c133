//! Session tickets of one workload's certificate. A ticket brings the peer's
//! certificate back without asking anybody, so it must not outlive what that
//! was judged by: these end with the workload's certificate, its bundles and
//! the revocation lists. A peer with an older one gets a full handshake.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::ProducesTickets;

use crate::identity::{NewestRevocations, Revocations};

/// Keys that are changed with the revocation lists. New ones are made for each
/// certificate and each change of the bundles.
#[derive(Debug)]
pub(super) struct Tickets {
    revocations: NewestRevocations,
    keys: Mutex<Keys>,
}

#[derive(Debug)]
struct Keys {
    of: Arc<Revocations>,
    /// `None`: no randomness was left for keys; there are no tickets then.
    ticketer: Option<Arc<dyn ProducesTickets>>,
}

impl Keys {
    fn new(of: Arc<Revocations>) -> Self {
        Self {
            of,
            ticketer: Ticketer::new().ok(),
        }
    }
}

impl Tickets {
    pub(super) fn new(revocations: NewestRevocations) -> Self {
        let keys = Mutex::new(Keys::new(revocations.get()));
        Self { revocations, keys }
    }

    fn ticketer(&self) -> Option<Arc<dyn ProducesTickets>> {
        let newest = self.revocations.get();
        let mut keys = self.lock();
        if !Arc::ptr_eq(&keys.of, &newest) {
            *keys = Keys::new(newest);
        }
        keys.ticketer.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Keys> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        self.ticketer().map_or(0, |ticketer| ticketer.lifetime())
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.ticketer()?.encrypt(plain)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.ticketer()?.decrypt(ticket)
    }
}
