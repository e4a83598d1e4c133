//! One line for each connection, at its end. Both daemons write one, under
//! the same id and with the same meaning of "server" and "client".

use std::time::Duration;

use crate::addr::{ClientAddr, OriginalDst, TunnelAddr};
use crate::metrics::Direction;
use crate::reason::Reason;
use crate::spiffe::SpiffeId;
use crate::trace::ConnectionId;

/// Target of the access log's events; `log.access` turns it on and off.
pub const TARGET: &str = "access";

/// Version of the fields below, in the line as `schema`. Fields may be added
/// within a version; none changes its meaning or goes away.
pub const SCHEMA: u32 = 1;

/// How the connection came by its tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TunnelUse {
    /// With a handshake of its own.
    New,
    /// On a tunnel that was there or being dialled.
    Reused,
}

/// All that is known of a connection at its end; what a refusal left unknown is `None`.
#[derive(Clone, Debug)]
pub struct AccessRecord<'a> {
    pub id: ConnectionId,
    pub direction: Direction,
    /// The workload of this node.
    pub workload: Option<&'a str>,
    /// Who opened the connection: verified, or this node's own.
    pub source: Option<&'a SpiffeId>,
    /// Who received it: verified, or this node's own.
    pub destination: Option<&'a SpiffeId>,
    pub client: Option<ClientAddr>,
    pub original_dst: Option<OriginalDst>,
    /// The other end of the tunnel.
    pub peer: Option<TunnelAddr>,
    pub tunnel: Option<TunnelUse>,
    pub to_server: u64,
    pub to_client: u64,
    pub duration: Duration,
    pub reason: Reason,
    /// What the reason's word cannot say, such as the system's error.
    pub detail: Option<&'a str>,
}

impl TunnelUse {
    pub fn word(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Reused => "reused",
        }
    }
}

/// Writes the line.
pub fn log(record: &AccessRecord<'_>) {
    tracing::info!(
        target: TARGET,
        schema = SCHEMA,
        id = %record.id,
        direction = record.direction.word(),
        workload = record.workload,
        source = record.source.map(tracing::field::display),
        destination = record.destination.map(tracing::field::display),
        client = record.client.map(tracing::field::display),
        original_dst = record.original_dst.map(tracing::field::display),
        peer = record.peer.map(tracing::field::display),
        tunnel = record.tunnel.map(TunnelUse::word),
        bytes_to_server = record.to_server,
        bytes_to_client = record.to_client,
        duration_seconds = rounded(record.duration),
        reason = record.reason.word(),
        detail = record.detail,
    );
}

/// Seconds to the microsecond.
fn rounded(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e6
}
