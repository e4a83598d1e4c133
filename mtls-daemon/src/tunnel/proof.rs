//! Frames of our own, on which either end proves that its certificate was
//! renewed: certificates live for an hour, connections for weeks. Both ends
//! say in SETTINGS that they know them; other peers' endpoints skip both, as
//! HTTP/2 wants it (RFC 9113, 5.5 and 6.5.2).
//!
//! What a proof says stands in `tls::proof`; here it is bytes.

use std::task::Waker;

use super::control::size;
use super::endpoint::{Endpoint, flood};
use super::event_loop::Shared;
use super::frame::{self, Head};
use super::outcome::Violation;
use super::receive::protocol;

/// What a peer says about proofs.
#[derive(Debug, PartialEq, Eq)]
pub enum ProofNews {
    /// It takes ours: said once, with its first words.
    Takes,
    /// Its certificate was renewed: its proof.
    Proved(Vec<u8>),
}

/// What one tunnel knows of proofs.
#[derive(Default)]
pub(super) struct Proofs {
    /// The peer knows these frames.
    pub(super) taken: bool,
    /// And somebody was told so.
    told: bool,
    /// The peer's newest, until somebody looks at it.
    pub(super) newest: Option<Vec<u8>>,
    pub(super) waiter: Option<Waker>,
}

impl Proofs {
    pub(super) fn news(&mut self) -> Option<ProofNews> {
        if self.taken && !self.told {
            self.told = true;
            return Some(ProofNews::Takes);
        }
        self.newest.take().map(ProofNews::Proved)
    }
}

impl Endpoint {
    /// Sends a proof; false if the peer would not take it.
    pub(super) fn prove(&mut self, proof: &[u8]) -> bool {
        let fits = proof.len() <= self.peer.max_frame as usize;
        let taken = self.proofs.taken && fits && self.end.is_none();
        if taken {
            frame::put_proof(&mut self.out, proof);
        }
        taken
    }

    /// The newest one counts: one that nobody has looked at yet is replaced.
    pub(super) fn proof_frame(
        &mut self,
        head: Head,
        payload: &[u8],
        shared: &mut Shared,
    ) -> Result<(), Violation> {
        if head.stream != 0 {
            return Err(protocol("a proof on a stream"));
        }
        if payload.is_empty() {
            return Err(size("a proof of nothing"));
        }
        if !self.limits.proof(shared.millis) {
            return Err(flood("proofs without end"));
        }
        self.proofs.newest = Some(payload.to_vec());
        shared.wake(&mut self.proofs.waiter);
        Ok(())
    }
}
