//! What the hooks tell the daemon.

use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use mtls_common::counters::{Hook, Outcome, index};
use mtls_common::reports::{Event, ReportKey, report_due};

use crate::maps::{COUNTERS, EVENTS, REPORTED};

/// One more of this. The counter is this CPU's, and programs are not
/// interrupted by themselves here, so a plain addition is enough.
#[inline(always)]
pub fn count(hook: Hook, outcome: Outcome) {
    if let Some(counter) = COUNTERS.get_ptr_mut(index(hook, outcome)) {
        // SAFETY: the map gave this CPU's entry, which lives as long as the map.
        unsafe { *counter += 1 }
    }
}

/// Whether it is time to report about this network namespace again; if so, it
/// counts as reported.
#[inline(always)]
pub fn due(cookie: u64, kind: u64, interval: u64) -> bool {
    let key = ReportKey { cookie, kind };
    // SAFETY: takes nothing, changes nothing.
    let now = unsafe { bpf_ktime_get_ns() };
    // SAFETY: a concurrent writer can only make one report more or less.
    let last = unsafe { REPORTED.get(key) }.copied();
    // A map that cannot take the time reports more often than it should.
    report_due(last, now, interval) && {
        let _ = REPORTED.insert(key, now, 0);
        true
    }
}

/// Sends an event; if the daemon does not keep up it is lost, but counted in
/// the outcome that it is about.
#[inline(always)]
pub fn send(event: &Event) {
    let _ = EVENTS.output(event, 0);
}

pub const SECOND: u64 = 1_000_000_000;
