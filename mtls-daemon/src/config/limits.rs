//! `[limits]`: everything that waits has one.

use std::time::Duration;

use super::reader::Part;
use super::value::Bytes;

/// `[limits]`
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// TLS handshake, both directions. Default: 5 s.
    pub handshake: Duration,
    /// Connecting to a peer's daemon, and to the local application. Default: 5 s.
    pub connect: Duration,
    /// From accept to the peer's answer. Default: 10 s.
    pub establish: Duration,
    /// From SIGTERM until what is still open is reset. Default: 30 s.
    pub drain: Duration,
    /// A tunnel without flows is closed after this. Default: 5 min.
    pub tunnel_idle: Duration,
    /// Keep-alive PING interval and answer time on tunnels. Default: 10 s and 20 s.
    pub ping_interval: Duration,
    pub ping_timeout: Duration,
    /// Flows a tunnel. Default: 1000.
    pub streams_per_tunnel: u32,
    /// Tunnels that share the connections to a peer which is far away, a worker.
    /// Default: 4. Live.
    pub tunnels_per_far_peer: usize,
    /// Connections accepted and not yet established, a workload. Default: 1024.
    pub pending_per_workload: usize,
    /// Handshakes under way, a worker. Default: 256.
    pub handshakes_per_worker: usize,
    /// Bytes buffered for slow readers, a workload and the whole process.
    pub buffer_per_workload: usize,
    pub buffer_total: usize,
}

pub(super) fn limits(part: &Part<'_>) -> Option<Limits> {
    let duration = |name| part.get::<Duration>(name);
    let bytes = |name| usize::try_from(part.get::<Bytes>(name)?.0).ok();
    let handshake = duration("handshake");
    let connect = duration("connect");
    let establish = duration("establish");
    let drain = duration("drain");
    let tunnel_idle = duration("tunnel_idle");
    let ping_interval = duration("ping_interval");
    let ping_timeout = duration("ping_timeout");
    let streams_per_tunnel = part.get::<u32>("streams_per_tunnel");
    let tunnels_per_far_peer = part.get::<usize>("tunnels_per_far_peer");
    let pending_per_workload = part.get::<usize>("pending_per_workload");
    let handshakes_per_worker = part.get::<usize>("handshakes_per_worker");
    let buffer_per_workload = bytes("buffer_per_workload");
    let buffer_total = bytes("buffer_total");
    Some(Limits {
        handshake: handshake?,
        connect: connect?,
        establish: establish?,
        drain: drain?,
        tunnel_idle: tunnel_idle?,
        ping_interval: ping_interval?,
        ping_timeout: ping_timeout?,
        streams_per_tunnel: streams_per_tunnel?,
        tunnels_per_far_peer: tunnels_per_far_peer?,
        pending_per_workload: pending_per_workload?,
        handshakes_per_worker: handshakes_per_worker?,
        buffer_per_workload: buffer_per_workload?,
        buffer_total: buffer_total?,
    })
}
