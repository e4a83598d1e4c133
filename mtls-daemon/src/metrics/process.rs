//! What the kernel knows about this process.

use std::fs;
use std::os::unix::fs::MetadataExt;

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};

use super::families;
use super::sheet::Sheet;
use crate::memory;

/// File descriptors in use, and the most there may be.
pub fn descriptors() -> Option<(u64, u64)> {
    let (most, _) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    // From 6.2 on the folder's size is the number of its entries; before, it is 0.
    let size = fs::metadata("/proc/self/fd").ok()?.size();
    let used = if size > 0 {
        size
    } else {
        // One of them is the folder itself, being read.
        (fs::read_dir("/proc/self/fd").ok()?.count() as u64).saturating_sub(1)
    };
    Some((used, most))
}

/// A figure that cannot be read is left out: absent is honest, 0 is not.
pub(super) fn render(sheet: &mut Sheet) {
    if let Some((used, most)) = descriptors() {
        sheet.count(families::PROCESS_OPEN_FDS, &[], used);
        sheet.count(families::PROCESS_MAX_FDS, &[], most);
    }
    if let Some(bytes) = memory::resident() {
        sheet.count(families::PROCESS_RESIDENT, &[], bytes);
    }
    if let Some(threads) = threads() {
        sheet.count(families::PROCESS_THREADS, &[], threads);
    }
    if let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) {
        let seconds =
            |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
        let cpu = seconds(usage.user_time()) + seconds(usage.system_time());
        sheet.number(families::PROCESS_CPU, &[], cpu);
    }
}

fn threads() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("Threads:"))?;
    line.trim().parse().ok()
}
