//! What the operator wrote, as the workers see it: one immutable snapshot,
//! replaced whole when the configuration is read again.

use std::sync::Arc;

use tokio::sync::watch;

use crate::config::{Config, ForeignPastExpiry, Limits};
use crate::directory::Directory;

#[derive(Debug)]
pub struct Facts {
    pub directory: Directory,
    pub limits: Limits,
    pub tunnel_port: u16,
    pub foreign_past_expiry: ForeignPastExpiry,
    /// One line a connection in the log.
    pub access_log: bool,
}

impl Facts {
    pub fn from_config(config: &Config) -> Self {
        Self {
            directory: Directory::from_config(config),
            limits: config.limits.clone(),
            foreign_past_expiry: config.identity.foreign_past_expiry,
            tunnel_port: config.network.tunnel_port,
            access_log: config.log.access,
        }
    }
}

/// The newest facts; cheap to read, once a connection.
#[derive(Clone, Debug)]
pub struct Newest(watch::Receiver<Arc<Facts>>);

impl Newest {
    pub fn new(facts: watch::Receiver<Arc<Facts>>) -> Self {
        Self(facts)
    }

    pub fn get(&self) -> Arc<Facts> {
        Arc::clone(&self.0.borrow())
    }
}
