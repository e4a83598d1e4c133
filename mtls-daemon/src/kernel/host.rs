//! What the machine must offer before anything is loaded, and an error that
//! names it where it does not.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, CGROUP2_SUPER_MAGIC, FsType, statfs};

use super::btf::Offsets;
use super::error::{KernelError, While};

const OLDEST: (u32, u32) = (6, 1);
/// Where a bpffs is mounted.
const USUAL: &str = "/sys/fs/bpf";

/// The kernel's version and this process's rights.
pub(super) fn check() -> Result<(), KernelError> {
    let read = |path: &'static str| fs::read_to_string(path).on("reading", Path::new(path));
    judge(
        read("/proc/sys/kernel/osrelease")?.trim(),
        &read("/proc/thread-self/status")?,
    )
}

/// All of what is missing, as the daemon would say at its start one after the
/// other; nothing is made or mounted.
pub fn lacks(cgroup: Option<&Path>, pins: &Path) -> Vec<KernelError> {
    let found = [
        check(),
        Offsets::of_running_kernel().map(drop),
        AttachPoint::find(cgroup).map(drop),
        has_place(pins),
    ];
    found.into_iter().filter_map(Result::err).collect()
}

/// Whether pins could be made there.
fn has_place(pins: &Path) -> Result<(), KernelError> {
    let existing = nearest(pins);
    match filesystem(existing)? {
        BPF_FS_MAGIC => refuse_private(existing),
        // The daemon mounts one.
        _ if pins.starts_with(USUAL) => Ok(()),
        _ => Err(KernelError::NotBpffs {
            path: pins.to_owned(),
        }),
    }
}

fn nearest(pins: &Path) -> &Path {
    let mut folders = pins.ancestors();
    folders.find(|folder| folder.exists()).unwrap_or(pins)
}

fn judge(release: &str, status: &str) -> Result<(), KernelError> {
    if version(release).is_some_and(|version| version < OLDEST) {
        return Err(KernelError::TooOld {
            release: release.to_owned(),
        });
    }
    match missing_capabilities(status) {
        missing if missing.is_empty() => Ok(()),
        missing => Err(KernelError::NoRights { missing }),
    }
}

/// Whether programs can stand at interfaces, in order and pinned.
pub fn has_tcx() -> bool {
    const TCX: (u32, u32) = (6, 6);
    fs::read_to_string("/proc/sys/kernel/osrelease")
        .is_ok_and(|release| version(release.trim()).is_some_and(|version| version >= TCX))
}

/// Major and minor of `6.1.0-42-cloud-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn missing_capabilities(status: &str) -> Vec<&'static str> {
    // From <linux/capability.h>. SYS_ADMIN is for entering the workloads'
    // network namespaces; it also stands for BPF and PERFMON.
    const NEEDED: [(&str, u32); 4] = [
        ("CAP_BPF", 39),
        ("CAP_PERFMON", 38),
        ("CAP_NET_ADMIN", 12),
        ("CAP_SYS_ADMIN", 21),
    ];
    const SYS_ADMIN: u64 = 1 << 21;
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        // Without /proc's word the kernel's own answer must do.
        .unwrap_or(u64::MAX);
    NEEDED
        .iter()
        .filter(|(name, bit)| {
            let implied = matches!(*name, "CAP_BPF" | "CAP_PERFMON") && effective & SYS_ADMIN != 0;
            effective & (1 << bit) == 0 && !implied
        })
        .map(|(name, _)| *name)
        .collect()
}

/// A cgroup at which programs are attached.
#[derive(Debug)]
pub(super) struct AttachPoint {
    path: PathBuf,
}

