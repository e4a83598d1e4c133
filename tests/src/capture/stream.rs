//! One direction of a TCP connection, put together: bytes are handed on in
//! order and once. Bytes that come again must be the same again, or plain text
//! could hide in a "retransmission".

use std::collections::BTreeMap;

/// How far back a retransmission can be compared; more than any window here.
const HISTORY: usize = 8 * 1024 * 1024;

/// A direction; starts at the SYN.
#[derive(Debug)]
pub(super) struct Direction {
    /// Sequence number of the stream's byte `delivered`.
    next: u32,
    delivered: u64,
    /// The last bytes handed on.
    history: Vec<u8>,
    /// What came early, by its place in the stream.
    early: BTreeMap<u64, Vec<u8>>,
    /// Bytes that came again and differed, or are too old to compare.
    suspicious: u64,
}

impl Direction {
    /// `initial`: the SYN's sequence number.
    pub(super) fn new(initial: u32) -> Self {
        Self {
            next: initial.wrapping_add(1),
            delivered: 0,
            history: Vec::new(),
            early: BTreeMap::new(),
            suspicious: 0,
        }
    }

    /// Whether a SYN with this number belongs to this stream (again).
    pub(super) fn began_with(&self, initial: u32) -> bool {
        let distance = self.next.wrapping_sub(initial.wrapping_add(1));
        u64::from(distance) == self.delivered & 0xffff_ffff
    }

    /// Takes a segment's payload; hands on what is now in order.
    pub(super) fn take(&mut self, sequence: u32, payload: &[u8], mut deliver: impl FnMut(&[u8])) {
        if payload.is_empty() {
            return;
        }
        // Signed: before or after the byte that is due.
        let distance = i64::from(sequence.wrapping_sub(self.next).cast_signed());
        let Some(at) = self.delivered.checked_add_signed(distance) else {
            // Before the stream's first byte.
            self.suspicious += payload.len() as u64;
            return;
        };
        if distance > 0 {
            let slot = self.early.entry(at).or_default();
            if slot.len() < payload.len() {
                self.suspicious += differing(slot, payload);
                *slot = payload.to_vec();
            } else {
                self.suspicious += differing(payload, slot);
            }
            return;
        }
        self.in_order(at, payload, &mut deliver);
        while let Some(first) = self.early.first_entry() {
            if *first.key() > self.delivered {
                break;
            }
            let (at, payload) = first.remove_entry();
            self.in_order(at, &payload, &mut deliver);
        }
    }

    /// A payload that begins at or before the byte that is due.
    fn in_order(&mut self, at: u64, payload: &[u8], deliver: &mut impl FnMut(&[u8])) {
        let again = usize::try_from(self.delivered - at)
            .unwrap_or(usize::MAX)
            .min(payload.len());
        let (old, new) = payload.split_at(again);
        self.compare(at, old);
        if new.is_empty() {
            return;
        }
        deliver(new);
        self.delivered += new.len() as u64;
        self.next = self
            .next
            .wrapping_add(u32::try_from(new.len()).unwrap_or(0));
        self.history.extend_from_slice(new);
        if self.history.len() > 2 * HISTORY {
            self.history.drain(..self.history.len() - HISTORY);
        }
    }

    fn compare(&mut self, at: u64, old: &[u8]) {
        let oldest = self.delivered - self.history.len() as u64;
        let unknown = usize::try_from(oldest.saturating_sub(at))
            .unwrap_or(usize::MAX)
            .min(old.len());
        let (forgotten, known) = old.split_at(unknown);
        self.suspicious += forgotten.len() as u64;
        let from = usize::try_from((at + unknown as u64).saturating_sub(oldest)).unwrap_or(0);
        self.suspicious += differing(known, &self.history[from..]);
    }

    /// Bytes that were seen but not handed on: beyond a gap, or suspicious.
    pub(super) fn unverified(&self) -> u64 {
        let early: u64 = self.early.values().map(|bytes| bytes.len() as u64).sum();
        early + self.suspicious
    }
}

/// How many bytes of `part` differ from the beginning of `whole`.
fn differing(part: &[u8], whole: &[u8]) -> u64 {
    if whole.starts_with(part) {
        return 0;
    }
    part.iter().zip(whole).filter(|(a, b)| a != b).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays segments at places relative to the first byte; the sequence
    /// numbers wrap around on the way.
    fn play(segments: &[(u32, &[u8])]) -> (Vec<u8>, u64) {
        let initial = u32::MAX - 3;
        let mut direction = Direction::new(initial);
        let mut out = Vec::new();
        for (at, payload) in segments {
            let sequence = initial.wrapping_add(1).wrapping_add(*at);
            direction.take(sequence, payload, |bytes| out.extend_from_slice(bytes));
        }
        (out, direction.unverified())
    }

    #[test]
    fn puts_disorder_in_order() {
        let segments: [(u32, &[u8]); 4] = [(0, b"abc"), (6, b"ghi"), (9, b"j"), (3, b"def")];
        assert_eq!(play(&segments), (b"abcdefghij".to_vec(), 0));
    }

    #[test]
    fn a_retransmission_counts_once() {
        let segments: [(u32, &[u8]); 4] = [(0, b"abc"), (0, b"abc"), (2, b"cde"), (1, b"bcdef")];
        assert_eq!(play(&segments), (b"abcdef".to_vec(), 0));
    }

    #[test]
    fn other_bytes_at_the_same_place_are_suspicious() {
        let segments: [(u32, &[u8]); 2] = [(0, b"abcdef"), (2, b"XYe")];
        assert_eq!(play(&segments), (b"abcdef".to_vec(), 2));
        let early: [(u32, &[u8]); 3] = [(2, b"cd"), (2, b"cXe"), (0, b"ab")];
        assert_eq!(play(&early), (b"abcXe".to_vec(), 1));
    }

    #[test]
    fn what_lies_beyond_a_gap_is_not_verified() {
        assert_eq!(play(&[(0, b"abc"), (4, b"efg")]), (b"abc".to_vec(), 3));
    }

    #[test]
    fn bytes_before_the_stream_are_not_verified() {
        let mut direction = Direction::new(1000);
        direction.take(900, b"hidden", |_| panic!("nothing to hand on"));
        assert_eq!(direction.unverified(), 6);
    }

    #[test]
    fn knows_its_own_syn_again() {
        let mut direction = Direction::new(5);
        assert!(direction.began_with(5));
        direction.take(6, b"abc", |_| {});
        assert!(direction.began_with(5));
        assert!(!direction.began_with(6));
    }
}
