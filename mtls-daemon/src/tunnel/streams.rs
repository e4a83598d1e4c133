//! The streams that are open on a tunnel, by their ids.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// Stream id -> the flow's slot.
pub(super) type Streams = HashMap<u32, u32, BuildHasherDefault<StreamHasher>>;

/// Stream ids are small, dense and chosen in order; one multiplication spreads
/// them.
#[derive(Default)]
pub(super) struct StreamHasher(u64);

impl Hasher for StreamHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|b| self.write_u32(u32::from(*b)));
    }

    fn write_u32(&mut self, id: u32) {
        self.0 = (self.0 ^ u64::from(id)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0.rotate_left(32)
    }
}
