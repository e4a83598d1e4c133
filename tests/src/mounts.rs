//! A node's own file systems: what a kubelet, a container runtime and their
//! pods keep on the host goes into folders of the scene. The mounts live as
//! long as a handle or a process among them does, and nobody else sees them.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use crate::error::{Doing, Result};
use crate::run;

/// Handle of a mount namespace.
#[derive(Clone, Debug)]
pub struct Mounts(Arc<OwnedFd>);

/// Folders of the host that begin empty.
const EMPTY: &[&str] = &["/run", "/var/lib", "/var/log", "/opt"];
/// What begins as the host's and is changed apart.
const COPIED: &str = "/etc";
const BPFFS: &str = "/sys/fs/bpf";
/// The cgroup2 tree below which a daemon of the node attaches.
pub(crate) const CGROUP: &str = "/run/cgroup2";

impl Mounts {
    /// A view of this machine in which those folders lie below `folder`, which
    /// must be on a file system that overlays can write to. `bpffs` and `cgroup`
    /// are made the node's own.
    pub(crate) fn create(folder: &Path, bpffs: &Path, cgroup: &Path) -> Result<Self> {
        let others = run::mounts_below(Path::new(run::RUNS))?;
        let made = std::thread::scope(|scope| {
            let work = scope.spawn(|| -> io::Result<OwnedFd> {
                unshare(CloneFlags::CLONE_NEWNS)?;
                propagate(MsFlags::MS_PRIVATE)?;
                bind(bpffs, BPFFS)?;
                // Our copies of scenes' mounts would hold what they name.
                for other in others.iter().rev() {
                    let _ = umount2(other, MntFlags::MNT_DETACH);
                }
                arrange(folder)?;
                fs::create_dir_all(CGROUP)?;
                bind(cgroup, CGROUP)?;
                // As on a node that systemd has booted.
                propagate(MsFlags::MS_SHARED)?;
                Ok(File::open("/proc/thread-self/ns/mnt")?.into())
            });
            match work.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        });
        let fd = made.doing(|| format!("giving a node file systems in {}", folder.display()))?;
        Ok(Self(Arc::new(fd)))
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn arrange(folder: &Path) -> io::Result<()> {
    for path in EMPTY {
        let own = folder.join(path.trim_start_matches('/').replace('/', "-"));
        fs::create_dir_all(&own)?;
        bind(&own, path)?;
    }
    let (upper, work) = (folder.join("etc"), folder.join("etc-work"));
    fs::create_dir_all(&upper)?;
    fs::create_dir_all(&work)?;
    let options = format!(
        "lowerdir={COPIED},upperdir={},workdir={}",
        upper.display(),
        work.display()
    );
    mount(
        Some("overlay"),
        COPIED,
        Some("overlay"),
        MsFlags::empty(),
        Some(options.as_str()),
    )?;
    Ok(())
}

fn propagate(how: MsFlags) -> io::Result<()> {
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | how, none)?;
    Ok(())
}

fn bind(folder: &Path, at: &str) -> io::Result<()> {
    mount(
        Some(folder),
        at,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )?;
    Ok(())
}
