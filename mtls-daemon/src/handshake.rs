//! Counting handshakes and telling of those that failed, the same way at both
//! ends.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt::Display;
use std::time::Duration;

use tokio::time::Instant;

use crate::metrics::{Direction, ThreadMetrics};
use crate::reason::Reason;
use crate::refused::Refused;
use crate::tls::{HandshakeError, Handshaken};
use crate::workload::Workload;

/// `handshake`, counted; a failure becomes the refusal that it causes.
pub fn counted(
    handshake: Result<Handshaken, HandshakeError>,
    direction: Direction,
    metrics: &ThreadMetrics,
) -> Result<Handshaken, Refused> {
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
            metrics.handshake_failed_after(direction, error.reason(), error.took);
            Err(Refused::new(error.reason(), error.to_string()))
        }
    }
}

/// Says why there is no tunnel, in one line with what to do about it. A peer
/// that tries again and again is told of now and then, with how often.
pub fn tell(direction: Direction, workload: &Workload, peer: &dyn Display, refused: &Refused) {
    let reason = refused.reason;
    let Some(untold) = TOLD.with_borrow_mut(|told| told.due((direction, reason), Instant::now()))
    else {
        return;
    };
    tracing::warn!(
        workload = %workload.name, identity = %workload.id, direction = direction.word(),
        %peer, %reason, detail = refused.detail, untold, remedy = reason.remedy(),
        "no tunnel"
    );
}

thread_local! {
    static TOLD: RefCell<Told> = RefCell::default();
}

/// When something of a kind was last told, and what was passed over since.
#[derive(Default)]
struct Told(HashMap<(Direction, Reason), (Instant, u64)>);

const TELL_EVERY: Duration = Duration::from_secs(1);

impl Told {
    /// How many were passed over, if it is time to tell.
    fn due(&mut self, kind: (Direction, Reason), now: Instant) -> Option<u64> {
        match self.0.get_mut(&kind) {
            Some((last, untold)) if now.saturating_duration_since(*last) < TELL_EVERY => {
                *untold += 1;
                None
            }
            Some((last, untold)) => {
                *last = now;
                Some(std::mem::take(untold))
            }
            None => {
                self.0.insert(kind, (now, 0));
                Some(0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_told_once_a_second_with_what_was_passed_over() {
        let mut told = Told::default();
        let start = Instant::now();
        let kind = (Direction::Inbound, Reason::Expired);
        let due =
            |told: &mut Told, kind, millis| told.due(kind, start + Duration::from_millis(millis));
        assert_eq!(due(&mut told, kind, 0), Some(0));
        assert_eq!(due(&mut told, kind, 300), None);
        assert_eq!(due(&mut told, kind, 999), None);
        assert_eq!(
            due(&mut told, (Direction::Outbound, Reason::Expired), 999),
            Some(0)
        );
        assert_eq!(due(&mut told, kind, 1000), Some(2));
        assert_eq!(due(&mut told, kind, 2500), Some(0));
    }
}
