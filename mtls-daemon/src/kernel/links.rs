//! The links of the cgroup's hooks, and those of the workloads' sk_lookup
//! programs.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

use mtls_common::counters::Hook;

use super::error::{KernelError, While};
use super::host::AttachPoint;
use super::pinned::{Name, Pinned, Target};
use super::programs::Loaded;
use super::sys;

/// What became of a hook's link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attachment {
    /// Where it should be.
    Attached,
    /// What it was attached to is gone, and perhaps made again.
    Husk,
    /// It was never attached, or taken off what is still there: somebody
    /// removed enforcement.
    Removed,
}

/// The links of the cgroup's hooks.
#[derive(Debug)]
pub(super) struct Links(Pinned<Hook>);

impl Name for Hook {
    fn hook(self) -> Hook {
        self
    }

    fn file(self) -> String {
        self.word().to_owned()
    }

    fn of_file(file: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|hook| hook.word() == file)
    }
}

impl Links {
    pub(super) fn adopt(folder: PathBuf) -> Result<Self, KernelError> {
        Pinned::adopt(folder).map(Self)
    }

    pub(super) fn state(&self, hook: Hook, point: &AttachPoint) -> Attachment {
        let Ok(Some(attached)) = self.0.attached(hook) else {
            return Attachment::Removed;
        };
        match point.id() {
            Ok(id) if id == attached.now => Attachment::Attached,
            Ok(id) if id == attached.first => Attachment::Removed,
            _ => Attachment::Husk,
        }
    }

    /// Attaches a program, or puts it in place of the attached one.
    pub(super) fn attach(
        &mut self,
        loaded: &Loaded,
        point: &AttachPoint,
    ) -> Result<(), KernelError> {
        let (folder, id) = point.open().on("opening", point.path())?;
        let target = Target {
            number: sys::number(folder.as_fd()),
            id,
            name: format!("cgroup {}", point.path().display()),
        };
        self.0.attach(loaded.hook, loaded.program.as_fd(), &target)
    }

    pub(super) fn in_force(&self) -> Result<usize, KernelError> {
        self.0.in_force()
    }

    pub(super) fn pin_again(&self) -> Result<usize, KernelError> {
        self.0.pin_again()
    }
}

/// The sk_lookup links, by cookie of the network namespace.
#[derive(Debug)]
pub(super) struct NetnsLinks(Pinned<u64>);

impl Name for u64 {
    fn hook(self) -> Hook {
        Hook::SkLookup
    }

    fn file(self) -> String {
        self.to_string()
    }

    fn of_file(file: &str) -> Option<Self> {
        file.parse().ok()
    }
}

impl NetnsLinks {
    pub(super) fn adopt(folder: PathBuf) -> Result<Self, KernelError> {
        Pinned::adopt(folder).map(Self)
    }

    pub(super) fn attach(
        &mut self,
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
        self.0.attach(cookie, program, &target)
    }

    pub(super) fn remove(&mut self, cookie: u64) -> Result<(), KernelError> {
        self.0.remove(cookie)
    }

    /// Inode of the network namespace that a link is attached to, 0 once that
    /// is gone.
    pub(super) fn target(&self, cookie: u64) -> Result<Option<u64>, KernelError> {
        Ok(self.0.attached(cookie)?.map(|attached| attached.now))
    }

    /// Cookies of the links, and whether their network namespace lives.
    pub(super) fn all(&self) -> Result<Vec<(u64, bool)>, KernelError> {
        let cookies = self.0.names().into_iter();
        cookies
            .map(|cookie| Ok((cookie, self.target(cookie)?.is_some_and(|inode| inode != 0))))
            .collect()
    }

    pub(super) fn in_force(&self) -> Result<usize, KernelError> {
        self.0.in_force()
    }

    pub(super) fn pin_again(&self) -> Result<usize, KernelError> {
        self.0.pin_again()
    }
}
