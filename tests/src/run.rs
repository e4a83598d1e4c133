//! One run of the harness: the process that owns everything it makes, by pid
//! and start time. Names carry both, so that what a killed run left behind is
//! recognised and removed by the next one, and nothing else ever is.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::mount::{MntFlags, umount2};

use crate::cgroup;
use crate::error::{Doing, Error, Result};
use crate::programs;

/// Namespaces, sockets, small files: below the folder `PID-START` of the run.
pub(crate) const RUNS: &str = "/run/mtls-tests";
/// Start of the names of folders and cgroups that a run makes elsewhere.
pub(crate) const PREFIX: &str = "mtls-tests-";
/// A run with this file stays after its owner's death, until swept on purpose.
const KEPT: &str = "kept";

/// The owner of everything made by this process.
#[derive(Debug)]
pub struct Run {
    /// `PID-START`
    name: String,
    next: AtomicU32,
    /// Cleans up after us however we end; it notices when its standard input
    /// closes, and exits by itself.
    _janitor: Child,
}

/// This process's run; sweeps what dead runs left, the first time.
pub fn current() -> Result<&'static Run> {
    static RUN: OnceLock<std::result::Result<Run, String>> = OnceLock::new();
    RUN.get_or_init(|| Run::start().map_err(|e| e.to_string()))
        .as_ref()
        .map_err(|e| Error::Unexpected(e.clone()))
}

impl Run {
    fn start() -> Result<Self> {
        if !nix::unistd::geteuid().is_root() {
            return Err(Error::Unexpected(
                "namespace tests make network namespaces and load eBPF programs: run them as root"
                    .into(),
            ));
        }
        sweep(Sweep::Dead)?;
        let pid = std::process::id();
        let start = start_time(pid).ok_or_else(|| Error::Unreadable {
            what: format!("/proc/{pid}/stat"),
            why: "is /proc mounted?".into(),
        })?;
        let name = format!("{pid}-{start}");
        let dir = Path::new(RUNS).join(&name);
        fs::create_dir_all(&dir).doing(|| format!("making {}", dir.display()))?;
        let janitor = Command::new(programs::test_app()?)
            .arg("--janitor")
            .arg(&name)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            // Ctrl-C must not reach it.
            .process_group(0)
            .spawn()
            .doing(|| "starting the janitor")?;
        Ok(Self {
            name,
            next: AtomicU32::new(1),
            _janitor: janitor,
        })
    }

    /// A name that no other scene of any run has.
    pub(crate) fn unique(&self, label: &str) -> String {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        format!("{}-{n}-{label}", self.name)
    }

    /// Where a scene keeps namespaces, sockets and small files.
    pub(crate) fn dir(&self) -> PathBuf {
        Path::new(RUNS).join(&self.name)
    }

    /// Lets what this run made outlive it; `sweep(Sweep::Kept)` removes it.
    pub fn keep(&self) -> Result {
        let file = self.dir().join(KEPT);
        fs::write(&file, "").doing(|| format!("writing {}", file.display()))
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Removes everything of this run at once, for the way out after Ctrl-C.
    pub fn clean_up(&self) -> Result {
        remove(&self.name)
    }
}

/// Which runs to remove.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sweep {
    /// Runs whose owner is dead.
    Dead,
    /// Those, and the ones that were kept on purpose.
    Kept,
}

/// Removes what dead runs left behind.
pub fn sweep(which: Sweep) -> Result {
    for name in runs()? {
        let kept = Path::new(RUNS).join(&name).join(KEPT).exists();
        if !is_alive(&name) && (which == Sweep::Kept || !kept) {
            remove(&name)?;
        }
    }
    Ok(())
}

/// The janitor's life: wait for the owner's end, then clean up after it.
pub fn clean_up_after(name: &str) -> Result {
    io::copy(&mut io::stdin(), &mut io::sink()).doing(|| "waiting for the owner's end")?;
    if Path::new(RUNS).join(name).join(KEPT).exists() {
        return Ok(());
    }
    remove(name)
}

