//! Which endpoints of a service answered lately.
//!
//! Each worker learns by itself from its own connections; there is no probing.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use crate::directory::Target;
use crate::policy::Route;
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

    /// A route's targets in the order to try them: round robin over the healthy,
    /// if it may be any, then those that failed lately, since a wrong guess must
    /// not refuse.
    pub fn in_turn<'a>(&self, route: &'a Route) -> impl Iterator<Item = &'a Target> {
        let targets = &route.targets;
        let mut start = 0;
        if route.any {
            start = self.turn.get();
            self.turn.set(start.wrapping_add(1));
        }
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

    fn endpoints(count: u16) -> Route {
        let at = |port| Target::Outside(SocketAddr::from(([10, 0, 2, 7], port)));
        Route {
            targets: (1..=count).map(at).collect(),
            any: true,
        }
    }

    fn order(health: &Health, route: &Route) -> Vec<u16> {
        let turn = health.in_turn(route);
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
        health.failed(three.targets[0].address());
        assert_eq!(order(&health, &three), [2, 3, 1]);
        tokio::time::advance(SHUNNED_FOR).await;
        health.turn.set(0);
        assert_eq!(order(&health, &three), [1, 2, 3]);
    }

    #[tokio::test(start_paused = true)]
    async fn whom_a_client_keeps_to_is_first_unless_it_failed() {
        let health = Health::default();
        let kept = Route {
            any: false,
            ..endpoints(3)
        };
        assert_eq!(order(&health, &kept), [1, 2, 3]);
        assert_eq!(order(&health, &kept), [1, 2, 3]);
        health.failed(kept.targets[0].address());
        assert_eq!(order(&health, &kept), [2, 3, 1]);
        // Nobody else's turn has gone by.
        assert_eq!(order(&health, &endpoints(3)), [2, 3, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_answers_is_forgiven() {
        let (health, three) = (Health::default(), endpoints(3));
        health.failed(three.targets[0].address());
        health.answered(three.targets[0].address());
        assert_eq!(order(&health, &three), [1, 2, 3]);
    }

    #[tokio::test(start_paused = true)]
    async fn when_all_failed_all_are_tried() {
        let (health, two) = (Health::default(), endpoints(2));
        health.failed(two.targets[0].address());
        health.failed(two.targets[1].address());
        assert_eq!(order(&health, &two).len(), 2);
    }
}
