//! Flow control: how much we may send, how much the peer may send us, and how
//! a stream's window grows with what its application drains.

/// The windows' clock: milliseconds since the loop's start, wrapping.
pub(super) type Millis = u32;

/// A window a quarter of which is drained within this time is in the way: its
/// flow moves so many bytes that a larger one may make it faster.
const GROW_WITHIN: Millis = 50;
/// And one whose quarter lasts longer than this gives back what it had grown.
const SHRINK_AFTER: Millis = 2_000;

/// What we may send on a stream or a connection. A change of the peer's
/// initial window can make it negative.
#[derive(Clone, Copy, Debug)]
pub(super) struct SendWindow(i32);

/// The window would pass 2^31 - 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Overflow;

impl SendWindow {
    pub(super) fn new(size: u32) -> Self {
        Self(i32::try_from(size).unwrap_or(i32::MAX))
    }

    /// Bytes that may be sent now.
    pub(super) fn open(self) -> usize {
        usize::try_from(self.0).unwrap_or(0)
    }

    /// Counts `n` bytes as sent; `n` is at most what is open.
    pub(super) fn spend(&mut self, n: usize) {
        debug_assert!(n <= self.open(), "sent past the window");
        self.0 = self.0.saturating_sub(i32::try_from(n).unwrap_or(i32::MAX));
    }

    /// A WINDOW_UPDATE.
    pub(super) fn add(&mut self, increment: u32) -> Result<(), Overflow> {
        self.shift(i64::from(increment))
    }

    /// The peer's initial window changed by `delta`.
    pub(super) fn shift(&mut self, delta: i64) -> Result<(), Overflow> {
        let shifted = i64::from(self.0) + delta;
        self.0 = i32::try_from(shifted).map_err(|_out_of_range| Overflow)?;
        Ok(())
    }
}

/// The peer sent more than its window allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Exceeded;

/// What the peer may send us in a tunnel. Given back as the bytes arrive, so
/// that no stalled stream can use it up.
#[derive(Clone, Copy, Debug)]
pub(super) struct ConnectionWindow {
    size: u32,
    left: u32,
}

impl ConnectionWindow {
    pub(super) fn new(size: u32) -> Self {
        Self { size, left: size }
    }

    /// Counts `n` arriving bytes; gives the increment to send, if it is time.
    pub(super) fn receive(&mut self, n: u32) -> Result<Option<u32>, Exceeded> {
        self.left = self.left.checked_sub(n).ok_or(Exceeded)?;
        // A quarter at a time: three quarters stay open for what is on the way.
        let used = self.size - self.left;
        if used < self.size / 4 {
            return Ok(None);
        }
        self.left = self.size;
        Ok(Some(used))
    }
}

/// How far windows may grow past their start, all together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Growth {
    used: u64,
    limit: u64,
}

impl Growth {
    pub(super) fn new(limit: u64) -> Self {
        Self { used: 0, limit }
    }

    #[cfg(any(test, fuzzing))]
    pub(super) fn is_unused(self) -> bool {
        self.used == 0
    }

    fn room(self, n: u32) -> bool {
        self.limit.saturating_sub(self.used) >= u64::from(n)
    }

    fn take(&mut self, n: u32) {
        self.used += u64::from(n);
    }

    pub(super) fn give(&mut self, n: u32) {
        self.used = self.used.saturating_sub(u64::from(n));
    }
}

/// What the peer may send us on one stream: given back as its application
/// takes the bytes, so that what waits here never exceeds it.
#[derive(Clone, Copy, Debug)]
pub(super) struct StreamWindow {
    /// What it is kept at.
    size: u32,
    /// What the peer may still send.
    left: u32,
    /// Delivered, and not yet given back.
    owed: u32,
    /// When it was last given back.
    since: Millis,
}

/// What delivering bytes leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GiveBack {
    /// The WINDOW_UPDATE to send.
    pub(super) increment: u32,
    /// Whether the window should have grown, and no budget had room for it.
    pub(super) denied: bool,
}

impl StreamWindow {
    pub(super) fn new(size: u32, now: Millis) -> Self {
        Self {
            size,
            left: size,
            owed: 0,
            since: now,
        }
    }

    /// Counts `n` arriving bytes.
    pub(super) fn receive(&mut self, n: u32) -> Result<(), Exceeded> {
        self.left = self.left.checked_sub(n).ok_or(Exceeded)?;
        Ok(())
    }

    /// Counts `n` bytes as taken by the application, or as padding. `start`
    /// and `most`, which is told how large the window is, are its bounds; the
    /// budgets are the tunnel's and the loop's.
    pub(super) fn deliver(
        &mut self,
        n: u32,
        now: Millis,
        (start, most): (u32, impl FnOnce(u32) -> u32),
        budgets: [&mut Growth; 2],
    ) -> Option<GiveBack> {
        self.owed += n;
        // A quarter at a time: given back by halves, a peer 10 ms away waits
        // half of the time.
        if self.owed < self.size / 4 {
            return None;
        }
        let took = now.wrapping_sub(self.since);
        let mut increment = self.owed;
        let mut denied = false;
        if took <= GROW_WITHIN {
            let more = self.size.min(most(self.size).saturating_sub(self.size));
            let room = budgets.iter().all(|budget| budget.room(more));
            if room {
                budgets.into_iter().for_each(|budget| budget.take(more));
                self.size += more;
                increment += more;
            }
            denied = !room;
        } else if took > SHRINK_AFTER && self.size > start {
            // Only what is owed can be kept back: what the peer was told, stays.
            let less = (self.size - start).min(self.size / 2).min(self.owed - 1);
            budgets.into_iter().for_each(|budget| budget.give(less));
            self.size -= less;
            increment -= less;
        }
        self.left += increment;
        self.owed = 0;
        self.since = now;
        Some(GiveBack { increment, denied })
    }

