//! Plaintext that waits to be sealed: frames of our own, and the bytes of
//! applications, which the kernel reads straight into it.

/// A buffer whose spare room stays initialised, so that a read into it needs
/// neither zeroing each time nor unsafe code.
#[derive(Debug, Default)]
pub(super) struct Out {
    room: Vec<u8>,
    filled: usize,
}

impl Out {
    /// A buffer with room for `capacity` bytes. The kernel gives the pages
    /// only as they are used.
    pub(super) fn with_room(capacity: usize) -> Self {
        Self {
            room: vec![0; capacity],
            filled: 0,
        }
    }

    /// What waits.
    pub(super) fn filled(&self) -> &[u8] {
        &self.room[..self.filled]
    }

    /// What waits, to be sealed in its place.
    pub(super) fn filled_mut(&mut self) -> &mut [u8] {
        &mut self.room[..self.filled]
    }

    pub(super) fn len(&self) -> usize {
        self.filled
    }

    pub(super) fn is_empty(&self) -> bool {
        self.filled == 0
    }

    pub(super) fn clear(&mut self) {
        self.filled = 0;
    }

    /// Gives back what a rare burst has made large; nothing may wait.
    pub(super) fn shrink(&mut self) {
        if self.room.len() > 4_096 {
            *self = Self::default();
        }
    }

    /// Appends a copy of `bytes`.
    pub(super) fn put(&mut self, bytes: &[u8]) {
        self.spare(bytes.len())[..bytes.len()].copy_from_slice(bytes);
        self.filled += bytes.len();
    }

    /// At least `n` bytes behind what waits.
    pub(super) fn spare(&mut self, n: usize) -> &mut [u8] {
        let end = self.filled + n;
        if self.room.len() < end {
            self.room.resize(end, 0);
        }
        &mut self.room[self.filled..]
    }

    /// Counts `n` bytes of the spare room, now written, as waiting.
    pub(super) fn advance(&mut self, n: usize) {
        self.filled += n;
        debug_assert!(self.filled <= self.room.len(), "advanced past the room");
    }
}