impl AttachPoint {
    /// The configured folder, or the root of the cgroup2 mount.
    pub(super) fn find(configured: Option<&Path>) -> Result<Self, KernelError> {
        let path = match configured {
            Some(path) => path.to_owned(),
            None => {
                mounts("/proc/thread-self/mountinfo")
                    .on("reading", Path::new("/proc/thread-self/mountinfo"))?
                    .into_iter()
                    .find(|mount| mount.kind == "cgroup2")
                    .ok_or(KernelError::NoCgroup2)?
                    .point
            }
        };
        let kind = statfs(&path)
            .map_err(io::Error::from)
            .on("looking at", &path)?
            .filesystem_type();
        if kind != CGROUP2_SUPER_MAGIC {
            return Err(KernelError::NotCgroup2 { path });
        }
        Ok(Self { path })
    }

    /// A folder that may be made, and made again, later.
    pub(super) fn at(path: PathBuf) -> Self {
        Self { path }
    }

    pub(super) fn exists(&self) -> bool {
        self.path.is_dir()
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The cgroup's id is its folder's inode; another one after the folder was
    /// removed and made again.
    pub(super) fn id(&self) -> io::Result<u64> {
        fs::metadata(&self.path).map(|about| about.ino())
    }

    pub(super) fn open(&self) -> io::Result<(File, u64)> {
        let folder = File::open(&self.path)?;
        let id = folder.metadata()?.ino();
        Ok((folder, id))
    }
}

/// Mounts a bpffs in a folder, unless there is one; returns whether it did.
pub fn mount_bpffs(at: &Path) -> Result<bool, KernelError> {
    if matches!(filesystem(at), Ok(BPF_FS_MAGIC)) {
        return Ok(false);
    }
    let safely = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    // As systemd does.
    mount(Some("bpf"), at, Some("bpf"), safely, Some("mode=700"))
        .map(|()| true)
        .map_err(|error| KernelError::NoBpffs {
            path: at.to_owned(),
            source: error.into(),
        })
}

/// Makes the folder for the pins, mounting the bpffs at its usual place if
/// nobody has. Refuses one that would not outlive the daemon.
pub(super) fn pin_folder(pins: &Path) -> Result<(), KernelError> {
    let usual = Path::new(USUAL);
    if pins.starts_with(usual) && mount_bpffs(usual)? {
        tracing::info!(path = %usual.display(), "mounted a bpffs");
    }
    // Only then: the folder must not be made on the file system below.
    if filesystem(nearest(pins))? != BPF_FS_MAGIC {
        return Err(KernelError::NotBpffs {
            path: pins.to_owned(),
        });
    }
    fs::create_dir_all(pins).on("making", pins)?;
    refuse_private(pins)
}

fn filesystem(path: &Path) -> Result<FsType, KernelError> {
    Ok(statfs(path)
        .map_err(io::Error::from)
        .on("looking at", path)?
        .filesystem_type())
}

/// A bpffs that the first process does not see goes with our mount namespace,
/// and every pin with it: enforcement would fail open (seen on Linux 6.18).
fn refuse_private(pins: &Path) -> Result<(), KernelError> {
    let device = fs::metadata(pins).on("looking at", pins)?.dev();
    // In a container with processes of its own the first one is not the
    // host's, and may not be read: then there is nothing to compare with.
    match mounts("/proc/1/mountinfo") {
        Ok(seen) if !seen.is_empty() && !seen.iter().any(|mount| mount.device == device) => {
            Err(KernelError::PrivateBpffs {
                path: pins.to_owned(),
            })
        }
        Ok(_) => Ok(()),
        Err(error) => {
            tracing::debug!(%error, "cannot see the host's mounts");
            Ok(())
        }
    }
}

/// One line of mountinfo.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    device: u64,
    point: PathBuf,
    kind: String,
}

fn mounts(of: &str) -> io::Result<Vec<Mount>> {
    Ok(fs::read_to_string(of)?
        .lines()
        .filter_map(parse_mount)
        .collect())
}

