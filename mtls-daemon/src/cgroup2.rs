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

/// In the text of a mountinfo: proc(5). The whole tree is wanted, not a part
/// of it that somebody bound elsewhere.
fn find(mountinfo: &str) -> Option<&Path> {
    let mut mounts = mountinfo.lines().filter_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, at) = (fields.next()?, fields.next()?);
        (file_system.starts_with("cgroup2 ") && root == "/").then_some(Path::new(at))
    });
    mounts.next_back()
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

    #[test]
    fn without_one_there_is_none() {
        assert_eq!(find("24 1 0:22 / /proc rw - proc proc rw\n"), None);
    }
}
