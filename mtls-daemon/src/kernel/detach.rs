//! Removing enforcement: the links first, which is what opens, then the rest.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::error::{KernelError, While};
use super::open::Folders;
use super::{host, sys};

/// What `detach` removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Detached {
    pub links: usize,
    pub maps: usize,
    /// A daemon was running. It does not attach again until it is restarted.
    pub daemon_running: bool,
}

/// Removes the enforcement that is pinned at `pins`, of whatever version:
/// traffic is in the clear from then on.
pub fn detach(pins: &Path) -> Result<Detached, KernelError> {
    if !pins.exists() {
        return Ok(Detached::default());
    }
    let kind = statfs(pins)
        .map_err(io::Error::from)
        .on("looking at", pins)?
        .filesystem_type();
    if kind != BPF_FS_MAGIC {
        return Err(KernelError::NotBpffs {
            path: pins.to_owned(),
        });
    }
    let daemon_running = matches!(host::lock(pins), Err(KernelError::Held { .. }));
    let folders = Folders::below(pins);
    let mut links = remove_tree(&folders.links, take_off)?;
    links += remove_tree(&folders.netns, take_off)?;
    links += remove_tree(&folders.veths, take_off)?;
    let maps = remove_tree(pins, |_| {})?;
    Ok(Detached {
        links,
        maps,
        daemon_running,
    })
}

/// Without this a link would go with its pin as well, only some time later.
fn take_off(pin: &Path) {
    let taken_off = sys::open_pin(pin).and_then(|link| sys::detach_link(link.as_fd()));
    if let Err(error) = taken_off {
        tracing::debug!(pin = %pin.display(), %error, "goes with its pin");
    }
}

/// Removes a folder with all in it; how many files there were.
fn remove_tree(folder: &Path, before: fn(&Path)) -> Result<usize, KernelError> {
    let mut files = 0;
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error).on("reading", folder),
    };
    for entry in entries {
        let path = entry.on("reading", folder)?.path();
        if path.is_dir() {
            files += remove_tree(&path, before)?;
        } else {
            before(&path);
            fs::remove_file(&path).on("removing", &path)?;
            files += 1;
        }
    }
    fs::remove_dir(folder).on("removing", folder)?;
    Ok(files)
}
