//! Where a child runs: it goes there itself, between fork and exec.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MsFlags, mount};
use nix::unistd::User;

use crate::error::{Doing, Result};
use crate::mounts::Mounts;
use crate::netns::Netns;

/// The places.
#[derive(Debug, Default)]
pub(crate) struct Place {
    pub(crate) netns: Option<Netns>,
    pub(crate) mounts: Option<Mounts>,
    pub(crate) cgroup: Option<PathBuf>,
    pub(crate) user: Option<User>,
    pub(crate) descriptors: Option<u64>,
    pub(crate) private_ipc: bool,
    /// Stands for /etc/resolv.conf.
    pub(crate) resolver: Option<PathBuf>,
}

impl Place {
    /// Makes the child do it.
    #[expect(
        unsafe_code,
        reason = "only between fork and exec can a child be placed before its first instruction"
    )]
    pub(crate) fn take(self, command: &mut Command) -> Result {
        let cgroup = self
            .cgroup
            .map(|path| {
                File::options()
                    .write(true)
                    .open(path.join("cgroup.procs"))
                    .doing(|| format!("opening the cgroup {}", path.display()))
            })
            .transpose()?;
        let settle = move || -> io::Result<()> {
            if let Some(mut cgroup) = cgroup.as_ref() {
                cgroup.write_all(b"0")?;
            }
            if let Some(netns) = &self.netns {
                nix::sched::setns(netns.fd(), nix::sched::CloneFlags::CLONE_NEWNET)?;
            }
            if let Some(mounts) = &self.mounts {
                nix::sched::setns(mounts.fd(), nix::sched::CloneFlags::CLONE_NEWNS)?;
            }
            if let Some(file) = &self.resolver {
                nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)?;
                let none = None::<&Path>;
                let own = MsFlags::MS_REC | MsFlags::MS_SLAVE;
                mount(none, "/", none, own, none)?;
                let usual = "/etc/resolv.conf";
                mount(Some(file.as_path()), usual, none, MsFlags::MS_BIND, none)?;
            }
            if self.private_ipc {
                nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWIPC)?;
            }
            if let Some(limit) = self.descriptors {
                use nix::sys::resource::{Resource, setrlimit};
                setrlimit(Resource::RLIMIT_NOFILE, limit, limit)?;
            }
            if let Some(user) = &self.user {
                become_user(user)?;
            }
            Ok(())
        };
        // SAFETY: the closure makes system calls only, on values made before
        // the fork; it allocates nothing and takes no lock.
        unsafe { command.pre_exec(settle) };
        Ok(())
    }
}

/// The raw system calls: libc's own want to bring all threads along, and the
/// child of a fork has only one.
#[expect(
    unsafe_code,
    reason = "libc's wrappers are not safe between fork and exec"
)]
fn become_user(user: &User) -> io::Result<()> {
    let (uid, gid) = (user.uid.as_raw(), user.gid.as_raw());
    // SAFETY: plain integers; `setgroups` with a length of 0 reads no memory.
    let failed = unsafe {
        libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<libc::gid_t>()) != 0
            || libc::syscall(libc::SYS_setgid, gid) != 0
            || libc::syscall(libc::SYS_setuid, uid) != 0
    };
    if failed {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
