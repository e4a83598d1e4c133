//! How long a captured connection's original destination is kept for the
//! daemon: until the daemon takes it, or until nobody will.

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
