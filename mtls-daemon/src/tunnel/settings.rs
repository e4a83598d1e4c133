//! What a loop is told at its start, and what it counts.

use std::cell::Cell;
use std::time::Duration;

/// The limits and times of every tunnel of a loop.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Streams that a peer may have open in one tunnel.
    pub max_streams: u32,
    /// The window that a new stream starts with: what one stalled application
    /// can make this daemon hold, before the window has grown.
    pub initial_window: u32,
    /// What a stream's window may grow to while its application keeps up.
    pub max_window: u32,
    /// The same where the round trip to the peer is long.
    pub far_window: u32,
    /// How far all windows of one tunnel together may grow past their start.
    pub tunnel_growth: u64,
    /// How far all windows of this loop together may grow past their start:
    /// this thread's share of the process budget.
    pub loop_growth: u64,
    /// The window of a whole tunnel. It is given back as the bytes arrive, so
    /// it only has to cover the bytes on the wire.
    pub connection_window: u32,
    /// A tunnel that was silent for this long is asked for a sign of life.
    pub ping_after: Duration,
    /// And is given up when none came for this long.
    pub ping_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_streams: 1_000,
            initial_window: 64 << 10,
            max_window: 4 << 20,
            far_window: 16 << 20,
            tunnel_growth: 64 << 20,
            loop_growth: 256 << 20,
            connection_window: 32 << 20,
            ping_after: Duration::from_secs(10),
            ping_timeout: Duration::from_secs(20),
        }
    }
}

macro_rules! stats {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What one loop has counted since its start. Plain cells: they are
        /// read on the loop's own thread.
        #[derive(Debug, Default)]
        pub struct Stats { $($(#[$doc])* pub $name: Cell<u64>,)* }

        impl Stats {
            /// Every counter with its name, in a fixed order.
            pub fn all(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name.get()),)*].into_iter()
            }
        }
    };
}

stats! {
    /// Tunnels that were put on this loop.
    tunnels,
    /// Flows that were opened, in both roles.
    flows,
    /// Bytes from applications into tunnels.
    bytes_to_peers,
    /// Bytes from tunnels that applications have taken.
    bytes_from_peers,
    /// Turns of the loop that had something to do.
    turns,
    /// Streams that were reset because a peer went past its stream limit.
    streams_refused,
    /// Streams that peers reset before they were answered.
    early_resets,
    /// Streams that were reset because of what a peer did on them.
    stream_violations,
    /// Tunnels that were ended because of what a peer did on them.
    tunnel_violations,
    /// Tunnels that were ended because a peer flooded them: a part of the former.
    floods,
    /// Requests whose head was not a CONNECT that we take.
    bad_requests,
    /// Tunnels whose peer did not answer a keepalive.
    unresponsive,
    /// Tunnels that ended without close_notify.
    truncated,
    /// DATA frames for streams that had ended here.
    late_data,
    /// Window growth that a budget did not allow.
    growth_denied,
}

/// Adds to a counter.
pub(super) fn count(cell: &Cell<u64>, n: u64) {
    cell.set(cell.get().wrapping_add(n));
}
