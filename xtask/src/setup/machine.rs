//! What no package can mend: the kernel and our rights on it.

use std::path::Path;

use crate::failure::{Failure, Result};

/// The oldest kernel that has every hook and helper the daemon uses.
const FLOOR: (u32, u32) = (6, 1);

/// Reports everything that is in the way at once.
pub(crate) fn check() -> Result {
    let mut missing = Vec::new();
    if !nix::unistd::geteuid().is_root() {
        missing.push("root: it makes network namespaces and loads kernel programs (try `sudo -E env PATH=\"$PATH\" cargo xtask ..`)".to_owned());
    }
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    match version(&release) {
        Some(found) if found >= FLOOR => {}
        Some(_) => missing.push(format!(
            "a Linux kernel from {}.{} on: this one is {}",
            FLOOR.0,
            FLOOR.1,
            release.trim()
        )),
        None => missing.push("Linux".to_owned()),
    }
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        missing.push(
            "a kernel with BTF (CONFIG_DEBUG_INFO_BTF): /sys/kernel/btf/vmlinux is not there"
                .to_owned(),
        );
    }
    if !std::fs::read_to_string("/proc/filesystems")
        .unwrap_or_default()
        .contains("cgroup2")
    {
        missing.push("a kernel with cgroup2".to_owned());
    }
    match missing.as_slice() {
        [] => Ok(()),
        all => Err(Failure::new(format!(
            "this machine lacks:\n  - {}",
            all.join("\n  - ")
        ))),
    }
}

/// 6.1.0-56-cloud-amd64 is (6, 1).
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(['.', '-', '\n']).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::version;

    #[test]
    fn reads_the_releases_that_distributions_write() {
        assert_eq!(version("6.1.0-56-cloud-amd64\n"), Some((6, 1)));
        assert_eq!(version("6.18-rc3"), Some((6, 18)));
        assert_eq!(version("5.15.0"), Some((5, 15)));
        assert_eq!(version(""), None);
    }
}
