//! A process of a workload, for an agent that attests by process: found by
//! the workload's network namespace, and known by a pidfd, so that another
//! one that gets its number later is never taken for it.

use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use thiserror::Error;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::cgroup2;
use crate::config::Place;
use crate::locate::{LocateError, locate};
use crate::netns::{self, FileId};

/// A process that runs in a workload's network namespace.
pub(super) struct Process {
    pid: u32,
    /// Readable once the process has ended.
    pidfd: AsyncFd<OwnedFd>,
    netns: FileId,
}

#[derive(Debug, Error)]
pub(super) enum ProcessError {
    #[error(transparent)]
    Locate(#[from] LocateError),
    #[error(transparent)]
    Cgroup2(#[from] cgroup2::Cgroup2Error),
    #[error("reading {0}: {1}")]
    Read(String, io::Error),
    #[error("no process runs in the workload's network namespace")]
    None,
}

impl Process {
    /// The oldest one at `place`: whoever came later may be a visitor, such as
    /// a shell that somebody opened there.
    pub(super) async fn find(place: &Place) -> Result<Self, ProcessError> {
        let place = place.clone();
        // Hundreds of small files, and not on this thread.
        let looked = tokio::task::spawn_blocking(move || candidates(&place)).await;
        let (netns, pids) = looked.map_err(|e| ProcessError::Read("/proc".into(), e.into()))??;
        pids.into_iter()
            .find_map(|pid| Self::open(pid, netns))
            .ok_or(ProcessError::None)
    }

    fn open(pid: u32, netns: FileId) -> Option<Self> {
        let pidfd = watched(pidfd_open(pid).ok()?).ok()?;
        let process = Self { pid, pidfd, netns };
        // Looked at under the pidfd: before, it could have been another one.
        process.is_there().then_some(process)
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether it runs, and still in that namespace: all that was said of its
    /// number since it was found was said of it.
    pub(super) fn is_there(&self) -> bool {
        is_in(self.pid, self.netns) && !self.has_ended()
    }

    fn has_ended(&self) -> bool {
        let fd = self.pidfd.get_ref().as_fd();
        let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
        // What cannot be asked cannot be vouched for.
        poll(&mut fds, PollTimeout::ZERO) != Ok(0)
    }

    /// Waits for its end.
    pub(super) async fn ended(&self) {
        while !self.has_ended() {
            if let Ok(mut ready) = self.pidfd.readable().await {
                ready.clear_ready();
            }
        }
    }
}

/// The namespace at `place`, and the processes in it, oldest first.
fn candidates(place: &Place) -> Result<(FileId, Vec<u32>), ProcessError> {
    let located = locate(place, &cgroup2::mount()?)?;
    let reading = |path: &Path| {
        let path = path.display().to_string();
        |error| ProcessError::Read(path, error)
    };
    let netns = netns::look(&located.netns).map_err(reading(&located.netns))?;
    let proc = Path::new("/proc");
    let entries = std::fs::read_dir(proc).map_err(reading(proc))?;
    let mut found: Vec<(u64, u32)> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| is_in(*pid, netns))
        .filter_map(|pid| Some((started(pid)?, pid)))
        .collect();
    found.sort_unstable();
    Ok((netns, found.into_iter().map(|(_, pid)| pid).collect()))
}

fn is_in(pid: u32, netns: FileId) -> bool {
    netns::look(Path::new(&format!("/proc/{pid}/ns/net"))).is_ok_and(|own| own == netns)
}

/// When it started, in ticks since the machine did: field 22 of proc(5)'s stat.
fn started(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(19)?.parse().ok()
}

#[expect(unsafe_code, reason = "AsyncFd wants to hear that nobody closes it")]
fn watched(pidfd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the AsyncFd owns the descriptor, which is closed when that is
    // dropped.
    Ok(unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }?)
}

#[expect(unsafe_code, reason = "nix has no pidfd_open")]
fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: plain integers; without flags the descriptor is close-on-exec.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, libc::PIDFD_NONBLOCK) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_is_known_until_its_end() {
        let mut child = std::process::Command::new("sleep")
            .arg("600")
            .spawn()
            .unwrap();
        let own = netns::look(Path::new("/proc/self/ns/net")).unwrap();
        let process = Process::open(child.id(), own).unwrap();
        assert!(process.is_there());
        let elsewhere = FileId {
            inode: own.inode + 1,
            ..own
        };
        assert!(Process::open(child.id(), elsewhere).is_none());
        child.kill().unwrap();
        process.ended().await;
        // Its number is still its own: it was not waited for.
        assert!(!process.is_there());
        child.wait().unwrap();
        assert!(Process::open(child.id(), own).is_none());
    }

    #[tokio::test]
    async fn the_oldest_process_of_a_namespace_is_found() {
        let place = Place::Netns("/proc/self/ns/net".into());
        let found = Process::find(&place).await.unwrap();
        assert!(started(found.pid()).unwrap() <= started(std::process::id()).unwrap());
    }
}
