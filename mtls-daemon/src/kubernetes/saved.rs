//! What was last known of the cluster, on disk: a daemon that starts while the
//! API server is away goes on from there.
//!
//! The first line says what the file is and holds a digest of the rest.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use thiserror::Error;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Changes with every change of what is written below it.
const VERSION: &str = "mtls-daemon cluster state, version 4, sha256 ";
/// More than any cluster needs: 50,000 endpoints take some 10 MB.
const MOST: u64 = 1 << 30;

/// Changes within this time are written together.
const GATHER: Duration = Duration::from_secs(1);
/// Between two writings at least.
const PAUSE: Duration = Duration::from_secs(5);
/// How much longer the pause is than the writing took: at most 1 % of a core.
const SHARE: u32 = 100;

/// Why what is on disk is not used.
#[derive(Debug, Error)]
pub(super) enum SavedError {
    #[error("{0}: {1}")]
    Read(PathBuf, #[source] io::Error),
    #[error("{0} belongs to somebody else, or others may write to it")]
    NotOurs(PathBuf),
    #[error("{0} was written by another version of the daemon")]
    Version(PathBuf),
    #[error("{0} is damaged: {1}")]
    Damaged(PathBuf, String),
    #[error(
        "{0} was written for another node, trust domain, spiffe_path, label_prefix or istio_policies"
    )]
    OtherRules(PathBuf),
}

/// The state's file.
#[derive(Clone, Debug)]
pub(super) struct Saved(pub(super) PathBuf);

impl Saved {
    /// `None`: nothing was ever written.
    pub(super) fn read(&self) -> Result<Option<Vec<u8>>, SavedError> {
        let failed = |error| SavedError::Read(self.0.clone(), error);
        let damaged = |why: &str| SavedError::Damaged(self.0.clone(), why.to_owned());
        let mut file = match File::open(&self.0) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let metadata = file.metadata().map_err(failed)?;
        // It says who is who: nobody else has a say in that.
        if metadata.uid() != nix::unistd::geteuid().as_raw() || metadata.mode() & 0o022 != 0 {
            return Err(SavedError::NotOurs(self.0.clone()));
        }
        if metadata.len() > MOST {
            return Err(damaged("it is far too large"));
        }
        let mut all = Vec::new();
        file.read_to_end(&mut all).map_err(failed)?;
        let line = all.iter().position(|byte| *byte == b'\n');
        let (head, state) = all.split_at(line.ok_or_else(|| damaged("it has no first line"))?);
        let written = (head.strip_prefix(VERSION.as_bytes()))
            .ok_or_else(|| SavedError::Version(self.0.clone()))?;
        let state = &state[1..];
        if written != hex_digest(state).as_bytes() {
            return Err(damaged("its digest is another one"));
        }
        Ok(Some(state.to_vec()))
    }

    pub(super) fn damaged(&self, why: impl ToString) -> SavedError {
        SavedError::Damaged(self.0.clone(), why.to_string())
    }

    /// All of it or nothing, also if the machine stops in the midst.
    fn write(&self, state: &[u8]) -> io::Result<()> {
        let folder = self.0.parent().unwrap_or_else(|| Path::new("/"));
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
        let staged = self.0.with_extension("new");
        // Whatever an earlier daemon left there may have any owner.
        match fs::remove_file(&staged) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut options = OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&staged)?;
        writeln!(file, "{VERSION}{}", hex_digest(state))?;
        file.write_all(state)?;
        file.sync_all()?;
        fs::rename(&staged, &self.0)?;
        File::open(folder)?.sync_all()
    }
}

