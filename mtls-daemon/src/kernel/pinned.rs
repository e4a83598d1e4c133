//! Links, each pinned and held: the pin outlives the daemon, and the descriptor
//! outlives the pin. Who removes pins beside a running daemon does not end
//! enforcement by it; `detach` does, which takes the links off as well.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use mtls_common::counters::Hook;

use super::error::{KernelError, While};
use super::programs::attach_type;
use super::sys::{self, LinkInfo};

/// What tells the links of one folder apart.
pub(super) trait Name: Copy + Ord {
    fn hook(self) -> Hook;
    /// Of its pin.
    fn file(self) -> String;
    fn of_file(file: &str) -> Option<Self>;
}

/// A folder of links.
#[derive(Debug)]
pub(super) struct Pinned<N> {
    folder: PathBuf,
    held: BTreeMap<N, Link>,
}

#[derive(Debug)]
struct Link {
    link: OwnedFd,
    /// What it was attached to when it came into these hands.
    attached_to: u64,
}

/// Where a program is to run.
pub(super) struct Target {
    /// An open descriptor of a cgroup or a network namespace, or an interface's index.
    pub(super) number: u32,
    /// What a link to it says about its target.
    pub(super) id: u64,
    pub(super) name: String,
}

/// Where a link is, and where it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Attached {
    /// 0 once that is gone, or the link was taken off it.
    pub(super) now: u64,
    pub(super) first: u64,
    pub(super) program: u32,
}

impl<N: Name> Pinned<N> {
    /// Makes the folder, or takes over what is pinned there.
    pub(super) fn adopt(folder: PathBuf) -> Result<Self, KernelError> {
        fs::create_dir_all(&folder).on("making", &folder)?;
        let mut held = BTreeMap::new();
        for file in files(&folder)? {
            let pin = folder.join(&file);
            match N::of_file(&file) {
                Some(name) => {
                    if let Some((link, info)) = open(&pin, name.hook())? {
                        let attached_to = info.target;
                        held.insert(name, Link { link, attached_to });
                    }
                }
                // Left over by a daemon that was killed while it attached.
                None if file.ends_with(STAGED) => remove_file(&pin)?,
                None => tracing::warn!(pin = %pin.display(), "nobody's pin among ours"),
            }
        }
        Ok(Self { folder, held })
    }

    /// Attaches a program, or puts it in place of the attached one.
    pub(super) fn attach(
        &mut self,
        name: N,
        program: BorrowedFd<'_>,
        to: &Target,
    ) -> Result<(), KernelError> {
        let hook = name.hook();
        let failed = |source| KernelError::Attach {
            hook,
            to: to.name.clone(),
            source,
        };
        if let Some(held) = self.held.get(&name)
            && sys::link_info(held.link.as_fd()).map_err(failed)?.target == to.id
        {
            match sys::update_link(held.link.as_fd(), program) {
                // What it was attached to went at this moment.
                Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {}
                result => return result.map_err(failed),
            }
        }
        // First attached, then pinned under another name, then put in place of
        // what is there: at no time is there less than before.
        let link = sys::create_link(program, to.number, attach_type(hook), flags(hook));
        let link = link.map_err(|source| match source.raw_os_error() {
            // The daemon's rights were looked at when it started.
            Some(libc::EPERM) => KernelError::Alone {
                hook,
                to: to.name.clone(),
            },
            _ => failed(source),
        })?;
        let pin = self.pin(name);
        let staged = self.folder.join(name.file() + STAGED);
        remove_file(&staged)?;
        sys::pin(link.as_fd(), &staged).on("pinning a link at", &staged)?;
        fs::rename(&staged, &pin).on("renaming a link to", &pin)?;
        let attached_to = to.id;
        self.held.insert(name, Link { link, attached_to });
        Ok(())
    }

    /// The program runs there no more.
    pub(super) fn remove(&mut self, name: N) -> Result<(), KernelError> {
        remove_file(&self.pin(name))?;
        self.held.remove(&name);
        Ok(())
    }

    pub(super) fn attached(&self, name: N) -> Result<Option<Attached>, KernelError> {
        let Some(held) = self.held.get(&name) else {
            return Ok(None);
        };
        let info = sys::link_info(held.link.as_fd()).doing("looking at a link")?;
        Ok(Some(Attached {
            now: info.target,
            first: held.attached_to,
            program: info.program,
        }))
    }

    /// How many still are where they were put.
    pub(super) fn in_force(&self) -> Result<usize, KernelError> {
        let each = self.held.keys().map(|&name| self.attached(name));
        each.filter_map(|attached| match attached {
            Ok(attached) => attached.is_some_and(|it| it.now != 0).then_some(Ok(())),
            Err(error) => Some(Err(error)),
        })
        .collect::<Result<Vec<()>, _>>()
        .map(|all| all.len())
    }

    pub(super) fn names(&self) -> Vec<N> {
        self.held.keys().copied().collect()
    }

    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    /// Pins again what is attached and not pinned any more; how many.
    pub(super) fn pin_again(&self) -> Result<usize, KernelError> {
        fs::create_dir_all(&self.folder).on("making", &self.folder)?;
        let there = files(&self.folder)?;
        let mut pinned = 0;
        for (&name, held) in &self.held {
            let is_gone = !there.contains(&name.file());
            if is_gone && self.attached(name)?.is_some_and(|it| it.now != 0) {
                let pin = self.pin(name);
                sys::pin(held.link.as_fd(), &pin).on("pinning a link at", &pin)?;
                pinned += 1;
            }
        }
        Ok(pinned)
    }

    fn pin(&self, name: N) -> PathBuf {
        self.folder.join(name.file())
    }
}

/// Ends the name under which a link is pinned before it takes its own. A name
/// with a dot is not allowed on a bpffs.
const STAGED: &str = "-new";

/// Names in a folder.
pub(super) fn files(folder: &Path) -> Result<BTreeSet<String>, KernelError> {
    let entries = fs::read_dir(folder).on("reading", folder)?;
    let name = |entry: io::Result<fs::DirEntry>| {
        entry.map(|entry| OsStr::to_string_lossy(&entry.file_name()).into_owned())
    };
    let names: io::Result<_> = entries.map(name).collect();
    names.on("reading", folder)
}

/// What is pinned at `pin`, if anything; refuses what is not of this hook, for
/// the kernel would take any program of the same type.
fn open(pin: &Path, hook: Hook) -> Result<Option<(OwnedFd, LinkInfo)>, KernelError> {
    let link = match sys::open_pin(pin) {
        Ok(link) => link,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).on("opening", pin),
    };
    let info = sys::link_info(link.as_fd()).on("looking at", pin)?;
    let kind = match hook {
        Hook::SkLookup => LinkInfo::NETNS,
        Hook::Veth => LinkInfo::TCX,
        _ => LinkInfo::CGROUP,
    };
    if info.kind == kind && info.attach_type == attach_type(hook) {
        Ok(Some((link, info)))
    } else {
        Err(KernelError::ForeignLink {
            path: pin.to_owned(),
        })
    }
}

/// Whoever comes first at an interface may send a frame elsewhere, past
/// everybody behind.
const fn flags(hook: Hook) -> u32 {
    /// From <linux/bpf.h>: before all that are there.
    const BPF_F_BEFORE: u32 = 1 << 3;
    match hook {
        Hook::Veth => BPF_F_BEFORE,
        _ => 0,
    }
}

fn remove_file(path: &Path) -> Result<(), KernelError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).on("removing", path),
        _ => Ok(()),
    }
}