/// Names of all runs that left a trace on this machine.
pub(crate) fn runs() -> Result<Vec<String>> {
    let mut names = Vec::new();
    let mut folders = vec![
        PathBuf::from(RUNS),
        std::env::temp_dir(),
        cgroup::mount_point()?.to_path_buf(),
    ];
    folders.extend(cgroup::old_hierarchies()?);
    for folder in folders {
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries.flatten() {
            let file = entry.file_name();
            let Some(file) = file.to_str() else { continue };
            let bare = file.strip_prefix(PREFIX).unwrap_or(file);
            if let Some(name) = run_of(bare)
                && (folder == Path::new(RUNS) || file.starts_with(PREFIX))
                && !names.contains(&name)
            {
                names.push(name);
            }
        }
    }
    Ok(names)
}

/// The `PID-START` at the head of a name.
pub(crate) fn run_of(name: &str) -> Option<String> {
    let mut parts = name.splitn(3, '-');
    let pid: u32 = parts.next()?.parse().ok()?;
    let start: u64 = parts.next()?.parse().ok()?;
    Some(format!("{pid}-{start}"))
}

pub(crate) fn is_alive(run: &str) -> bool {
    run.split_once('-').is_some_and(|(pid, start)| {
        pid.parse()
            .is_ok_and(|pid| start_time(pid).is_some_and(|now| now.to_string() == start))
    })
}

/// Start of a process in clock ticks since boot; with the pid it is unique.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name, in brackets, may hold anything; field 3 follows it.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(19)?.parse().ok()
}

fn remove(name: &str) -> Result {
    let ours = |file: &str| run_of(file).as_deref() == Some(name);
    for entry in list(cgroup::mount_point()?) {
        if entry.1.strip_prefix(PREFIX).is_some_and(ours) {
            cgroup::remove_tree(&entry.0)?;
        }
    }
    for hierarchy in cgroup::old_hierarchies()? {
        for (path, file) in list(&hierarchy) {
            if file.strip_prefix(PREFIX).is_some_and(ours) {
                cgroup::remove_old(&path)?;
            }
        }
    }
    let dir = Path::new(RUNS).join(name);
    unmount_below(&dir)?;
    remove_folder(&dir)?;
    for entry in list(&std::env::temp_dir()) {
        if entry.1.strip_prefix(PREFIX).is_some_and(ours) {
            remove_folder(&entry.0)?;
        }
    }
    Ok(())
}

/// Paths and names of what lies in a folder.
pub(crate) fn list(folder: &Path) -> Vec<(PathBuf, String)> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|e| Some((e.path(), e.file_name().into_string().ok()?)))
        .collect()
}

/// Unmounts everything below `dir`, the latest mount first.
pub(crate) fn unmount_below(dir: &Path) -> Result {
    for mount in mounts_below(dir)?.iter().rev() {
        match umount2(mount, MntFlags::MNT_DETACH) {
            Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
            Err(e) => return Err(e).doing(|| format!("unmounting {}", mount.display())),
        }
    }
    Ok(())
}

/// Mount points below `dir`, in the order in which they were mounted.
pub(crate) fn mounts_below(dir: &Path) -> Result<Vec<PathBuf>> {
    let table = "/proc/self/mountinfo";
    let text = fs::read_to_string(table).doing(|| format!("reading {table}"))?;
    Ok(text
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(PathBuf::from)
        .filter(|path| path.starts_with(dir))
        .collect())
}

pub(crate) fn remove_folder(dir: &Path) -> Result {
    match fs::remove_dir_all(dir) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e).doing(|| format!("removing {}", dir.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_their_owner() {
        assert_eq!(run_of("12-345-1-bulk").as_deref(), Some("12-345"));
        assert_eq!(run_of("12-345").as_deref(), Some("12-345"));
        assert_eq!(run_of("mtls"), None);
        assert_eq!(run_of("12-x-1"), None);
    }

    #[test]
    fn a_recycled_pid_is_not_the_owner() {
        let me = std::process::id();
        let start = start_time(me).unwrap();
        assert!(is_alive(&format!("{me}-{start}")));
        assert!(!is_alive(&format!("{me}-{}", start + 1)));
    }
}
