//! When to ask for the next certificate: half-way through the life of the one
//! held, spread out so that workloads which started together do not stay
//! together; after a failure again and again, ever more slowly.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, SystemTime};

use super::source::Standing;
use super::svid::Svid;
use crate::clock::Clock;

/// How sources are driven. Not configuration: tests shorten it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Timings {
    /// Wait after a first failure; doubles with each further one.
    pub backoff_floor: Duration,
    pub backoff_cap: Duration,
    /// However short a certificate's life: never renewed sooner than this.
    pub renewal_floor: Duration,
    /// How often files are looked at.
    pub poll: Duration,
    /// How long changed files may stay unusable before that is a failure:
    /// writers that do not swap their files in one step get time to finish.
    pub settle: Duration,
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            backoff_floor: Duration::from_millis(500),
            backoff_cap: Duration::from_secs(60),
            renewal_floor: Duration::from_secs(1),
            poll: Duration::from_secs(2),
            settle: Duration::from_secs(1),
        }
    }
}

/// The pace of one stream of updates.
#[derive(Clone, Debug)]
pub struct Pace {
    timings: Timings,
    clock: Clock,
    /// Differs between streams and processes: replicas of a workload on many
    /// nodes share their SPIFFE ID, and must not ask in step.
    seed: u64,
}

/// Renewal lies this part of a life before or after its half, at most.
const SPREAD: f64 = 0.1;

impl Pace {
    pub fn new(timings: Timings, clock: Clock, seed: u64) -> Self {
        Self {
            timings,
            clock,
            seed,
        }
    }

    /// When to ask for the successor of `held`.
    pub fn renew_at(&self, held: &Svid) -> SystemTime {
        let life = held
            .good_until()
            .duration_since(held.obtained())
            .unwrap_or_default();
        let part = 0.5 + SPREAD * (2.0 * self.fraction(held.serial()) - 1.0);
        held.obtained() + life.mul_f64(part).max(self.timings.renewal_floor)
    }

    /// How long to wait after so many failures in a row: between half of and
    /// the whole doubled floor.
    pub fn backoff(&self, failures: u32) -> Duration {
        let doubled = self.timings.backoff_floor.saturating_mul(
            1_u32
                .checked_shl(failures.saturating_sub(1))
                .unwrap_or(u32::MAX),
        );
        let part = 0.5 + 0.5 * self.fraction(failures);
        doubled.min(self.timings.backoff_cap).mul_f64(part)
    }

    /// Returns when an authority should be asked.
    pub async fn wait(&self, standing: &Standing) {
        match (&standing.held, standing.failures) {
            (None, 0) => {}
            (Some(held), 0) => tokio::select! {
                // One that begins later than now is of no use: the clock was
                // set back.
                () = self.clock.sleep_within(held.not_before()..self.renew_at(held)) => {}
                () = standing.hurry.notified() => {}
            },
            (_, failures) => tokio::time::sleep(self.backoff(failures)).await,
        }
    }

    /// A number in 0..1, the same for the same `what`.
    fn fraction(&self, what: impl Hash) -> f64 {
        let mut hasher = DefaultHasher::new();
        self.seed.hash(&mut hasher);
        what.hash(&mut hasher);
        // The upper 32 bits are exact in a double.
        f64::from((hasher.finish() >> 32) as u32) / f64::from(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn waits_grow_up_to_a_cap_and_never_vanish(seed: u64, failures in 1_u32..) {
            let timings = Timings::default();
            let (floor, cap) = (timings.backoff_floor, timings.backoff_cap);
            let pace = Pace::new(timings, Clock::system(), seed);
            let wait = pace.backoff(failures);
            prop_assert!(wait >= floor / 2 && wait <= cap);
            // Eight doublings of the floor are past the cap.
            prop_assert!(failures < 9 || wait >= cap / 2);
        }
    }

    #[test]
    fn streams_do_not_wait_in_step() {
        let wait = |seed| Pace::new(Timings::default(), Clock::system(), seed).backoff(8);
        assert_ne!(wait(1), wait(2));
    }
}
