//! Links, which tie a program to where it runs. Each is pinned, and only
//! pinned: no descriptor stays open, so that removing the pins by hand removes
//! enforcement, daemon or not.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use mtls_common::counters::Hook;

use super::error::{KernelError, While};
use super::host::AttachPoint;
use super::programs::{Loaded, attach_type};
use super::sys::{self, LinkInfo};

/// What became of a hook's link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attachment {
    /// Where it should be.
    Attached,
    /// What it was attached to is gone, and perhaps made again.
    Husk,
    /// Its pin is gone: somebody removed enforcement.
    Removed,
}

/// The folder with the links of the cgroup's hooks.
#[derive(Debug)]
pub(super) struct Links {
    folder: PathBuf,
}

impl Links {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    pub(super) fn state(&self, hook: Hook, point: &AttachPoint) -> Attachment {
        match inspect(&self.pin(hook), hook) {
            Ok(Some(info)) if point.id().is_ok_and(|id| id == info.target) => Attachment::Attached,
            Ok(Some(_)) => Attachment::Husk,
            Ok(None) | Err(_) => Attachment::Removed,
        }
    }

    /// Attaches a program, or puts it in place of the attached one.
    pub(super) fn attach(&self, loaded: &Loaded, point: &AttachPoint) -> Result<(), KernelError> {
        let (folder, id) = point.open().on("opening", point.path())?;
        let target = Target {
            number: sys::number(folder.as_fd()),
            id,
            name: format!("cgroup {}", point.path().display()),
        };
        attach(
            loaded.hook,
            loaded.program.as_fd(),
            &target,
            &self.pin(loaded.hook),
        )
    }

    fn pin(&self, hook: Hook) -> PathBuf {
        self.folder.join(hook.word())
    }
}

/// The folder with the sk_lookup links, by cookie of the network namespace.
#[derive(Debug)]
pub(super) struct NetnsLinks {
    folder: PathBuf,
}

impl NetnsLinks {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    pub(super) fn attach(
        &self,
        cookie: u64,
        netns: BorrowedFd<'_>,
        program: BorrowedFd<'_>,
    ) -> Result<(), KernelError> {
        let inode = nix::sys::stat::fstat(netns)
            .map_err(io::Error::from)
            .doing("looking at a network namespace")?
            .st_ino;
        let target = Target {
            number: sys::number(netns),
            id: inode,
            name: format!("network namespace {cookie}"),
        };
        attach(Hook::SkLookup, program, &target, &self.pin(cookie))
    }

    pub(super) fn remove(&self, cookie: u64) -> Result<(), KernelError> {
        remove_file(&self.pin(cookie))
    }

    /// Inode of the network namespace that a link is attached to, 0 once that
    /// is gone. A link whose pin somebody removed tells nothing.
    pub(super) fn target(&self, cookie: u64) -> Result<Option<u64>, KernelError> {
        let info = inspect(&self.pin(cookie), Hook::SkLookup)?;
        Ok(info.map(|info| info.target))
    }

    /// Cookies of the pinned links, and whether their network namespace lives.
    pub(super) fn all(&self) -> Result<Vec<(u64, bool)>, KernelError> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.folder).on("reading", &self.folder)? {
            let path = entry.on("reading", &self.folder)?.path();
            let cookie = path
                .file_name()
                .and_then(|name| name.to_str()?.parse().ok());
            match cookie {
                Some(cookie) => {
                    let info = inspect(&path, Hook::SkLookup)?;
                    found.push((cookie, info.is_some_and(|info| info.target != 0)));
                }
                // Left over by a daemon that was killed while it attached.
                None => remove_file(&path)?,
            }
        }
        Ok(found)
    }

    fn pin(&self, cookie: u64) -> PathBuf {
        self.folder.join(cookie.to_string())
    }
}

/// Where a program is to run.
pub(super) struct Target {
    /// An open descriptor of a cgroup or a network namespace, or an interface's index.
    pub(super) number: u32,
    /// What a link to it says about its target.
    pub(super) id: u64,
    pub(super) name: String,
}

pub(super) fn attach(
    hook: Hook,
    program: BorrowedFd<'_>,
    to: &Target,
    pin: &Path,
) -> Result<(), KernelError> {
    let failed = |source| KernelError::Attach {
        hook,
        to: to.name.clone(),
        source,
    };
    if inspect(pin, hook)?.is_some_and(|info| info.target == to.id) {
        let link = sys::open_pin(pin).map_err(failed)?;
        match sys::update_link(link.as_fd(), program) {
            // What it was attached to went at this moment.
            Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {}
            result => return result.map_err(failed),
        }
    }
    // First attached, then pinned under another name, then put in place of
    // what is there: at no time is there less than before.
    let link =
        sys::create_link(program, to.number, attach_type(hook), flags(hook)).map_err(failed)?;
    let staged = staged(pin);
    remove_file(&staged)?;
    sys::pin(link.as_fd(), &staged).on("pinning a link at", &staged)?;
    fs::rename(&staged, pin).on("renaming a link to", pin)
}

/// What is pinned at `pin`, if anything; refuses what is not of this hook, for
/// the kernel would take any program of the same type.
pub(super) fn inspect(pin: &Path, hook: Hook) -> Result<Option<LinkInfo>, KernelError> {
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
        Ok(Some(info))
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

/// Names with a dot are not allowed on a bpffs.
fn staged(pin: &Path) -> PathBuf {
    let mut name = pin.file_name().unwrap_or_default().to_owned();
    name.push("-new");
    pin.with_file_name(name)
}

pub(super) fn remove_file(path: &Path) -> Result<(), KernelError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).on("removing", path),
        _ => Ok(()),
    }
}
