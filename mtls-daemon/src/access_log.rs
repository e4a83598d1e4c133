//! One line for each connection, at its end. Both daemons write one, under
//! the same id and with the same meaning of "server" and "client".

use std::time::Duration;

use crate::addr::{ClientAddr, OriginalDst, TunnelAddr};
use crate::metrics::{Direction, Plaintext};
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
    /// In clear, and why.
    None(Plaintext),
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
    /// The other end of the tunnel; without a tunnel, of the connection in clear.
    pub peer: Option<TunnelAddr>,
    pub tunnel: Option<TunnelUse>,
    /// The policy's rule that let it in or did not, at the server's node.
    pub rule: Option<&'a str>,
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
            Self::None(_) => "none",
        }
    }

    /// Why there is none.
    pub fn in_clear(self) -> Option<&'static str> {
        match self {
            Self::New | Self::Reused => None,
            Self::None(why) => Some(why.word()),
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
        in_clear = record.tunnel.and_then(TunnelUse::in_clear),
        rule = record.rule,
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

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    use serde_json::{Value, json};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(record: &AccessRecord<'_>) -> Value {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .json()
            .flatten_event(true)
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, || log(record));
        let bytes = lines.0.lock().unwrap().clone();
        serde_json::from_slice(&bytes).unwrap()
    }

    fn record<'a>(source: &'a SpiffeId, destination: &'a SpiffeId) -> AccessRecord<'a> {
        AccessRecord {
            id: ConnectionId::from_digits("4bf92f3577b34da6a3ce929d0e0e4736").unwrap(),
            direction: Direction::Outbound,
            workload: Some("web"),
            source: Some(source),
            destination: Some(destination),
            client: Some(ClientAddr("10.0.1.4:41022".parse().unwrap())),
            original_dst: Some(OriginalDst("10.0.2.7:5432".parse().unwrap())),
            peer: Some(TunnelAddr("10.0.2.7:15008".parse().unwrap())),
            tunnel: Some(TunnelUse::Reused),
            rule: Some("callers[0]"),
            to_server: 5,
            to_client: 7,
            duration: Duration::from_nanos(1_234_567_890),
            reason: Reason::ResetByPeer,
            detail: Some("CANCEL"),
        }
    }

    #[test]
    fn a_line_says_all_that_is_known() {
        let source = "spiffe://example.org/web".parse().unwrap();
        let destination = "spiffe://example.org/db".parse().unwrap();
        let line = logged(&record(&source, &destination));
        let expected = json!({
            "timestamp": line["timestamp"],
            "level": "INFO",
            "target": "access",
            "schema": 1,
            "id": "4bf92f3577b34da6a3ce929d0e0e4736",
            "direction": "outbound",
            "workload": "web",
            "source": "spiffe://example.org/web",
            "destination": "spiffe://example.org/db",
            "client": "10.0.1.4:41022",
            "original_dst": "10.0.2.7:5432",
            "peer": "10.0.2.7:15008",
            "tunnel": "reused",
            "rule": "callers[0]",
            "bytes_to_server": 5,
            "bytes_to_client": 7,
            "duration_seconds": 1.234568,
            "reason": "reset_by_peer",
            "detail": "CANCEL",
        });
        assert_eq!(line, expected);
    }

    #[test]
    fn what_a_refusal_leaves_unknown_is_left_out() {
        let source = "spiffe://example.org/web".parse().unwrap();
        let refused = AccessRecord {
            destination: None,
            peer: None,
            tunnel: None,
            rule: None,
            detail: None,
            ..record(&source, &source)
        };
        let line = logged(&refused);
        for absent in ["destination", "peer", "tunnel", "rule", "detail"] {
            assert_eq!(line.get(absent), None, "{absent}");
        }
    }

    #[test]
    fn every_field_is_documented() {
        let id = "spiffe://example.org/web".parse().unwrap();
        let line = logged(&record(&id, &id));
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operations.md");
        let documentation = std::fs::read_to_string(path).unwrap();
        for field in line.as_object().unwrap().keys() {
            assert!(documentation.contains(&format!("| `{field}` |")), "{field}");
        }
    }
}
