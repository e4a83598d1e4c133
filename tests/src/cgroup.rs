//! Cgroups of the harness: a subtree of its own below the cgroup2 mount, never
//! the root. Dropping one kills everything in it and removes it.

use std::fs;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use nix::poll::{PollFd, PollFlags, poll};

use crate::deadline::{Deadline, wait_for};
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

    /// Lets what lies below it limit resources, where cgroup2 does that: beside
    /// the old controllers there is nothing to do.
    pub(crate) fn delegate(&self) -> Result {
        let root = mount_point()?;
        let folders: Vec<&Path> = self
            .path
            .ancestors()
            .take_while(|folder| folder.starts_with(root))
            .collect();
        for folder in folders.iter().rev() {
            let there = fs::read_to_string(folder.join("cgroup.controllers"))
                .doing(|| format!("reading the controllers of {}", folder.display()))?;
            let wanted = there.split_whitespace().map(|name| format!("+{name} "));
            fs::write(
                folder.join("cgroup.subtree_control"),
                wanted.collect::<String>(),
            )
            .doing(|| format!("delegating the controllers of {}", folder.display()))?;
        }
        Ok(())
    }

    /// What runs in it now may take so much more memory and no more, in bytes;
    /// `None` lifts that. What it has taken elsewhere does not count.
    pub fn limit_memory(&self, more: Option<u64>) -> Result {
        let (folder, usage, limit, none) = match old_hierarchy_of("memory")? {
            Some(hierarchy) => {
                make_twins(self)?;
                let folder = hierarchy.join(self.below_mount()?);
                for pid in self.processes() {
                    let procs = folder.join("cgroup.procs");
                    fs::write(&procs, pid.to_string())
                        .doing(|| format!("writing {}", procs.display()))?;
                }
                (
                    folder,
                    "memory.usage_in_bytes",
                    "memory.limit_in_bytes",
                    "-1",
                )
            }
            None => {
                self.delegate()?;
                (self.path.clone(), "memory.current", "memory.max", "max")
            }
        };
        let limit = folder.join(limit);
        let text = match more {
            None => none.to_owned(),
            Some(more) => {
                let usage = folder.join(usage);
                let text =
                    fs::read_to_string(&usage).doing(|| format!("reading {}", usage.display()))?;
                let usage: u64 = text.trim().parse().map_err(|error| Error::Unreadable {
                    what: format!("{}: {text}", usage.display()),
                    why: format!("{error}"),
                })?;
                (usage + more).to_string()
            }
        };
        fs::write(&limit, text).doing(|| format!("writing {}", limit.display()))
    }

    /// Its path from the mount point on.
    fn below_mount(&self) -> Result<&Path> {
        let below = self.path.strip_prefix(mount_point()?);
        below.map_err(|error| Error::Unexpected(error.to_string()))
    }

    /// Kills what runs in it and below it now, all at once.
    pub(crate) fn kill(&self) -> Result {
        kill_below(&self.path)
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

/// Makes cgroups of the same name in the hierarchies of cgroup v1, where a
/// kubelet and its runtime keep limits. They go with the scene.
pub(crate) fn make_twins(cgroup: &Cgroup) -> Result {
    let below = cgroup.below_mount()?;
    for mut folder in old_hierarchies()? {
        for part in below {
            let above = folder.clone();
            folder.push(part);
            make_old(&folder, &above).doing(|| format!("making {}", folder.display()))?;
        }
    }
    Ok(())
}

/// Removes those of a scene, once what ran in them has gone.
pub(crate) fn remove_twins(name: &std::ffi::OsStr) -> Result {
    for hierarchy in old_hierarchies()? {
        remove_old(&hierarchy.join(name))?;
    }
    Ok(())
}

/// Removes what is below those of a cgroup.
pub(crate) fn empty_twins(cgroup: &Cgroup) -> Result {
    let below = cgroup.below_mount()?;
    for hierarchy in old_hierarchies()? {
        for (path, _) in list(&hierarchy.join(below)) {
            if path.is_dir() {
                remove_old(&path)?;
            }
        }
    }
    Ok(())
}

/// Without processors and memory of its own no process may be in a cpuset.
fn make_old(folder: &Path, above: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let (own, given) = (folder.join(file), above.join(file));
        if own.exists() && fs::read_to_string(&own)?.trim().is_empty() {
            fs::write(own, fs::read(given)?)?;
        }
    }
    Ok(())
}

/// Removes a cgroup v1 and those below it, once what ran in them has gone.
pub(crate) fn remove_old(folder: &Path) -> Result {
    if !folder.exists() {
        return Ok(());
    }
    wait_for(
        Deadline::default(),
        || format!("the cgroup {} to be empty", folder.display()),
        || match remove_empty(folder) {
            Ok(()) => Ok(Some(())),
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Ok(None),
            Err(error) => Err(error).doing(|| format!("removing {}", folder.display())),
        },
    )
}

/// The one of cgroup v1 that limits this, if one does.
fn old_hierarchy_of(controller: &str) -> Result<Option<PathBuf>> {
    let mut hierarchies = old_hierarchies()?.into_iter();
    Ok(hierarchies.find(|folder| {
        let names = folder.file_name().unwrap_or_default().to_string_lossy();
        names.split(',').any(|name| name == controller)
    }))
}

/// Mount points of cgroup v1.
pub(crate) fn old_hierarchies() -> Result<Vec<PathBuf>> {
    let table = "/proc/self/mountinfo";
    let text = fs::read_to_string(table).doing(|| format!("reading {table}"))?;
    Ok(mounts_of_type(&text, "cgroup ").collect())
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
    mounts_of_type(mountinfo, "cgroup2 ").next()
}

fn mounts_of_type(mountinfo: &str, kind: &str) -> impl Iterator<Item = PathBuf> {
    mountinfo.lines().filter_map(move |line| {
        let (left, right) = line.split_once(" - ")?;
        right
            .starts_with(kind)
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
    kill_below(cgroup)?;
    wait_until_empty(cgroup)?;
    remove_empty(cgroup).doing(|| format!("removing the cgroup {}", cgroup.display()))
}

fn kill_below(cgroup: &Path) -> Result {
    fs::write(cgroup.join("cgroup.kill"), "1")
        .doing(|| format!("killing what runs in {}", cgroup.display()))
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
        let old: Vec<_> = mounts_of_type(hybrid, "cgroup ").collect();
        assert_eq!(old, [PathBuf::from("/sys/fs/cgroup/cpu")]);
        assert_eq!(mount_point_in("1 0 8:1 / / rw - ext4 /dev/sda rw\n"), None);
    }
}
