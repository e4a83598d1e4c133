//! The keys of `[limits]`.

use std::time::Duration as Time;

use super::Applies::{Live, Restart};
use super::Fallback::Is;
use super::Shape::{Count, Duration, Size};
use super::{DAY, GIB, HOUR, KIB, Key, MINUTE, MS, SECOND, key};

pub(super) const DOC: &str = "Everything that waits has a limit. What exceeds one is refused and counted, never queued without end.";

#[rustfmt::skip]
pub(super) const LIMITS: [Key; 13] = [
    key("handshake", Duration(MS.saturating_mul(10), MINUTE), Is(r#""5s""#), Live, r#""5s""#,
        "A TLS handshake, in either direction."),
    key("connect", Duration(MS.saturating_mul(10), MINUTE), Is(r#""5s""#), Live, r#""5s""#,
        "Connecting to a peer's daemon, or to the local application."),
    key("establish", Duration(MS.saturating_mul(10), MINUTE.saturating_mul(5)), Is(r#""10s""#), Live, r#""10s""#,
        "From accepting an application's connection to the peer's answer, all steps together."),
    key("drain", Duration(Time::ZERO, HOUR), Is(r#""30s""#), Live, r#""30s""#,
        "From SIGTERM until the connections that are still open are reset."),
    key("tunnel_idle", Duration(SECOND, DAY), Is(r#""5m""#), Live, r#""5m""#,
        "A tunnel that carries nothing for this long is closed. Connections themselves have no idle limit."),
    key("ping_interval", Duration(MS.saturating_mul(100), HOUR), Is(r#""10s""#), Restart, r#""10s""#,
        "A tunnel that was silent for this long is probed with a PING."),
    key("ping_timeout", Duration(MS.saturating_mul(100), HOUR), Is(r#""20s""#), Restart, r#""20s""#,
        "A tunnel whose PING is not answered within this is lost."),
    key("streams_per_tunnel", Count(1, 1_000_000), Is("1000"), Restart, "1000",
        "Connections that a tunnel carries at once; the next one makes another tunnel."),
    key("tunnels_per_far_peer", Count(1, 64), Is("4"), Live, "4",
        "Tunnels that a worker opens to a peer more than 2 ms away, which share its connections: over a distance one TCP connection carries less than both ends could, and a lost packet holds up all of its passengers."),
    key("pending_per_workload", Count(1, 1_000_000), Is("1024"), Restart, "1024",
        "Connections of one workload that are accepted and not yet established."),
    key("handshakes_per_worker", Count(1, 1_000_000), Is("256"), Restart, "256",
        "TLS handshakes under way at once, in each worker and direction. When all of them are taken by peers, whoever holds the most gives its oldest up to who holds fewer."),
    key("buffer_per_workload", Size(64 * KIB, 64 * GIB), Is(r#""32MiB""#), Restart, r#""32MiB""#,
        "Bytes that wait for slow readers, for each workload."),
    key("buffer_total", Size(KIB * KIB, 1024 * GIB), Is(r#""256MiB""#), Restart, r#""256MiB""#,
        "Bytes that wait for slow readers, in the whole daemon."),
];
