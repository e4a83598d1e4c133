//! Debian's kernels for virtual machines, out of the package archive into the
//! cache; nothing is installed.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::command;
use crate::failure::{Failure, Result, While};
use crate::places;
use crate::say;
use crate::setup::archive;

pub(super) struct Kernel {
    /// Such as 6.1.0-56-cloud-amd64.
    pub(super) release: String,
    folder: PathBuf,
}

/// The newest package of that series.
pub(super) fn fetch(series: &str) -> Result<Kernel> {
    if series.is_empty()
        || !series
            .chars()
            .all(|letter| letter.is_ascii_digit() || letter == '.')
    {
        return Err(Failure::usage(format!(
            "a kernel series looks like 6.1, not {series:?}"
        )));
    }
    let pattern = format!(
        "^linux-image-{}\\..*-cloud-amd64$",
        series.replace('.', "\\.")
    );
    let found =
        command::output(Command::new("apt-cache").args(["search", "--names-only", &pattern]))?;
    let names = found.lines().filter_map(|line| line.split(' ').next());
    let package = names.max_by_key(|name| numbers(name)).ok_or_else(|| {
        Failure::new(format!("this machine's package archive has no {series} kernel for virtual machines (linux-image-{series}*-cloud-amd64)"))
    })?;
    let kernel = Kernel {
        release: package.trim_start_matches("linux-image-").to_owned(),
        folder: places::cache(package)?,
    };
    if !kernel.dependencies_file().exists() {
        say::step("Fetching", package);
        archive::unpack(package, &kernel.folder)?;
        // The package leaves this to its installation; its result is made last, so it also says that all is there.
        command::run_quietly(
            Command::new("depmod")
                .arg("--basedir")
                .arg(&kernel.folder)
                .arg(&kernel.release),
        )?;
    }
    Ok(kernel)
}

impl Kernel {
    pub(super) fn image(&self) -> PathBuf {
        self.folder.join(format!("boot/vmlinuz-{}", self.release))
    }

    pub(super) fn initramfs(&self) -> PathBuf {
        self.folder.join("initramfs")
    }

    /// Everything the guest said.
    pub(super) fn log(&self) -> PathBuf {
        places::repository().join(format!("target/kernels/{}.log", self.release))
    }

    /// Files of the modules and of those they need, in the order of loading.
    pub(super) fn modules(&self, names: &[&str]) -> Result<Vec<PathBuf>> {
        let file = self.dependencies_file();
        let dependencies =
            fs::read_to_string(&file).doing(format_args!("reading {}", file.display()))?;
        let base = self.folder.join("lib/modules").join(&self.release);
        Ok(load_order(&dependencies, names)
            .into_iter()
            .map(|path| base.join(path))
            .collect())
    }

    fn dependencies_file(&self) -> PathBuf {
        self.folder
            .join("lib/modules")
            .join(&self.release)
            .join("modules.dep")
    }
}

/// Of lines `a.ko: b.ko c.ko`, in which each dependency stands before those
/// it needs itself. What is not among them is built into the kernel.
fn load_order<'a>(dependencies: &'a str, names: &[&str]) -> Vec<&'a str> {
    let mut order = Vec::new();
    for name in names {
        let is_it = |path: &str| {
            path.rsplit('/')
                .next()
                .is_some_and(|file| file.split('.').next() == Some(name))
        };
        let line = dependencies
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(path, _)| is_it(path));
        let Some((path, needs)) = line else { continue };
        for module in needs.split_whitespace().rev().chain([path]) {
            if !order.contains(&module) {
                order.push(module);
            }
        }
    }
    order
}

/// For sorting: linux-image-6.1.0-56-cloud-amd64 is [6, 1, 0, 56, 64].
fn numbers(name: &str) -> Vec<u32> {
    name.split(|letter: char| !letter.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sorts_versions_as_numbers() {
        let newest = [
            "linux-image-6.1.0-9-cloud-amd64",
            "linux-image-6.1.0-56-cloud-amd64",
        ]
        .into_iter()
        .max_by_key(|name| numbers(name));
        assert_eq!(newest, Some("linux-image-6.1.0-56-cloud-amd64"));
    }

    #[test]
    fn loads_what_a_module_needs_before_it() {
        let dependencies = "kernel/net/802/stp.ko: kernel/net/llc/llc.ko\nkernel/net/bridge/bridge.ko: kernel/net/802/stp.ko kernel/net/llc/llc.ko\nkernel/drivers/net/veth.ko.xz:\n";
        assert_eq!(
            load_order(dependencies, &["veth", "bridge", "builtin"]),
            [
                "kernel/drivers/net/veth.ko.xz",
                "kernel/net/llc/llc.ko",
                "kernel/net/802/stp.ko",
                "kernel/net/bridge/bridge.ko"
            ]
        );
    }
}
