//! The folder of the pins, and that it stays whole as long as the daemon runs.

use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use mtls_common::maps::name;
use nix::fcntl::Flock;

use super::error::{KernelError, While};
use super::host;
use super::open::Folders;
use super::pinned::files;
use super::sys;

/// The folder, held, with the maps in it. The links hold themselves.
pub(super) struct Pins {
    path: PathBuf,
    lock: Flock<File>,
    maps: Vec<(&'static str, OwnedFd)>,
}

impl Pins {
    pub(super) fn hold(
        path: &Path,
        lock: Flock<File>,
        folders: &Folders,
    ) -> Result<Self, KernelError> {
        let open = |&name: &&'static str| {
            let map = sys::open_pin(&folders.maps.join(name)).of_map(name, "opened");
            map.map(|map| (name, map))
        };
        Ok(Self {
            path: path.to_owned(),
            lock,
            maps: name::PINNED.iter().map(open).collect::<Result<_, _>>()?,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the folder is where it was.
    pub(super) fn are_in_place(&self) -> bool {
        host::is_same_folder(&self.path, &*self.lock)
    }

    /// Whoever loads a program by the pins of the maps had better find those.
    pub(super) fn ensure_maps(&self, folders: &Folders) -> Result<(), KernelError> {
        let is_whole = self.are_in_place()
            && files(&folders.maps)
                .is_ok_and(|there| self.maps.iter().all(|(name, _)| there.contains(*name)));
        match is_whole {
            true => Ok(()),
            false => Err(KernelError::Removed {
                path: self.path.clone(),
            }),
        }
    }

    /// Goes to the folder that is in its place now, making it if need be: the
    /// folder was removed, or its file system unmounted. What is left of the
    /// former one goes with what this returns.
    pub(super) fn follow(&mut self) -> Result<Option<Flock<File>>, KernelError> {
        if self.are_in_place() {
            return Ok(None);
        }
        host::pin_folder(&self.path)?;
        let lock = host::lock(&self.path)?;
        if !files(&self.path)?.is_empty() {
            return Err(KernelError::Occupied {
                path: self.path.clone(),
            });
        }
        Ok(Some(std::mem::replace(&mut self.lock, lock)))
    }

    /// Pins the maps again that are not; how many.
    pub(super) fn pin_maps_again(&self, folders: &Folders) -> Result<usize, KernelError> {
        // All or none: a daemon's successor takes the folder for whole.
        let new = !folders.maps.exists();
        let into = match new {
            true => folders.empty_maps_new()?,
            false => &folders.maps,
        };
        let there = files(into)?;
        let mut pinned = 0;
        for (name, map) in &self.maps {
            if !there.contains(*name) {
                let pin = into.join(name);
                sys::pin(map.as_fd(), &pin).on("pinning a map at", &pin)?;
                pinned += 1;
            }
        }
        if new {
            fs::rename(into, &folders.maps).on("renaming to", &folders.maps)?;
        }
        Ok(pinned)
    }
}
