//! Who talks in clear with the workloads of this node, as far as the daemon
//! carries it: what a workload would lose if it turned strict.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use super::labels::Direction;
use super::{Metrics, ThreadMetrics, lock};

/// One caller and one port of a workload, or one that it calls and the port there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct InClear {
    pub workload: Arc<str>,
    pub direction: Direction,
    pub other: IpAddr,
    pub port: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    pub connections: u64,
    pub last: Instant,
}

/// What was not seen again for so long counts no more.
const WINDOW: Duration = Duration::from_secs(24 * 3600);

/// That one thread remembers: callers choose their addresses.
const MOST: usize = 4096;

/// Of one thread: the lock is its own but for who asks.
#[derive(Default)]
pub(super) struct Observed(Mutex<Book>);

#[derive(Default)]
struct Book {
    seen: BTreeMap<InClear, Seen>,
    /// When there was last no room.
    full: Option<Instant>,
}

/// All threads together.
#[derive(Debug, Default)]
pub struct Observations {
    pub seen: BTreeMap<InClear, Seen>,
    /// There was more than could be remembered.
    pub is_incomplete: bool,
}

impl ThreadMetrics {
    /// A connection in clear that strict would not allow.
    pub fn seen_in_clear(&self, what: InClear) {
        let now = Instant::now();
        let mut book = lock(&self.shard.observed.0);
        if let Some(seen) = book.seen.get_mut(&what) {
            seen.connections += 1;
            seen.last = now;
            return;
        }
        if book.seen.len() >= MOST {
            book.seen.retain(|_, seen| counts(seen.last, now));
        }
        if book.seen.len() >= MOST {
            book.full = Some(now);
            return;
        }
        let seen = Seen {
            connections: 1,
            last: now,
        };
        book.seen.insert(what, seen);
    }
}

impl Metrics {
    /// What was seen in clear within the last `WINDOW`.
    pub fn observations(&self) -> Observations {
        let now = Instant::now();
        let mut all = Observations::default();
        for shard in &*lock(&self.0.shards) {
            let book = lock(&shard.observed.0);
            all.is_incomplete |= book.full.is_some_and(|full| counts(full, now));
            for (what, seen) in book.seen.iter().filter(|(_, seen)| counts(seen.last, now)) {
                let sum = all.seen.entry(what.clone()).or_insert(Seen {
                    connections: 0,
                    last: seen.last,
                });
                sum.connections += seen.connections;
                sum.last = sum.last.max(seen.last);
            }
        }
        all
    }

    /// Nobody asks about a workload that is gone.
    pub fn forget_in_clear(&self, workload: &str) {
        for shard in &*lock(&self.0.shards) {
            let mut book = lock(&shard.observed.0);
            book.seen.retain(|what, _| &*what.workload != workload);
        }
    }
}

fn counts(last: Instant, now: Instant) -> bool {
    now.saturating_duration_since(last) < WINDOW
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::SystemTime;

    use super::*;

    fn from(caller: u32) -> InClear {
        InClear {
            workload: Arc::from("db"),
            direction: Direction::Inbound,
            other: IpAddr::V4(Ipv4Addr::from_bits(caller)),
            port: 5432,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_counts_until_it_stays_away() {
        let metrics = Metrics::new(SystemTime::now());
        for thread in [metrics.thread(), metrics.thread()] {
            thread.seen_in_clear(from(1));
        }
        tokio::time::advance(WINDOW / 2).await;
        metrics.thread().seen_in_clear(from(2));
        let all = metrics.observations();
        assert_eq!(all.seen[&from(1)].connections, 2);
        tokio::time::advance(WINDOW / 2).await;
        let left: Vec<_> = metrics.observations().seen.into_keys().collect();
        assert_eq!(left, [from(2)]);
        metrics.forget_in_clear("db");
        assert!(metrics.observations().seen.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn more_than_fits_is_told_and_makes_room_in_time() {
        let metrics = Metrics::new(SystemTime::now());
        let thread = metrics.thread();
        let most = u32::try_from(MOST).unwrap();
        (0..most).for_each(|caller| thread.seen_in_clear(from(caller)));
        assert!(!metrics.observations().is_incomplete);
        thread.seen_in_clear(from(most));
        assert!(metrics.observations().is_incomplete);
        tokio::time::advance(WINDOW).await;
        thread.seen_in_clear(from(most));
        let all = metrics.observations();
        assert_eq!((all.seen.len(), all.is_incomplete), (1, false));
    }
}
