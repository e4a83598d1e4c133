//! Debian packages taken apart into the cache: what the kernels in the
//! emulator and the nodes of a cluster are made of. Nothing is installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::packages;
use crate::command;
use crate::failure::{Failure, Result, While};
use crate::places;
use crate::say;

/// What a cluster's nodes run their containers with.
const RUNTIME: &[(&str, &str)] = &[
    ("containerd", "usr/bin/containerd"),
    ("runc", "usr/sbin/runc"),
    ("containernetworking-plugins", "usr/lib/cni/bridge"),
    ("busybox-static", "bin/busybox"),
];

/// A folder laid out as the packages of the container runtime lay out a root.
pub(crate) fn container_runtime() -> Result<PathBuf> {
    let mut versions = Vec::new();
    for (package, _) in RUNTIME {
        versions.push(version(package)?);
    }
    // It stands in PATH, where a colon would part it.
    let key = format!("container-runtime-{}", versions.join("-")).replace(':', "_");
    let folder = places::cache(&key)?;
    for (package, file) in RUNTIME {
        if !folder.join(file).exists() {
            say::step("Fetching", &format!("{package} into {}", folder.display()));
            unpack(package, &folder)?;
        }
    }
    Ok(folder)
}

/// A statically linked busybox.
pub(crate) fn busybox() -> Result<PathBuf> {
    let folder = places::cache(&format!("busybox-static-{}", version("busybox-static")?))?;
    let busybox = folder.join("bin/busybox");
    if !busybox.exists() {
        unpack("busybox-static", &folder)?;
    }
    Ok(busybox)
}

/// The one that would be fetched, which a cache outlives.
fn version(package: &str) -> Result<String> {
    if let Some(version) = packages::candidate(package) {
        return Ok(version);
    }
    packages::update()?;
    packages::candidate(package).ok_or_else(|| {
        Failure::new(format!(
            "this machine's package archive has no {package}: this needs Debian's or Ubuntu's"
        ))
    })
}

/// Takes the package apart into the folder.
pub(crate) fn unpack(package: &str, folder: &Path) -> Result {
    let packed = folder.join("packed");
    fs::create_dir_all(&packed).doing(format_args!("making {}", packed.display()))?;
    command::run_quietly(
        Command::new("apt-get")
            .args(["download", package])
            .current_dir(&packed),
    )?;
    let entries = fs::read_dir(&packed).doing(format_args!("reading {}", packed.display()))?;
    let deb = entries
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|ending| ending == "deb"));
    let deb = deb.ok_or_else(|| {
        Failure::new(format!(
            "apt-get downloaded no package into {}",
            packed.display()
        ))
    })?;
    command::run_quietly(
        Command::new("dpkg-deb")
            .arg("--extract")
            .args([deb.as_path(), folder]),
    )?;
    fs::remove_dir_all(&packed).doing(format_args!("removing {}", packed.display()))
}
