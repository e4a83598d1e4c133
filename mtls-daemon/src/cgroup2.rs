//! The unified cgroup tree of this machine, wherever it is mounted.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

#[derive(Debug, Error)]
pub enum Cgroup2Error {
    #[error("reading /proc/self/mountinfo")]
    Read(#[source] io::Error),
    #[error(
        "no cgroup2 file system is mounted: mount one, e.g. `mount -t cgroup2 none /sys/fs/cgroup`"
    )]
    NotMounted,
}

/// Where the root of the cgroup2 tree is mounted.
pub fn mount() -> Result<PathBuf, Cgroup2Error> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").map_err(Cgroup2Error::Read)?;
    find(&text)
        .map(Path::to_owned)
        .ok_or(Cgroup2Error::NotMounted)
}

/// Root of the mounted tree that a folder lies in. A container sees its own
/// part of the tree at the usual place, and the host's where somebody put it.
pub fn around(folder: &Path) -> Result<PathBuf, Cgroup2Error> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").map_err(Cgroup2Error::Read)?;
    find_around(&text, folder)
        .map(Path::to_owned)
        .ok_or(Cgroup2Error::NotMounted)
}

fn find_around<'a>(mountinfo: &'a str, folder: &Path) -> Option<&'a Path> {
    mounts(mountinfo)
        .map(|(_, at)| at)
        .filter(|at| folder.starts_with(at))
        .max_by_key(|at| at.components().count())
}

/// In the text of a mountinfo: proc(5). The whole tree is wanted, not a part
/// of it that somebody bound elsewhere.
fn find(mountinfo: &str) -> Option<&Path> {
    let whole = mounts(mountinfo).filter(|(root, _)| *root == "/");
    whole.map(|(_, at)| at).last()
}

/// What is mounted of cgroup2, and where.
fn mounts(mountinfo: &str) -> impl Iterator<Item = (&str, &Path)> {
    mountinfo.lines().filter_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, at) = (fields.next()?, fields.next()?);
        file_system
            .starts_with("cgroup2 ")
            .then_some((root, Path::new(at)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIFIED: &str = "\
        24 1 0:22 / /proc rw - proc proc rw\n\
        31 23 0:28 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw\n";
    const HYBRID: &str = "\
        31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
        32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
        38 31 0:31 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
        39 31 0:31 /pods /somewhere rw - cgroup2 cgroup2 rw\n";

    #[test]
    fn it_is_found_unified_and_hybrid() {
        assert_eq!(find(UNIFIED), Some(Path::new("/sys/fs/cgroup")));
        assert_eq!(find(HYBRID), Some(Path::new("/sys/fs/cgroup/unified")));
    }

    /// The mounts of a pod, on a host with cgroup v2 alone.
    #[test]
    fn a_container_is_told_where_the_hosts_is() {
        let container = "\
            31 23 0:28 / /sys/fs/cgroup ro - cgroup2 cgroup ro\n\
            32 23 0:28 /../../.. /host/cgroup2 rw - cgroup2 cgroup2 rw\n";
        let found = |folder| find_around(container, Path::new(folder));
        assert_eq!(found("/host/cgroup2"), Some(Path::new("/host/cgroup2")));
        assert_eq!(
            found("/host/cgroup2/kubepods"),
            Some(Path::new("/host/cgroup2"))
        );
        assert_eq!(found("/sys/fs/cgroup/x"), Some(Path::new("/sys/fs/cgroup")));
        assert_eq!(found("/host/cgroup22"), None);
    }

    #[test]
    fn without_one_there_is_none() {
        assert_eq!(find("24 1 0:22 / /proc rw - proc proc rw\n"), None);
    }
}
