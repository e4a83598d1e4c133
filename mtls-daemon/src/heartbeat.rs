//! Signs of life of the daemon's threads. Each thread's runtime beats every
//! second for as long as it gets to run its tasks; the health check reads how
//! long ago that was.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

const EVERY: Duration = Duration::from_secs(1);

/// All threads that beat. Cheap to clone.
#[derive(Clone)]
pub struct Heartbeats(Arc<Inner>);

struct Inner {
    origin: Instant,
    threads: Mutex<Vec<Arc<Thread>>>,
}

struct Thread {
    name: String,
    /// Milliseconds since `origin`.
    last: AtomicU64,
}

/// One thread's heartbeat.
pub struct Heartbeat {
    origin: Instant,
    thread: Arc<Thread>,
}

impl Heartbeats {
    pub fn new() -> Self {
        Self(Arc::new(Inner {
            origin: Instant::now(),
            threads: Mutex::default(),
        }))
    }

    /// Expects a thread of this name to beat from now on. There is no way
    /// out: a thread that ended without the process ending is not alive.
    pub fn expect(&self, name: impl Into<String>) -> Heartbeat {
        let thread = Arc::new(Thread {
            name: name.into(),
            last: AtomicU64::new(millis(self.0.origin.elapsed())),
        });
        self.0
            .threads
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Arc::clone(&thread));
        Heartbeat {
            origin: self.0.origin,
            thread,
        }
    }

    /// Each thread's name, and the time since its last beat.
    pub fn ages(&self) -> Vec<(String, Duration)> {
        let now = millis(self.0.origin.elapsed());
        self.0
            .threads
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .map(|thread| {
                let last = thread.last.load(Ordering::Relaxed);
                let age = Duration::from_millis(now.saturating_sub(last));
                (thread.name.clone(), age)
            })
            .collect()
    }
}

impl Default for Heartbeats {
    fn default() -> Self {
        Self::new()
    }
}

impl Heartbeat {
    /// Beats for ever; a task of the thread's own runtime.
    pub async fn run(self) {
        loop {
            let now = millis(self.origin.elapsed());
            self.thread.last.store(now, Ordering::Relaxed);
            tokio::time::sleep(EVERY).await;
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_thread_that_stops_grows_old() {
        let beats = Heartbeats::new();
        let alive = tokio::spawn(beats.expect("worker-0").run());
        let _stuck = beats.expect("worker-1");
        tokio::time::sleep(Duration::from_secs(10)).await;
        let ages = beats.ages();
        assert_eq!(ages[0].0, "worker-0");
        assert!(ages[0].1 <= EVERY, "{ages:?}");
        assert_eq!(ages[1], ("worker-1".to_owned(), Duration::from_secs(10)));
        alive.abort();
    }
}
