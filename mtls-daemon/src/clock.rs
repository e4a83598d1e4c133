//! Wall time, from one place: certificates are issued, renewed and judged by
//! the same clock, which tests can set.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;
use tokio::sync::watch;
use tokio::time::Instant;

/// A sleeper looks at the wall clock at least this often, so that a step of
/// the clock (NTP, a resumed machine) moves every deadline within that time.
const LOOK: Duration = Duration::from_secs(10);

/// The wall clock. Cheap to clone; all clones agree.
#[derive(Clone, Debug, Default)]
pub struct Clock(Option<Arc<Settable>>);

/// Sets a clock that was made by [`Clock::settable`].
#[derive(Clone, Debug)]
pub struct Hand(Arc<Settable>);

#[derive(Debug)]
struct Settable {
    /// What the clock showed at an instant; it goes on from there.
    shown: Mutex<(SystemTime, Instant)>,
    stepped: watch::Sender<()>,
}

impl Clock {
    /// The system's clock.
    pub fn system() -> Self {
        Self(None)
    }

    /// A clock that shows `start` now, goes on at the pace of tokio's clock
    /// (which a test can pause and advance), and can be set.
    pub fn settable(start: SystemTime) -> (Self, Hand) {
        let settable = Arc::new(Settable {
            shown: Mutex::new((start, Instant::now())),
            stepped: watch::Sender::new(()),
        });
        (Self(Some(Arc::clone(&settable))), Hand(settable))
    }

    pub fn now(&self) -> SystemTime {
        match &self.0 {
            None => SystemTime::now(),
            Some(settable) => {
                let (shown, at) = *settable
                    .shown
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                shown + at.elapsed()
            }
        }
    }

    /// Returns when the wall clock shows `at`; never without.
    pub async fn ring(&self, at: Option<SystemTime>) {
        match at {
            Some(at) => self.sleep_until(at).await,
            None => std::future::pending().await,
        }
    }

    /// Sleeps until the wall clock shows `deadline`, wherever it steps to in
    /// the meantime.
    pub async fn sleep_until(&self, deadline: SystemTime) {
        self.sleep_within(SystemTime::UNIX_EPOCH..deadline).await;
    }

    /// Sleeps as long as the wall clock shows a time in `span`: until its end,
    /// or until somebody sets it to before its start.
    pub async fn sleep_within(&self, span: Range<SystemTime>) {
        let mut stepped = self.0.as_ref().map(|settable| settable.stepped.subscribe());
        loop {
            let now = self.now();
            if !span.contains(&now) {
                return;
            }
            let left = span.end.duration_since(now).unwrap_or_default();
            let nap = tokio::time::sleep(left.min(LOOK));
            match &mut stepped {
                None => nap.await,
                Some(stepped) => tokio::select! {
                    () = nap => {}
                    // An error means that the clock's sender is gone, which
                    // `self` rules out.
                    _ = stepped.changed() => {}
                },
            }
        }
    }
}

impl Hand {
    pub fn set(&self, now: SystemTime) {
        *self.0.shown.lock().unwrap_or_else(PoisonError::into_inner) = (now, Instant::now());
        self.0.stepped.send_replace(());
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        unix_time(self.now())
    }
}

/// `time` as the TLS library wants it; `None` before 1970.
pub fn unix_time(time: SystemTime) -> Option<UnixTime> {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .ok()
        .map(UnixTime::since_unix_epoch)
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Duration = Duration::from_secs(1_700_000_000);

    #[tokio::test(start_paused = true)]
    async fn a_settable_clock_goes_on_with_tokios_clock() {
        let (clock, _hand) = Clock::settable(SystemTime::UNIX_EPOCH + START);
        tokio::time::advance(Duration::from_secs(90)).await;
        assert_eq!(
            clock.now(),
            SystemTime::UNIX_EPOCH + START + Duration::from_secs(90)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_step_forward_ends_a_sleep() {
        let start = SystemTime::UNIX_EPOCH + START;
        let (clock, hand) = Clock::settable(start);
        let sleeper = tokio::spawn({
            let clock = clock.clone();
            async move { clock.sleep_until(start + Duration::from_secs(3600)).await }
        });
        tokio::task::yield_now().await;
        assert!(!sleeper.is_finished());
        hand.set(start + Duration::from_secs(3601));
        sleeper.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_step_back_prolongs_a_sleep() {
        let start = SystemTime::UNIX_EPOCH + START;
        let (clock, hand) = Clock::settable(start);
        let began = Instant::now();
        let sleeper = tokio::spawn({
            let clock = clock.clone();
            async move { clock.sleep_until(start + Duration::from_secs(60)).await }
        });
        tokio::time::advance(Duration::from_secs(30)).await;
        hand.set(start);
        sleeper.await.unwrap();
        assert!(began.elapsed() >= Duration::from_secs(90));
    }
}
