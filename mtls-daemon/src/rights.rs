//! The capabilities of this process, and the system calls that it may make,
//! which it gives up as soon as it can.

mod seccomp;

use std::io;

use caps::{CapSet, Capability, CapsHashSet};
use nix::sys::prctl;

pub use seccomp::{Caller, refuse_calls};

/// Of the process that reads what strangers send, once its programs are loaded.
pub const OF_THE_DAEMON: [Capability; 5] = [
    // Maps, and attaching again what somebody took away.
    Capability::CAP_BPF,
    Capability::CAP_PERFMON,
    Capability::CAP_NET_ADMIN,
    // A client's port below 1024 is kept.
    Capability::CAP_NET_BIND_SERVICE,
    // Sockets bound to a workload's interface.
    Capability::CAP_NET_RAW,
];

/// Of the process that enters the workloads' network namespaces.
pub const OF_THE_HELPER: [Capability; 4] = [
    Capability::CAP_SYS_ADMIN,
    Capability::CAP_SYS_PTRACE,
    // Netlink asks for the rights of who made its socket.
    Capability::CAP_NET_ADMIN,
    Capability::CAP_NET_RAW,
];

/// Gives up all but these, for good: the threads and programs that this thread
/// starts have no others.
pub fn keep(wanted: &[Capability]) -> io::Result<()> {
    // The root user would get them back with the next program.
    prctl::set_no_new_privs()?;
    let held = caps::read(None, CapSet::Permitted).map_err(io::Error::other)?;
    let kept: CapsHashSet = wanted
        .iter()
        .copied()
        .filter(|one| held.contains(one))
        .collect();
    caps::clear(None, CapSet::Ambient).map_err(io::Error::other)?;
    caps::clear(None, CapSet::Inheritable).map_err(io::Error::other)?;
    for set in [CapSet::Effective, CapSet::Permitted] {
        caps::set(None, set, &kept).map_err(io::Error::other)?;
    }
    Ok(())
}

/// The capabilities that any thread of this process holds: who can write to
/// the memory of one has those of all.
pub fn of_the_process() -> io::Result<CapsHashSet> {
    let mut held = CapsHashSet::new();
    for thread in std::fs::read_dir("/proc/self/task")? {
        let name = thread?.file_name();
        let thread = name.to_str().and_then(|name| name.parse().ok());
        held.extend(caps::read(thread, CapSet::Permitted).map_err(io::Error::other)?);
    }
    Ok(held)
}

pub fn is_single_threaded() -> io::Result<bool> {
    Ok(std::fs::read_dir("/proc/self/task")?.count() == 1)
}