    /// The stream is over: how far the window had grown past its start.
    pub(super) fn release(&mut self, start: u32) -> u32 {
        let grown = self.size.saturating_sub(start);
        self.size -= grown;
        grown
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const START: u32 = 65_536;
    const MOST: u32 = 4 << 20;

    #[test]
    fn a_send_window_can_fall_below_nothing() {
        let mut window = SendWindow::new(65_535);
        window.spend(65_000);
        window.shift(-65_435).unwrap();
        assert_eq!(window.open(), 0);
        window.add(64_900).unwrap();
        assert_eq!(window.open(), 0, "100 below nothing, then nothing");
        window.add(1).unwrap();
        assert_eq!(window.open(), 1);
        assert_eq!(window.add(0x7fff_ffff), Err(Overflow));
        assert_eq!(SendWindow::new(0x7fff_ffff).add(1), Err(Overflow));
    }

    #[test]
    fn a_connection_window_is_given_back_by_quarters() {
        let mut window = ConnectionWindow::new(1_000);
        assert_eq!(window.receive(249), Ok(None));
        assert_eq!(window.receive(1), Ok(Some(250)));
        assert_eq!(window.receive(1_000), Ok(Some(1_000)));
        assert_eq!(window.receive(1_001), Err(Exceeded));
    }

    #[test]
    fn a_stream_window_grows_while_it_is_drained_fast() {
        let mut budgets = [Growth::new(1 << 30), Growth::new(1 << 30)];
        let mut window = StreamWindow::new(START, 0);
        let mut now = 0;
        let mut deliver = |window: &mut StreamWindow, took: Millis| {
            let n = window.size / 2;
            now += took;
            window.receive(n).unwrap();
            let [a, b] = &mut budgets;
            window.deliver(n, now, (START, |_| MOST), [a, b]).unwrap()
        };
        let first = deliver(&mut window, 10);
        assert_eq!(first.increment, START / 2 + START);
        assert_eq!(window.size, 2 * START);
        // At its own pace, it stays.
        deliver(&mut window, 500);
        assert_eq!(window.size, 2 * START);
        for _ in 0..10 {
            deliver(&mut window, 10);
        }
        assert_eq!(window.size, MOST);
        // Slow for long, it gives back, but never what the peer was promised.
        for _ in 0..20 {
            deliver(&mut window, 5_000);
        }
        assert!(window.size <= START + 1, "{}", window.size);
    }

    #[test]
    fn growth_has_a_budget() {
        let mut small = Growth::new(u64::from(START));
        let mut large = Growth::new(1 << 30);
        let mut windows = [StreamWindow::new(START, 0), StreamWindow::new(START, 0)];
        let mut deliver = |window: &mut StreamWindow| {
            window.receive(START / 2).unwrap();
            let budgets = [&mut small, &mut large];
            window
                .deliver(START / 2, 1, (START, |_| MOST), budgets)
                .unwrap()
        };
        assert!(!deliver(&mut windows[0]).denied);
        let denied = deliver(&mut windows[1]);
        assert_eq!((denied.increment, denied.denied), (START / 2, true));
        assert_eq!(windows[0].release(START), START);
        assert_eq!(windows[1].release(START), 0);
        assert_eq!(
            (small.used, large.used),
            (u64::from(START), u64::from(START))
        );
    }

    proptest! {
        /// What waits here never exceeds the window, whatever the pace.
        #[test]
        fn what_waits_is_bounded(
            steps in vec((any::<u32>(), any::<u32>(), 0..4_000u32), 0..200),
        ) {
            let mut budgets = [Growth::new(8 << 20), Growth::new(1 << 20)];
            let mut window = StreamWindow::new(START, 0);
            let (mut waits, mut now) = (0, 0);
            for (arrives, taken, took) in steps {
                let arrives = arrives % (window.left + 1);
                window.receive(arrives).unwrap();
                waits += arrives;
                let taken = taken % (waits + 1);
                waits -= taken;
                now += took;
                let [a, b] = &mut budgets;
                let back = window.deliver(taken, now, (START, |_| MOST), [a, b]);
                prop_assert!(back.is_none_or(|back| back.increment > 0));
                prop_assert_eq!(window.left + window.owed + waits, window.size);
                prop_assert!((START..=MOST).contains(&window.size));
                prop_assert_eq!(u64::from(window.size - START), budgets[0].used);
            }
            prop_assert_eq!(window.receive(window.left + 1), Err(Exceeded));
            let grown = u64::from(window.release(START));
            prop_assert_eq!(grown, budgets[1].used);
        }
    }
}
