//! Whether workloads could turn strict, and whom they would lose.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::Mode;
use crate::spiffe::SpiffeId;

use super::text;
use super::view::ConnectionDirection;

/// A workload of this node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StrictReadiness {
    pub workload: String,
    pub mode: Mode,
    pub standing: Standing,
    /// For how long the daemon has seen what it says and hears in clear.
    #[serde(with = "text::seconds", rename = "watched_seconds")]
    pub watched: Duration,
    pub losses: Vec<Loss>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It is strict, all its ports are.
    Strict,
    /// Nothing that strict would refuse was seen.
    Ready,
    NotReady,
    /// More was seen in clear than the daemon remembers.
    Incomplete,
    /// It is off: what it says and hears passes the daemon by.
    Unwatched,
}

/// What strict would refuse: a caller at a port of the workload, or one that
/// it calls, at its port.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Loss {
    pub direction: ConnectionDirection,
    pub address: IpAddr,
    /// Who is known at that address; nobody has proved it.
    #[serde(with = "text::option")]
    pub identity: Option<SpiffeId>,
    /// As in `mtls_plaintext_callers_total`.
    pub known_as: String,
    pub port: u16,
    pub connections: u64,
    #[serde(with = "text::seconds", rename = "last_seen_seconds")]
    pub last_seen: Duration,
}

impl Standing {
    pub fn is_ready(self) -> bool {
        matches!(self, Self::Strict | Self::Ready)
    }

    pub fn word(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Ready => "ready",
            Self::NotReady => "not ready",
            Self::Incomplete => "incomplete",
            Self::Unwatched => "off",
        }
    }
}
