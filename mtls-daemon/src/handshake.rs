//! Counting handshakes, the same way at both ends.

use crate::metrics::{Direction, ThreadMetrics};
use crate::refused::Refused;
use crate::tls::{HandshakeError, Handshaken};

/// `handshake`, counted; a failure becomes the refusal that it causes.
pub fn counted<C>(
    handshake: Result<Handshaken<C>, HandshakeError>,
    direction: Direction,
    metrics: &ThreadMetrics,
) -> Result<Handshaken<C>, Refused> {
    match handshake {
        Ok(done) => {
            let facts = done.facts;
            metrics.handshake_done(direction, facts.resumed, facts.group, facts.took);
            if let Some(why) = &done.peer.revocation_unknown {
                metrics.revocation_unknown(direction);
                tracing::warn!(
                    peer = %done.peer.id, serial = done.peer.serial,
                    "taken although it may have been revoked: {why}"
                );
            }
            Ok(done)
        }
        Err(error) => {
            metrics.handshake_failed(direction, error.reason());
            Err(Refused::new(error.reason(), error.to_string()))
        }
    }
}
