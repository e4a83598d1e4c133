//! Debian and Ubuntu packages, installed only when what they bring is missing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command;
use crate::failure::{Failure, Result, While};
use crate::say;

/// A package, and how to see that what we want of it is there, however it came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Package {
    pub(crate) name: &'static str,
    probe: Probe,
    /// A systemd unit that installing it would enable for the next boot.
    unit: Option<&'static str>,
}

#[derive(Clone, Copy, Debug)]
enum Probe {
    /// In PATH or one of the sbin folders.
    Program(&'static str),
    /// A path below /usr; a component may end in `*`.
    File(&'static str),
}

const fn program(name: &'static str, program: &'static str) -> Package {
    Package {
        name,
        probe: Probe::Program(program),
        unit: None,
    }
}

const fn service(name: &'static str, program: &'static str, unit: &'static str) -> Package {
    Package {
        name,
        probe: Probe::Program(program),
        unit: Some(unit),
    }
}

pub(crate) const fn file(name: &'static str, path: &'static str) -> Package {
    Package {
        name,
        probe: Probe::File(path),
        unit: None,
    }
}

pub(crate) const APPS: &[Package] = &[
    program("curl", "curl"),
    // A resolver that is a workload.
    program("dnsmasq-base", "dnsmasq"),
    program("iproute2", "ip"),
    service("iperf3", "iperf3", "iperf3.service"),
    // What one of the kube-proxies works by.
    program("iptables", "iptables"),
    // A clock of a daemon's own.
    file("libfaketime", "lib/*/faketime/libfaketimeMT.so.1"),
    // What leads ports of a node into its pods.
    service("nftables", "nft", "nftables.service"),
    service("nginx-light", "nginx", "nginx.service"),
    Package {
        name: "postgresql",
        probe: Probe::File("lib/postgresql/*/bin/initdb"),
        unit: Some("postgresql.service"),
    },
    file("postgresql", "lib/postgresql/*/bin/pgbench"),
    // What scrapes a cluster's daemons.
    service("prometheus", "prometheus", "prometheus.service"),
    service("redis-server", "redis-server", "redis-server.service"),
    program("redis-tools", "redis-benchmark"),
    // What it says of our units; nothing is started.
    program("systemd", "systemd-analyze"),
];

/// What the benchmark runs beside ourselves, and what it measures with.
pub(crate) const PEERS: &[Package] = &[
    service("nginx-light", "nginx", "nginx.service"),
    file(
        "libnginx-mod-stream",
        "lib/nginx/modules/ngx_stream_module.so",
    ),
    service("haproxy", "haproxy", "haproxy.service"),
    service("stunnel4", "stunnel4", "stunnel4.service"),
    program("wrk", "wrk"),
    program("linux-perf", "perf"),
];

pub(crate) const EMULATOR: &[Package] = &[
    program("qemu-system-x86", "qemu-system-x86_64"),
    program("kmod", "depmod"),
    program("binutils", "strip"),
    program("iproute2", "ip"),
    program("perl-base", "perl"),
    program("xz-utils", "xz"),
];

/// What the kernel programs are built with where rustup has no rust-src.
pub(crate) const EBPF_COMPILER: &[Package] = &[
    file("rustc-web", "bin/rustc"),
    file(
        "rust-web-src",
        "lib/rustlib/src/rust/library/core/Cargo.toml",
    ),
];

pub(crate) const EBPF_LINKER_22: &[Package] = &[
    file("llvm-22-dev", "lib/llvm-22/bin/llvm-config"),
    file("libpolly-22-dev", "lib/llvm-22/lib/libPolly.a"),
    file("zlib1g-dev", "include/zlib.h"),
    file("libzstd-dev", "include/zstd.h"),
];

/// Installs those of the packages whose probe fails.
pub(crate) fn install(packages: &[Package]) -> Result {
    let missing: Vec<_> = packages
        .iter()
        .filter(|package| !package.is_there())
        .copied()
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let mut names: Vec<_> = missing.iter().map(|package| package.name).collect();
    names.sort_unstable();
    names.dedup();
    let names = names.join(" ");
    if command::find("apt-get").is_none() {
        let lacking: Vec<_> = missing.iter().map(Package::to_string).collect();
        return Err(Failure::new(format!(
            "missing: {}\nInstall them with this system's package manager (Debian calls them: {names})",
            lacking.join(", ")
        )));
    }
    if !nix::unistd::geteuid().is_root() {
        return Err(Failure::new(format!(
            "missing packages; run as root: apt-get install --no-install-recommends {names}"
        )));
    }
    say::step(
        "Installing",
        &format!("{names} (apt-get; no service is started)"),
    );
    let _no_services = NoServices::arrange()?;
    apt(&["update"])?;
    if missing.iter().any(|package| package.name == "postgresql") {
        install_without_cluster(&names)?;
    } else {
        apt_install(&names)?;
    }
    for unit in missing.iter().filter_map(|package| package.unit) {
        // Left enabled, it would start with the next boot. Without systemd there is nothing to leave.
        if command::find("systemctl").is_some() {
            command::run_quietly(Command::new("systemctl").args(["--quiet", "disable", unit]))?;
        }
    }
    match missing.iter().find(|package| !package.is_there()) {
        None => Ok(()),
        Some(package) => Err(Failure::new(format!(
            "apt-get installed {names}, but {package} is still missing"
        ))),
    }
}

/// The version that apt would install, if it knows the package.
pub(crate) fn candidate(name: &str) -> Option<String> {
    let policy = command::output(Command::new("apt-cache").args(["policy", name])).ok()?;
    let version = policy
        .lines()
        .find_map(|line| line.trim_start().strip_prefix("Candidate:"))?
        .trim();
    (version != "(none)").then(|| version.to_owned())
}

/// Refreshes the lists of what there is to install.
pub(crate) fn update() -> Result {
    apt(&["update"])
}

/// PostgreSQL's package makes and registers a database cluster unless its
/// configuration says no; that setting is put back afterwards.
fn install_without_cluster(names: &str) -> Result {
    apt_install("postgresql-common")?;
    let setting = Path::new("/etc/postgresql-common/createcluster.conf");
    let before =
        fs::read_to_string(setting).doing(format_args!("reading {}", setting.display()))?;
    let write =
        |text: &str| fs::write(setting, text).doing(format_args!("writing {}", setting.display()));
    write(&format!("{before}\ncreate_main_cluster = false\n"))?;
    let installed = apt_install(names);
    write(&before)?;
    installed
}

fn apt_install(names: &str) -> Result {
    let mut words = vec!["install", "--yes", "--no-install-recommends"];
    words.extend(names.split(' '));
    apt(&words)
}

fn apt(words: &[&str]) -> Result {
    let mut apt = Command::new("apt-get");
    apt.args(["--quiet=2", "-o", "DPkg::Lock::Timeout=300"])
        .args(words);
    apt.env("DEBIAN_FRONTEND", "noninteractive")
        .env("NEEDRESTART_SUSPEND", "1");
    command::run_quietly(&mut apt)
}

impl Package {
    fn is_there(&self) -> bool {
        match self.probe {
            Probe::Program(name) => command::find(name).is_some(),
            Probe::File(path) => below(Path::new("/usr"), path).is_some(),
        }
    }
}

impl std::fmt::Display for Package {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.probe {
            Probe::Program(name) => f.write_str(name),
            Probe::File(path) => write!(f, "/usr/{path}"),
        }
    }
}

/// The first existing path of that pattern, in which `*` ends a component.
fn below(folder: &Path, pattern: &str) -> Option<PathBuf> {
    let Some((before, after)) = pattern.split_once("*/") else {
        return Some(folder.join(pattern)).filter(|path| path.exists());
    };
    let (parent, start) = before.rsplit_once('/').unwrap_or(("", before));
    let entries = fs::read_dir(folder.join(parent)).ok()?.flatten();
    let mut matching =
        entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(start));
    matching.find_map(|entry| below(&entry.path(), after))
}

