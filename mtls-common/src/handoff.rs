//! How long a captured connection's original destination is kept for the
//! daemon: until the daemon takes it, or until nobody will; and how many may be.

use crate::maps::capacity;

/// TCP states, as the kernel numbers them.
const FIN_WAIT2: u32 = 5;

/// Whether the original destination outlives a socket that closes out of
/// `state`.
///
/// An application that sends and closes at once is gone before the daemon
/// accepts: its socket, with nobody left to read, goes from FIN_WAIT2 to a
/// time-wait entry, which is reported as closed. What it sent waits in the
/// daemon's accept queue all the same. From every other state the connection
/// is over for both sides, or its other side was accepted long ago.
#[inline(always)]
pub const fn outlives(state: u32) -> bool {
    state == FIN_WAIT2
}

/// Whether one more connection of a network namespace may wait for the daemon,
/// where `own` wait already and `all` with those of all others.
///
/// As long as fewer of its own wait than there are places free. However greedy
/// one is, it gets no more than half of the map; n greedy ones get one part in
/// n + 1 each, and as much stays free for whoever comes next.
#[inline(always)]
#[expect(clippy::cast_possible_wrap, reason = "a constant of five digits")]
pub const fn has_room(own: i64, all: i64) -> bool {
    own < capacity::ORIGINAL_DST as i64 - all
}
