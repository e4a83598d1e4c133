//! A scene: the folders, the cgroup subtree and the nodes of one story.
//! Everything in it goes when the last handle does; the logs of a story that
//! failed are kept beside the binaries.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::cgroup::Cgroup;
use crate::error::{Doing, Error, Result};
use crate::process::tail;
use crate::run::{self, PREFIX};
use crate::{leftovers, programs};

/// Handle of a scene.
#[derive(Clone, Debug)]
pub struct Scene(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    cgroup: Cgroup,
    /// Namespaces, sockets, configuration.
    dir: PathBuf,
    /// Logs, captures, data of servers.
    disk: PathBuf,
}

/// Plays a story in a scene of its own and checks that it leaves nothing
/// behind. The logs of a story that fails are kept, and their ends shown.
pub fn play(label: &str, story: impl FnOnce(&Scene) -> Result) -> Result {
    let scene = Scene::new(label)?;
    // A panic must keep the logs, too.
    let played = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| story(&scene)));
    let result = match played {
        Ok(Ok(())) => {
            let name = scene.0.name.clone();
            drop(scene);
            return leftovers::ensure_none_of(&name);
        }
        Ok(Err(e)) => e,
        Err(panic) => {
            scene.keep_logs();
            std::panic::resume_unwind(panic);
        }
    };
    let logs = scene.keep_logs();
    Err(Error::Unexpected(format!("{result}\n{logs}")))
}

impl Scene {
    pub fn new(label: &str) -> Result<Self> {
        let run = run::current()?;
        let name = run.unique(label);
        let inner = Inner {
            dir: run.dir().join(&name),
            disk: std::env::temp_dir().join(format!("{PREFIX}{name}")),
            cgroup: Cgroup::root(&name)?,
            name,
        };
        for folder in [
            inner.dir.join("netns"),
            inner.disk.join("logs"),
            inner.disk.join("data"),
        ] {
            fs::create_dir_all(&folder).doing(|| format!("making {}", folder.display()))?;
        }
        Ok(Self(Arc::new(inner)))
    }

    /// Folder for sockets, configuration and other small files.
    pub fn dir(&self) -> &Path {
        &self.0.dir
    }

    pub fn logs(&self) -> PathBuf {
        self.0.disk.join("logs")
    }

    /// A new folder for a server's data.
    pub fn data(&self, name: &str) -> Result<PathBuf> {
        let folder = self.0.disk.join("data").join(name);
        fs::create_dir(&folder).doing(|| format!("making {}", folder.display()))?;
        Ok(folder)
    }

    /// A cgroup that lies below no daemon's attach point.
    pub fn cgroup_outside(&self, name: &str) -> Result<Cgroup> {
        self.0.cgroup.child(name)
    }

    pub(crate) fn cgroup(&self) -> &Cgroup {
        &self.0.cgroup
    }

    pub(crate) fn netns_path(&self, name: &str) -> PathBuf {
        self.0.dir.join("netns").join(name)
    }

    /// Copies the logs to where they outlive the scene; says where, and shows
    /// the end of each.
    pub fn keep_logs(&self) -> String {
        let mut shown = String::new();
        let kept = programs::failure_logs().map(|folder| folder.join(&self.0.name));
        if let Ok(kept) = &kept
            && fs::create_dir_all(kept).is_ok()
        {
            let _ = writeln!(shown, "logs and captures: {}", kept.display());
        }
        let mut logs = run::list(&self.logs());
        logs.sort();
        for (path, name) in logs {
            if let Ok(kept) = &kept {
                // A full disk must not hide the story's own failure.
                let _ = fs::copy(&path, kept.join(&name));
            }
            if name.ends_with(".log") {
                let text = fs::read(&path).unwrap_or_default();
                let text = String::from_utf8_lossy(&text);
                if !text.is_empty() {
                    let _ = writeln!(shown, "--- end of {name}\n{}", tail(&text, 25));
                }
            }
        }
        shown
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // What cannot be removed is found by the leftovers check.
        let _ = crate::cgroup::remove_tree(self.cgroup.path());
        if let Some(name) = self.cgroup.path().file_name() {
            let _ = crate::cgroup::remove_twins(name);
        }
        let _ = run::unmount_below(&self.dir);
        let _ = run::remove_folder(&self.dir);
        let _ = run::remove_folder(&self.disk);
    }
}
