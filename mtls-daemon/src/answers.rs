//! What destinations answered lately, and which refusals the kernel is to
//! repeat for a moment without asking us.
//!
//! Each worker learns from its own connections.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::addr::OriginalDst;
use crate::netns::Cookie;
use crate::reason::Reason;

/// So long an acceptance speaks for a destination.
const REMEMBERED: Duration = Duration::from_secs(10);

/// Past this many remembered acceptances the old ones are forgotten, and if
/// none is old no more are remembered: then a refusal is noted that need not be.
const SWEEP_AT: usize = 4096;

/// So long the kernel lets connect() succeed there before anybody has answered.
pub const TRUSTED_FOR: Duration = Duration::from_secs(5);

struct Accepted {
    last: Instant,
    /// When the kernel heard of it.
    told: Instant,
}

/// Destinations that accepted, as one workload sees them: another one may be
/// refused there.
#[derive(Default)]
pub struct Answers {
    accepted: RefCell<HashMap<(Cookie, OriginalDst), Accepted>>,
}

impl Answers {
    /// Whether the kernel is to hear of it, too, which forgets it sooner.
    pub fn accepted(&self, by: Cookie, dst: OriginalDst) -> bool {
        let now = Instant::now();
        let mut accepted = self.accepted.borrow_mut();
        if let Some(seen) = accepted.get_mut(&(by, dst)) {
            seen.last = now;
            let tell = now - seen.told >= TRUSTED_FOR / 2;
            if tell {
                seen.told = now;
            }
            return tell;
        }
        if accepted.len() >= SWEEP_AT {
            accepted.retain(|_, seen| now - seen.last < REMEMBERED);
            if accepted.len() >= SWEEP_AT {
                return false;
            }
        }
        let seen = Accepted {
            last: now,
            told: now,
        };
        accepted.insert((by, dst), seen);
        true
    }

    /// Whether connect() is to fail there for a moment. Not if it accepted
    /// another connection shortly before: of many at once a single one may be
    /// refused. That counts once: a destination that has closed refuses again.
    pub fn refused(&self, by: Cookie, dst: OriginalDst, reason: Reason) -> bool {
        let earlier = self.accepted.borrow_mut().remove(&(by, dst));
        speaks_of_destination(reason)
            && earlier.is_none_or(|seen| seen.last.elapsed() >= REMEMBERED)
    }
}

/// Whether whoever dials there within the next second would hear the same. A
/// shortage, a limit, a lost tunnel or a fault of ours is over sooner, or hits
/// other connections differently.
fn speaks_of_destination(reason: Reason) -> bool {
    matches!(
        reason,
        // Nobody is there, or nobody who lets us in.
        Reason::UnknownDestination
            | Reason::OutsideRefused
            | Reason::NoHealthyEndpoint
            | Reason::PeerUnreachable
            | Reason::RefusedByPeer
            | Reason::UpstreamRefused
            // Whoever is there is not whom we look for.
            | Reason::Expired
            | Reason::NotYetValid
            | Reason::UnknownIssuer
            | Reason::Revoked
            | Reason::RevocationUnknown
            | Reason::BadSan
            | Reason::TrustDomain
            | Reason::BadEku
            | Reason::BadChain
            | Reason::NoCommonVersion
            | Reason::NoCommonGroup
            | Reason::NoCommonProtocol
            | Reason::AlertFromPeer
            | Reason::NotTls
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: Cookie = Cookie(7);

    fn dst(port: u16) -> OriginalDst {
        OriginalDst(([10, 0, 2, 7], port).into())
    }

    #[tokio::test(start_paused = true)]
    async fn a_closed_destination_is_noted() {
        let answers = Answers::default();
        assert!(answers.refused(POD, dst(1), Reason::UpstreamRefused));
    }

    #[tokio::test(start_paused = true)]
    async fn one_refusal_among_acceptances_is_not_noted_the_second_in_a_row_is() {
        let answers = Answers::default();
        answers.accepted(POD, dst(1));
        assert!(answers.refused(Cookie(8), dst(1), Reason::UpstreamRefused));
        assert!(answers.refused(POD, dst(2), Reason::UpstreamRefused));
        assert!(!answers.refused(POD, dst(1), Reason::UpstreamRefused));
        assert!(answers.refused(POD, dst(1), Reason::UpstreamRefused));
        answers.accepted(POD, dst(1));
        tokio::time::advance(REMEMBERED).await;
        assert!(answers.refused(POD, dst(1), Reason::UpstreamRefused));
    }

    #[tokio::test(start_paused = true)]
    async fn the_kernel_hears_of_acceptances_now_and_then() {
        let answers = Answers::default();
        assert!(answers.accepted(POD, dst(1)));
        assert!(!answers.accepted(POD, dst(1)));
        tokio::time::advance(TRUSTED_FOR / 2).await;
        assert!(answers.accepted(POD, dst(1)));
        answers.refused(POD, dst(1), Reason::UpstreamRefused);
        assert!(answers.accepted(POD, dst(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_the_destinations_is_never_noted() {
        let answers = Answers::default();
        let ours = [
            Reason::LimitReached,
            Reason::NoDescriptors,
            Reason::Timeout,
            Reason::TunnelLost,
            Reason::ResetByPeer,
            Reason::Draining,
            Reason::NoCert,
            Reason::Io,
            Reason::Eof,
            Reason::Internal,
        ];
        for reason in ours {
            assert!(!answers.refused(POD, dst(1), reason), "{reason}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_is_bounded() {
        let answers = Answers::default();
        for n in 0..SWEEP_AT as u64 + 9 {
            answers.accepted(Cookie(n), dst(1));
        }
        assert_eq!(answers.accepted.borrow().len(), SWEEP_AT);
        tokio::time::advance(REMEMBERED).await;
        answers.accepted(POD, dst(2));
        assert_eq!(answers.accepted.borrow().len(), 1);
    }
}
