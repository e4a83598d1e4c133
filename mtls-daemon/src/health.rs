//! Which endpoints of a service answered lately.
//!
//! Each worker learns by itself from its own connections; there is no probing.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use crate::directory::Target;
use crate::reason::Reason;

/// So long an endpoint that failed is tried only after all others.
const SHUNNED_FOR: Duration = Duration::from_secs(5);

/// Past this many remembered failures the expired ones are forgotten.
const SWEEP_AT: usize = 1024;

#[derive(Default)]
pub struct Health {
    turn: Cell<usize>,
    shunned: RefCell<HashMap<SocketAddr, Instant>>,
}

impl Health {
    /// Another number for each connection that asked.
    pub fn turn(&self) -> usize {
        self.turn.get()
    }

    /// `targets` in the order to try them: round robin over the healthy,
    /// then those that failed lately, since a wrong guess must not refuse.
    pub fn in_turn<'a>(&self, targets: &'a [Target]) -> impl Iterator<Item = &'a Target> {
        let start = self.turn.get();
        self.turn.set(start.wrapping_add(1));
        let rotated = targets.iter().cycle().skip(start % targets.len().max(1));
        let now = Instant::now();
        let shunned = self.shunned.borrow();
        let (healthy, failed): (Vec<_>, Vec<_>) = rotated.take(targets.len()).partition(|target| {
            shunned
                .get(&target.address())
                .is_none_or(|until| *until <= now)
        });
        healthy.into_iter().chain(failed)
    }

    /// Whether `reason` speaks against the endpoint, so that another one of
    /// the same service may do better.
    pub fn blames(reason: Reason) -> bool {
        matches!(
            reason,
            Reason::PeerUnreachable
                | Reason::UpstreamRefused
                | Reason::ResetByPeer
                | Reason::TunnelLost
                | Reason::Timeout
                | Reason::Eof
                | Reason::Io
                | Reason::NotTls
                | Reason::AlertFromPeer
                | Reason::Expired
                | Reason::NotYetValid
                | Reason::UnknownIssuer
                | Reason::BadSan
        )
    }

    pub fn failed(&self, endpoint: SocketAddr) {
        let now = Instant::now();
        let mut shunned = self.shunned.borrow_mut();
        if shunned.len() >= SWEEP_AT {
            shunned.retain(|_, until| *until > now);
        }
        shunned.insert(endpoint, now + SHUNNED_FOR);
    }

    pub fn answered(&self, endpoint: SocketAddr) {
        let mut shunned = self.shunned.borrow_mut();
        if !shunned.is_empty() {
            shunned.remove(&endpoint);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(count: u16) -> Vec<Target> {
        let at = |port| Target::Outside(SocketAddr::from(([10, 0, 2, 7], port)));
        (1..=count).map(at).collect()
    }

    fn order(health: &Health, targets: &[Target]) -> Vec<u16> {
        let turn = health.in_turn(targets);
        turn.map(|target| target.address().port()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn healthy_endpoints_take_turns() {
        let (health, three) = (Health::default(), endpoints(3));
        assert_eq!(order(&health, &three), [1, 2, 3]);
        assert_eq!(order(&health, &three), [2, 3, 1]);
        assert_eq!(order(&health, &three), [3, 1, 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_failed_comes_last_for_a_while() {
        let (health, three) = (Health::default(), endpoints(3));
        health.failed(three[0].address());
        assert_eq!(order(&health, &three), [2, 3, 1]);
        tokio::time::advance(SHUNNED_FOR).await;
        health.turn.set(0);
        assert_eq!(order(&health, &three), [1, 2, 3]);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_answers_is_forgiven() {
        let (health, three) = (Health::default(), endpoints(3));
        health.failed(three[0].address());
        health.answered(three[0].address());
        assert_eq!(order(&health, &three), [1, 2, 3]);
    }

    #[tokio::test(start_paused = true)]
    async fn when_all_failed_all_are_tried() {
        let (health, two) = (Health::default(), endpoints(2));
        health.failed(two[0].address());
        health.failed(two[1].address());
        assert_eq!(order(&health, &two).len(), 2);
    }
}
