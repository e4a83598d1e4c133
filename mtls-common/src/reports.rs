//! What the hooks tell the daemon beside what they count, and how often.

use crate::addr::{Endpoint, Ip};

/// What the ring buffer `EVENTS` carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Event {
    pub cookie: u64,
    pub cgroup_id: u64,
    pub kind: u32,
    pub pid: u32,
    pub source: Ip,
    pub source_port: u16,
    pub port: u16,
    zero: u32,
}

impl Event {
    pub const UNKNOWN_NETNS: u32 = 1;
    pub const PLAINTEXT_REFUSED: u32 = 2;
    pub const SIZE: usize = size_of::<Self>();

    /// As it comes out of the ring buffer, where nothing says how it is aligned.
    pub const fn from_bytes(bytes: [u8; Self::SIZE]) -> Self {
        // SAFETY: integers only, without padding, of just this size.
        #[expect(unsafe_code, reason = "plain data arrives as bytes")]
        unsafe {
            core::mem::transmute(bytes)
        }
    }

    #[inline(always)]
    pub const fn unknown_netns(cookie: u64, cgroup_id: u64, pid: u32) -> Self {
        Self {
            cookie,
            cgroup_id,
            kind: Self::UNKNOWN_NETNS,
            pid,
            source: Ip::UNSPECIFIED_V6,
            source_port: 0,
            port: 0,
            zero: 0,
        }
    }

    #[inline(always)]
    pub const fn plaintext_refused(cookie: u64, source: Endpoint, port: u16) -> Self {
        Self {
            cookie,
            cgroup_id: 0,
            kind: Self::PLAINTEXT_REFUSED,
            pid: 0,
            source: source.ip,
            source_port: source.port,
            port,
            zero: 0,
        }
    }
}

/// Key of `REPORTED`, which remembers when an event or a log line of a kind
/// was last written for a network namespace, in nanoseconds since the start
/// of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct ReportKey {
    pub cookie: u64,
    pub kind: u64,
}

/// Whether it is time for another report.
#[inline(always)]
pub const fn report_due(last: Option<u64>, now: u64, interval: u64) -> bool {
    match last {
        Some(last) => now.wrapping_sub(last) >= interval,
        None => true,
    }
}
