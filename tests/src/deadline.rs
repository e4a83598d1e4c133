//! Waiting: always for something, never longer than a deadline.

use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use crate::error::{Error, Result};

/// How long a step of a story may take on a busy machine before it counts as
/// stuck. No story waits this long when things are well.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Between two looks at something that cannot notify us.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// A moment after which waiting is a failure.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(Instant);

impl Deadline {
    pub fn after(span: Duration) -> Self {
        Self(Instant::now() + span)
    }

    /// Time left; zero when it has passed.
    pub fn left(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    pub fn passed(self) -> bool {
        self.left().is_zero()
    }

    /// Time left in the form `poll(2)` takes, rounded up.
    pub fn left_for_poll(self) -> u16 {
        u16::try_from(self.left().as_millis() + 1).unwrap_or(u16::MAX)
    }
}

impl Default for Deadline {
    fn default() -> Self {
        Self::after(PATIENCE)
    }
}

/// Looks again and again until `look` finds something. Only for things that
/// have no way to notify us: another program's socket table, a file it writes.
pub fn wait_for<T, D: fmt::Display>(
    deadline: Deadline,
    what: impl FnOnce() -> D,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if deadline.passed() {
            return Err(Error::TimedOut {
                waiting_for: what().to_string(),
                seen: String::new(),
            });
        }
        std::thread::park_timeout(LOOK_EVERY);
    }
}

/// Measures a step.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    pub fn start() -> Self {
        Self(Instant::now())
    }

    pub fn elapsed(self) -> Duration {
        self.0.elapsed()
    }
}
