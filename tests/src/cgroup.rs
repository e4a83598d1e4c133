//! Cgroups of the harness: a subtree of its own below the cgroup2 mount, never
//! the root. Dropping one kills everything in it and removes it.

use std::fs;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use nix::poll::{PollFd, PollFlags, poll};

use crate::deadline::Deadline;
use crate::error::{Doing, Error, Result};
use crate::run::{PREFIX, list};

/// A folder of the cgroup2 hierarchy that the harness made.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// A subtree right below the mount, `name` unique among all runs.
    pub(crate) fn root(name: &str) -> Result<Self> {
        Self::make(mount_point()?.join(format!("{PREFIX}{name}")))
    }

    pub fn child(&self, name: &str) -> Result<Self> {
        Self::make(self.path.join(name))
    }

    fn make(path: PathBuf) -> Result<Self> {
        fs::create_dir(&path).doing(|| format!("making the cgroup {}", path.display()))?;
        Ok(Self { path })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the kernel's helpers call the cgroup id: the folder's inode.
    pub fn id(&self) -> Result<u64> {
        let meta = fs::metadata(&self.path)
            .doing(|| format!("looking at the cgroup {}", self.path.display()))?;
        Ok(meta.ino())
    }

    /// Pids in it and below it.
    pub fn processes(&self) -> Vec<i32> {
        processes_below(&self.path)
    }

    /// Removes it, with everything in it, and makes it again: for the daemon
    /// that is a new cgroup under the old name.
    pub fn remake(&self) -> Result {
        remove_tree(&self.path)?;
        fs::create_dir_all(&self.path)
            .doing(|| format!("making the cgroup {} again", self.path.display()))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // The sweep of the next run tries again, and the leftovers check sees it.
        let _ = remove_tree(&self.path);
    }
}

/// Where cgroup2 is mounted: /sys/fs/cgroup, or beside the old controllers.
pub fn mount_point() -> Result<&'static Path> {
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    FOUND
        .get_or_init(|| mount_point_in(&fs::read_to_string("/proc/self/mountinfo").ok()?))
        .as_deref()
        .ok_or_else(|| {
            Error::Unexpected(
                "cgroup2 is not mounted; mount it with: mount -t cgroup2 cgroup2 /sys/fs/cgroup"
                    .into(),
            )
        })
}

/// Fields of a line: id, parent, device, root, mount point, options, optional
/// fields, "-", file system type.
fn mount_point_in(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        right
            .starts_with("cgroup2 ")
            .then(|| left.split(' ').nth(4).map(PathBuf::from))?
    })
}

pub(crate) fn processes_below(cgroup: &Path) -> Vec<i32> {
    let mut pids: Vec<i32> = fs::read_to_string(cgroup.join("cgroup.procs"))
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.parse().ok())
        .collect();
    for (path, _) in list(cgroup) {
        if path.is_dir() {
            pids.extend(processes_below(&path));
        }
    }
    pids
}

/// Kills what runs in a cgroup and below it, and removes them all.
pub(crate) fn remove_tree(cgroup: &Path) -> Result {
    if !cgroup.exists() {
        return Ok(());
    }
    fs::write(cgroup.join("cgroup.kill"), "1")
        .doing(|| format!("killing what runs in {}", cgroup.display()))?;
    wait_until_empty(cgroup)?;
    remove_empty(cgroup).doing(|| format!("removing the cgroup {}", cgroup.display()))
}

fn remove_empty(cgroup: &Path) -> io::Result<()> {
    for (path, _) in list(cgroup) {
        if path.is_dir() {
            remove_empty(&path)?;
        }
    }
    match fs::remove_dir(cgroup) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Waits on cgroup.events, which the kernel signals with POLLPRI.
fn wait_until_empty(cgroup: &Path) -> Result {
    let path = cgroup.join("cgroup.events");
    let deadline = Deadline::default();
    loop {
        let mut events = fs::File::open(&path).doing(|| format!("opening {}", path.display()))?;
        let mut text = String::new();
        events
            .read_to_string(&mut text)
            .doing(|| format!("reading {}", path.display()))?;
        if text.lines().any(|line| line == "populated 0") {
            return Ok(());
        }
        let mut fds = [PollFd::new(events.as_fd(), PollFlags::POLLPRI)];
        let changed = poll(&mut fds, deadline.left_for_poll())
            .doing(|| format!("waiting for {}", path.display()))?;
        if changed == 0 {
            return Err(Error::TimedOut {
                waiting_for: format!("the end of the processes in {}", cgroup.display()),
                seen: format!("{:?}", processes_below(cgroup)),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_cgroup2_beside_the_old_controllers() {
        let hybrid = "30 24 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      31 24 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw\n";
        assert_eq!(
            mount_point_in(hybrid),
            Some(PathBuf::from("/sys/fs/cgroup/unified"))
        );
        assert_eq!(mount_point_in("1 0 8:1 / / rw - ext4 /dev/sda rw\n"), None);
    }
}