/// While it lives, packages that bring a service do not start it: they ask
/// policy-rc.d first. Ours obeys only as long as this process lives, so even
/// if we are killed the machine is left as it was.
struct NoServices {
    ours: bool,
}

impl NoServices {
    const PATH: &str = "/usr/sbin/policy-rc.d";

    fn arrange() -> Result<Self> {
        use std::os::unix::fs::OpenOptionsExt;
        let open = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o755)
            .open(Self::PATH);
        match open {
            Ok(mut file) => {
                let script = format!(
                    "#!/bin/sh\n# Of `cargo xtask setup`: no service starts while it installs packages.\n[ -d /proc/{} ] && exit 101\nrm -f {}\n",
                    std::process::id(),
                    Self::PATH
                );
                std::io::Write::write_all(&mut file, script.as_bytes())
                    .doing(format_args!("writing {}", Self::PATH))?;
                Ok(Self { ours: true })
            }
            // The machine has a policy of its own; containers' says no as well.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                Ok(Self { ours: false })
            }
            Err(error) => Err(Failure::new(format!("writing {}: {error}", Self::PATH))),
        }
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.ours {
            let _ = fs::remove_file(Self::PATH);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_a_pattern_names_and_nothing_else() {
        let folder = std::env::temp_dir().join(format!("xtask-packages-{}", std::process::id()));
        fs::create_dir_all(folder.join("lib/thing/15/bin")).unwrap();
        fs::write(folder.join("lib/thing/15/bin/tool"), "").unwrap();
        assert_eq!(
            below(&folder, "lib/thing/*/bin/tool"),
            Some(folder.join("lib/thing/15/bin/tool"))
        );
        assert_eq!(below(&folder, "lib/thing/*/bin/other"), None);
        assert_eq!(
            below(&folder, "lib/thing/15/bin/tool"),
            Some(folder.join("lib/thing/15/bin/tool"))
        );
        assert_eq!(
            below(&folder, "lib/th*/15/bin/tool"),
            Some(folder.join("lib/thing/15/bin/tool"))
        );
        assert_eq!(below(&folder, "lib/other*/15/bin/tool"), None);
        assert_eq!(below(&folder, "lib/none/*/bin/tool"), None);
        fs::remove_dir_all(folder).unwrap();
    }
}
