//! Watches the attach point's inode: a cgroup that is removed leaves its
//! programs behind, attached to nothing.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::readable::Readable;

/// How soon a change is noticed where inotify says nothing: when the parent
/// went as well.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

#[derive(Debug)]
pub(super) struct Watch {
    path: PathBuf,
    seen: Option<u64>,
    parent: Option<Readable<Inotify>>,
    timer: Interval,
}

impl Watch {
    /// Within a runtime only.
    pub(super) fn new(path: &Path) -> io::Result<Self> {
        let mut timer = interval(LOOK_AGAIN);
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self {
            path: path.to_owned(),
            seen: inode(path),
            parent: watch_parent(path)?,
            timer,
        })
    }

    /// Another inode, or none, is where the attach point was.
    pub(super) async fn changed(&mut self) {
        loop {
            tokio::select! {
                () = anything(self.parent.as_mut()) => {}
                _ = self.timer.tick() => {}
            }
            let now = inode(&self.path);
            if now != self.seen {
                self.seen = now;
                // The parent may be another one, too.
                self.parent = watch_parent(&self.path)
                    .inspect_err(|error| {
                        tracing::warn!(%error, "the attach point's parent cannot be watched");
                    })
                    .unwrap_or(None);
                return;
            }
        }
    }
}

/// Told of a cgroup that is made within 0.1 ms (Linux 6.18): as long is it
/// bare.
fn watch_parent(path: &Path) -> io::Result<Option<Readable<Inotify>>> {
    let Some(parent) = path.parent().filter(|parent| parent.exists()) else {
        return Ok(None);
    };
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
    let flags = AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_ONLYDIR;
    inotify.add_watch(parent, flags)?;
    Readable::new(inotify).map(Some)
}

/// Something happened in the folder. What, is not read but looked at.
async fn anything(parent: Option<&mut Readable<Inotify>>) {
    match parent {
        Some(parent) => {
            parent
                .next(|inotify| inotify.read_events().ok().map(drop))
                .await;
        }
        None => std::future::pending().await,
    }
}

fn inode(path: &Path) -> Option<u64> {
    std::fs::metadata(path).ok().map(|about| about.ino())
}