fn hex_digest(state: &[u8]) -> String {
    let digest = digest(&SHA256, state);
    digest
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Writes the state now and then, in a thread of its own.
#[derive(Debug)]
pub(super) struct Saver {
    saved: Saved,
    /// When to write next.
    due: Option<Instant>,
    not_before: Instant,
    writing: JoinSet<(Duration, io::Result<()>)>,
    failed: bool,
}

impl Saver {
    pub(super) fn new(saved: Saved, now: Instant) -> Self {
        Self {
            saved,
            due: None,
            not_before: now,
            writing: JoinSet::new(),
            failed: false,
        }
    }

    pub(super) fn changed(&mut self, now: Instant) {
        if self.due.is_none() {
            self.due = Some((now + GATHER).max(self.not_before));
        }
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.due.filter(|_| self.writing.is_empty())
    }

    /// `encoding`: how long it took to make `state`.
    pub(super) fn write(&mut self, state: Vec<u8>, encoding: Duration) {
        self.due = None;
        let saved = self.saved.clone();
        self.writing.spawn_blocking(move || {
            let began = Instant::now();
            let written = saved.write(&state);
            (encoding + began.elapsed(), written)
        });
    }

    /// Returns when a writing is over; pends while there is none.
    pub(super) async fn written(&mut self) {
        let Some(done) = self.writing.join_next().await else {
            return std::future::pending().await;
        };
        let (took, written) = done.unwrap_or_else(|error| (PAUSE, Err(io::Error::other(error))));
        self.not_before = Instant::now() + PAUSE.max(took * SHARE);
        let path = self.saved.0.display();
        match (&written, self.failed) {
            (Err(error), false) => tracing::warn!(
                %path,
                %error,
                "what is known of the cluster is not saved: a daemon that starts without the API server would know nothing (kubernetes.state)"
            ),
            (Ok(()), true) => tracing::info!(%path, "what is known of the cluster is saved again"),
            _ => {}
        }
        self.failed = written.is_err();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let name = format!("mtls-saved-{}-{name}", std::process::id());
            Self(std::env::temp_dir().join(name))
        }

        fn saved(&self) -> Saved {
            Saved(self.0.join("state/cluster"))
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn what_was_written_is_read_and_only_by_its_owner() {
        let folder = Folder::new("read");
        let saved = folder.saved();
        assert_eq!(saved.read().unwrap(), None);
        for state in ["{}", "{\"pods\":\n1}"] {
            saved.write(state.as_bytes()).unwrap();
            assert_eq!(saved.read().unwrap().unwrap(), state.as_bytes());
        }
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!(mode(&saved.0), 0o600);
        assert_eq!(mode(saved.0.parent().unwrap()), 0o700);
        assert_eq!(fs::read_dir(saved.0.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_not_whole_ours_and_of_this_version_is_not_used() {
        let folder = Folder::new("damaged");
        let saved = folder.saved();
        saved.write(b"{\"pods\":{}}").unwrap();
        let good = fs::read(&saved.0).unwrap();
        let explained = |bytes: &[u8]| {
            fs::write(&saved.0, bytes).unwrap();
            saved.read().unwrap_err().to_string()
        };
        assert!(explained(&good[..good.len() - 1]).contains("is damaged"));
        let mut flipped = good.clone();
        *flipped.last_mut().unwrap() ^= 1;
        assert!(explained(&flipped).contains("is damaged"));
        assert!(explained(b"").contains("is damaged"));
        let other = String::from_utf8(good.clone()).unwrap();
        let other = other.replace("version 4", "version 3");
        assert!(explained(other.as_bytes()).contains("another version"));
        fs::write(&saved.0, &good).unwrap();
        fs::set_permissions(&saved.0, PermissionsExt::from_mode(0o666)).unwrap();
        assert!(matches!(saved.read(), Err(SavedError::NotOurs(_))));
    }

    #[tokio::test]
    async fn changes_are_written_together_and_not_all_the_time() {
        let folder = Folder::new("pace");
        let now = Instant::now();
        let mut saver = Saver::new(folder.saved(), now);
        assert_eq!(saver.due(), None);
        saver.changed(now);
        saver.changed(now + GATHER / 2);
        assert_eq!(saver.due(), Some(now + GATHER));
        saver.write(b"{}".to_vec(), Duration::from_secs(1));
        saver.changed(now);
        assert_eq!(saver.due(), None, "one at a time");
        saver.written().await;
        saver.due = None;
        saver.changed(now);
        let pause = saver.due().unwrap().saturating_duration_since(now);
        assert!(pause >= Duration::from_secs(1) * SHARE, "{pause:?}");
        assert_eq!(folder.saved().read().unwrap().unwrap(), b"{}");
    }
}