/// `41 31 0:38 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw`
fn parse_mount(line: &str) -> Option<Mount> {
    let (before, after) = line.split_once(" - ")?;
    let mut fields = before.split(' ');
    let (major, minor) = fields.nth(2)?.split_once(':')?;
    let point = fields.nth(1)?;
    Some(Mount {
        device: nix::sys::stat::makedev(major.parse().ok()?, minor.parse().ok()?),
        point: PathBuf::from(unescape(point)),
        kind: after.split(' ').next()?.to_owned(),
    })
}

/// The kernel writes a space as `\040`, and so on.
fn unescape(field: &str) -> String {
    let mut parts = field.split('\\');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part
            .get(..3)
            .and_then(|octal| u8::from_str_radix(octal, 8).ok())
        {
            Some(byte) => {
                plain.push(char::from(byte));
                plain.push_str(part.get(3..).unwrap_or_default());
            }
            None => {
                plain.push('\\');
                plain.push_str(part);
            }
        }
    }
    plain
}

/// Takes the pins for this process, until it ends however it ends.
pub(super) fn lock(pins: &Path) -> Result<nix::fcntl::Flock<File>, KernelError> {
    let folder = File::open(pins).on("opening", pins)?;
    nix::fcntl::Flock::lock(folder, nix::fcntl::FlockArg::LockExclusiveNonblock).map_err(
        |(_folder, error)| match error {
            nix::errno::Errno::EWOULDBLOCK => KernelError::Held {
                path: pins.to_owned(),
            },
            error => KernelError::Path {
                doing: "locking",
                path: pins.to_owned(),
                source: error.into(),
            },
        },
    )
}

/// Whether a path still leads to what was opened.
pub(super) fn is_same_folder(path: &Path, opened: impl AsFd) -> bool {
    let here = fs::metadata(path).map(|about| (about.dev(), about.ino()));
    let there = nix::sys::stat::fstat(opened).map(|about| (about.st_dev, about.st_ino));
    matches!((here, there), (Ok(here), Ok(there)) if here == there)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_versions() {
        assert_eq!(version("6.1.0-42-cloud-amd64"), Some((6, 1)));
        assert_eq!(version("5.15.167.4-microsoft-standard-WSL2"), Some((5, 15)));
        assert_eq!(version("6.18"), Some((6, 18)));
        assert_eq!(version("unknown"), None);
    }

    #[test]
    fn refuses_a_kernel_below_the_floor_and_a_process_without_rights() {
        let all = "CapEff:\tffffffffffffffff\n";
        assert!(judge("6.1.0-42-cloud-amd64", all).is_ok());
        let too_old = judge("5.15.0-91-generic", all).unwrap_err().to_string();
        assert!(
            too_old.contains("5.15.0-91-generic") && too_old.contains("6.1"),
            "{too_old}"
        );
        let no_rights = judge("6.18.0", "CapEff:\t0\n").unwrap_err().to_string();
        assert!(no_rights.contains("CAP_BPF"), "{no_rights}");
    }

    #[test]
    fn names_missing_capabilities() {
        let of = |set: u64| missing_capabilities(&format!("Name:\tx\nCapEff:\t{set:016x}\n"));
        assert!(of(u64::MAX).is_empty());
        assert!(of(1 << 21 | 1 << 12).is_empty());
        assert_eq!(
            of(0),
            ["CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN", "CAP_SYS_ADMIN"]
        );
        assert_eq!(of(1 << 39 | 1 << 38 | 1 << 21), ["CAP_NET_ADMIN"]);
    }

    #[test]
    fn reads_mounts() {
        let mount =
            parse_mount("41 31 0:38 / /sys/fs/c\\040group rw shared:9 - cgroup2 cgroup2 rw");
        let expected = Mount {
            device: nix::sys::stat::makedev(0, 38),
            point: "/sys/fs/c group".into(),
            kind: "cgroup2".to_owned(),
        };
        assert_eq!(mount, Some(expected));
        assert_eq!(parse_mount(""), None);
        assert_eq!(parse_mount("41 31 x / / rw - a b c"), None);
    }
}
