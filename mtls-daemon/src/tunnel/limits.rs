//! What a peer may do before it is called a flood: each kind of frame that
//! costs us work and moves no bytes draws on a bucket that refills with time.

use super::windows::Millis;

/// How many at once, and how many more each second.
#[derive(Clone, Copy, Debug)]
struct Rate {
    burst: u32,
    per_second: u32,
}

/// A bucket of one kind.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    rate: Rate,
    /// Thousandths of one frame, so that slow rates refill too.
    left: u64,
    at: Millis,
}

impl Bucket {
    fn new(rate: Rate, now: Millis) -> Self {
        Self {
            rate,
            left: u64::from(rate.burst) * 1_000,
            at: now,
        }
    }

    /// Draws one; false when the bucket is empty.
    fn draw(&mut self, now: Millis) -> bool {
        let passed = u64::from(now.wrapping_sub(self.at));
        let most = u64::from(self.rate.burst) * 1_000;
        self.at = now;
        self.left = (self.left + passed * u64::from(self.rate.per_second)).min(most);
        let drawn = self.left.checked_sub(1_000);
        self.left = drawn.unwrap_or(self.left);
        drawn.is_some()
    }
}

/// The buckets of one tunnel.
#[derive(Debug)]
pub(super) struct Limits {
    /// Streams that were opened and reset before we had answered: a rapid
    /// reset makes us dial for nothing. Applications that give up early do the
    /// same in small numbers. Requests that we refused count as well.
    early_reset: Bucket,
    ping: Bucket,
    settings: Bucket,
    /// DATA without a byte and without an end, and frames that we only skip.
    idle_frame: Bucket,
    /// Each costs a signature's check; honest peers send one in a certificate's
    /// half-life, which may be seconds.
    proof: Bucket,
}

impl Limits {
    pub(super) fn new(now: Millis) -> Self {
        let bucket = |burst, per_second| Bucket::new(Rate { burst, per_second }, now);
        Self {
            early_reset: bucket(1_000, 200),
            // Some endpoints measure their bandwidth with a PING each round trip.
            ping: bucket(1_000, 200),
            settings: bucket(50, 1),
            idle_frame: bucket(1_000, 200),
            proof: bucket(20, 1),
        }
    }

    pub(super) fn early_reset(&mut self, now: Millis) -> bool {
        self.early_reset.draw(now)
    }

    pub(super) fn ping(&mut self, now: Millis) -> bool {
        self.ping.draw(now)
    }

    pub(super) fn settings(&mut self, now: Millis) -> bool {
        self.settings.draw(now)
    }

    pub(super) fn proof(&mut self, now: Millis) -> bool {
        self.proof.draw(now)
    }

    pub(super) fn idle_frame(&mut self, now: Millis) -> bool {
        self.idle_frame.draw(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_empties_and_refills() {
        let rate = Rate {
            burst: 3,
            per_second: 2,
        };
        // Just before the clock wraps.
        let start = u32::MAX - 100;
        let mut bucket = Bucket::new(rate, start);
        let drawn = |bucket: &mut Bucket, now| (0..10).filter(|_| bucket.draw(now)).count();
        assert_eq!(drawn(&mut bucket, start), 3);
        assert_eq!(drawn(&mut bucket, start.wrapping_add(499)), 0);
        assert_eq!(drawn(&mut bucket, start.wrapping_add(500)), 1);
        assert_eq!(drawn(&mut bucket, start.wrapping_add(1_500)), 2);
        assert_eq!(drawn(&mut bucket, start.wrapping_add(900_000)), 3);
    }
}
