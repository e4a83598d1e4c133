//! The guest's whole world: an initramfs with busybox, `ip`, the programs,
//! the libraries they are linked with, and the kernel modules they need.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Stories;
use super::image::Kernel;
use crate::command;
use crate::failure::{Failure, Result, While};
use crate::setup::archive;

/// Virtual wires and switches; all else is built into Debian's kernels.
const MODULES: &[&str] = &["veth", "bridge", "af_packet"];

/// The last line that the guest says, with its verdict.
pub(super) const VERDICT: &str = "guest-verdict:";

pub(super) fn make(kernel: &Kernel, stories: &Stories, filter: &[&str]) -> Result<PathBuf> {
    let mut files = Files::default();
    files.add("bin/busybox", &archive::busybox()?)?;
    let mut programs: Vec<_> = stories
        .programs
        .iter()
        .map(|(name, path)| (format!("mtls/{name}"), path.clone()))
        .collect();
    let ip = command::find("ip").ok_or_else(|| Failure::new("`ip` (iproute2) is not installed"))?;
    programs.push(("usr/sbin/ip".to_owned(), ip));
    // Speaks raw sockets in a story; its modules lie beside its libraries.
    let perl =
        command::find("perl").ok_or_else(|| Failure::new("`perl` (perl-base) is not installed"))?;
    programs.push(("usr/bin/perl".to_owned(), perl));
    let modules = format!("/usr/lib/{}-linux-gnu/perl-base", std::env::consts::ARCH);
    files.add_folder(Path::new(&modules))?;
    for (name, path) in &programs {
        files.add_stripped(name, path)?;
        for library in libraries(path)? {
            files.add(&library.to_string_lossy()[1..], &library)?;
        }
    }
    let mut modules = String::new();
    for module in kernel.modules(MODULES)? {
        let name = module
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .trim_end_matches(".ko")
            .to_owned();
        files.insert(&format!("modules/{name}.ko"), module_bytes(&module)?, 0o644);
        modules.push_str(&format!("insmod /modules/{name}.ko\n"));
    }
    files.insert("init", init(&modules, filter).into_bytes(), 0o755);
    let place = kernel.initramfs();
    fs::write(&place, files.archive()).doing(format_args!("writing {}", place.display()))?;
    Ok(place)
}

/// The guest's first process.
fn init(modules: &str, filter: &[&str]) -> String {
    let filter = filter.join(" ");
    format!(
        "#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /tmp /run
/bin/busybox --install -s /bin
export PATH=/usr/sbin:/usr/bin:/bin HOME=/tmp RUST_BACKTRACE=1
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
ulimit -n 1048576
{modules}ip link set lo up
uname -a
/mtls/it --nocapture --test-threads=1 {filter}
echo {VERDICT} $?
poweroff -f
"
    )
}

/// Modules may be compressed; the guest's insmod reads plain ones.
fn module_bytes(module: &Path) -> Result<Vec<u8>> {
    let reading = format!("reading {}", module.display());
    if module.extension().is_some_and(|ending| ending == "xz") {
        let output = Command::new("xz")
            .args(["--decompress", "--stdout"])
            .arg(module)
            .output()
            .doing(&reading)?;
        return if output.status.success() {
            Ok(output.stdout)
        } else {
            Err(Failure::new(format!("{reading}: xz failed")))
        };
    }
    fs::read(module).doing(reading)
}

/// The dynamic linker and the libraries, as it names them.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let listed = command::output(Command::new("ldd").arg(program))?;
    let paths = listed
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    Ok(paths.map(PathBuf::from).collect())
}

/// What goes into the archive, by name, with permissions.
#[derive(Default)]
struct Files(BTreeMap<String, (Vec<u8>, u32)>);

impl Files {
    fn insert(&mut self, name: &str, bytes: Vec<u8>, mode: u32) {
        self.0.insert(name.to_owned(), (bytes, mode));
    }

    fn add(&mut self, name: &str, path: &Path) -> Result {
        let bytes = fs::read(path).doing(format_args!("reading {}", path.display()))?;
        self.insert(name, bytes, 0o755);
        Ok(())
    }

    /// All that lies below it, in the same place.
    fn add_folder(&mut self, folder: &Path) -> Result {
        let entries = fs::read_dir(folder).doing(format_args!("reading {}", folder.display()))?;
        for path in entries.flatten().map(|entry| entry.path()) {
            if path.is_dir() {
                self.add_folder(&path)?;
            } else {
                self.add(&path.to_string_lossy()[1..], &path)?;
            }
        }
        Ok(())
    }

    /// Without debug information, which would fill the guest's memory.
    fn add_stripped(&mut self, name: &str, path: &Path) -> Result {
        let stripped = std::env::temp_dir().join(format!("xtask-stripped-{}", std::process::id()));
        command::run_quietly(
            Command::new("strip")
                .arg("--strip-debug")
                .arg("-o")
                .args([&stripped, path]),
        )?;
        let added = self.add(name, &stripped);
        let _ = fs::remove_file(&stripped);
        added
    }

    /// The kernel's "newc" cpio format (Documentation/driver-api/early-userspace/buffer-format.rst).
    fn archive(&self) -> Vec<u8> {
        const FILE: u32 = 0o100_000;
        const FOLDER: u32 = 0o040_000;
        let mut archive = Vec::new();
        let mut folders = Vec::new();
        for (name, (bytes, mode)) in &self.0 {
            for (end, _) in name.match_indices('/') {
                let folder = &name[..end];
                if !folders.contains(&folder) {
                    folders.push(folder);
                    entry(&mut archive, folder, FOLDER | 0o755, &[]);
                }
            }
            entry(&mut archive, name, FILE | mode, bytes);
        }
        entry(&mut archive, "TRAILER!!!", 0, &[]);
        archive
    }
}

fn entry(archive: &mut Vec<u8>, name: &str, mode: u32, bytes: &[u8]) {
    let number = archive.len(); // unique, which is all an inode number must be
    let (size, name_size) = (bytes.len(), name.len() + 1);
    let header = format!(
        "070701{number:08x}{mode:08x}{0:08x}{0:08x}{1:08x}{0:08x}{size:08x}{0:08x}{0:08x}{0:08x}{0:08x}{name_size:08x}{0:08x}",
        0, 1
    );
    archive.extend_from_slice(header.as_bytes());
    archive.extend_from_slice(name.as_bytes());
    archive.push(0);
    archive.resize(archive.len().next_multiple_of(4), 0);
    archive.extend_from_slice(bytes);
    archive.resize(archive.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_an_archive_that_cpio_reads() {
        let mut files = Files::default();
        files.insert("a/b/c", b"hello".to_vec(), 0o644);
        files.insert("init", b"#!".to_vec(), 0o755);
        let archive = files.archive();
        assert!(archive.starts_with(b"070701"));
        assert_eq!(archive.len() % 4, 0);
        let text = String::from_utf8_lossy(&archive);
        let at = |name: &str| text.find(&format!("{name}\0")).unwrap();
        // A folder comes before what lies in it.
        assert!(at("a") < at("a/b") && at("a/b") < at("a/b/c") && at("init") < at("TRAILER!!!"));
    }
}
