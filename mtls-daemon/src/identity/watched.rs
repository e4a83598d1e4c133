//! Files that something else writes: looked at every few seconds, loaded when
//! they changed, and never half.
//!
//! Polled rather than notified: a change may be a write, a rename over the
//! file, or the swap of a symbolic link two folders up (as Kubernetes does
//! with `..data`), and the file may lie on a network file system. Looking at
//! a few files costs microseconds.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::pace::Timings;

/// What was made of the files, at the last change. Neither: nobody has looked
/// yet.
#[derive(Debug)]
pub(super) struct Watched<T> {
    /// The last state that was usable.
    pub good: Option<Arc<T>>,
    /// What is wrong with the present state, if anything.
    pub complaint: Option<String>,
}

/// What a loader makes of the files: something, a complaint, or both.
#[derive(Debug)]
pub struct Loaded<T> {
    pub good: Option<T>,
    pub complaint: Option<String>,
}

impl<T> Loaded<T> {
    pub fn complaining(complaint: String) -> Self {
        Self {
            good: None,
            complaint: Some(complaint),
        }
    }
}

/// A file, or why it cannot be read.
pub(super) struct Content {
    pub path: PathBuf,
    /// Wiped when dropped: it may be a key.
    pub bytes: io::Result<Zeroizing<Vec<u8>>>,
    /// Permission bits.
    pub mode: u32,
}

/// A certificate file that is larger than this is something else.
const MAX_SIZE: u64 = 1 << 20;
/// File times tick every few milliseconds, so that two writes can carry the
/// same time: a stamp is trusted once it is this old.
const TRUSTED_AGE: Duration = Duration::from_secs(2);
/// How often files that do not fit together are looked at again.
const IMPATIENT_POLL: Duration = Duration::from_millis(200);
/// Files that do not load by themselves may do so with time (a certificate
/// that is not valid yet).
const RELOAD: Duration = Duration::from_secs(10);

/// Watches `paths`, loading all of them together with `load` after a change,
/// for as long as anyone listens.
pub(super) fn watch<T, L>(
    paths: Vec<PathBuf>,
    timings: Timings,
    load: L,
) -> watch::Receiver<Watched<T>>
where
    T: Send + Sync + 'static,
    L: Fn(&[Content]) -> Loaded<T> + Send + Sync + 'static,
{
    let look = Look {
        paths,
        load: Arc::new(load),
        last: Last::default(),
        complaining_since: Instant::now(),
    };
    let (sender, receiver) = watch::channel(Watched {
        good: None,
        complaint: None,
    });
    tokio::spawn(keep_looking(look, sender, timings));
    receiver
}

async fn keep_looking<T, L>(mut look: Look<L>, sender: watch::Sender<Watched<T>>, timings: Timings)
where
    T: Send + Sync + 'static,
    L: Fn(&[Content]) -> Loaded<T> + Send + Sync + 'static,
{
    // Since when changed files have been at fault while nobody was told.
    let mut at_fault_since: Option<Instant> = None;
    loop {
        let mut wait = timings.poll;
        if let Some(loaded) = look.again().await {
            let may_settle = loaded.complaint.is_some() && sender.borrow().is_usable();
            let since = *at_fault_since.get_or_insert_with(Instant::now);
            if may_settle && since.elapsed() < timings.settle {
                // Its writer may be half-way.
                wait = wait.min(IMPATIENT_POLL);
                look.forget();
            } else {
                at_fault_since = None;
                sender.send_modify(|state| state.take(loaded));
            }
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = sender.closed() => return,
        }
    }
}

impl<T> Watched<T> {
    fn is_usable(&self) -> bool {
        self.good.is_some() && self.complaint.is_none()
    }

    fn take(&mut self, loaded: Loaded<T>) {
        if let Some(good) = loaded.good {
            self.good = Some(Arc::new(good));
        }
        self.complaint = loaded.complaint;
    }
}

struct Look<L> {
    paths: Vec<PathBuf>,
    load: Arc<L>,
    last: Last,
    /// Since when the same complaint has stood, or was last looked into.
    complaining_since: Instant,
}

/// What the last look saw, to tell whether anything is new.
#[derive(Clone, Debug, Default)]
struct Last {
    /// `None`: not to be trusted, read again.
    stamps: Option<Vec<Stamp>>,
    digest: Option<[u8; 32]>,
    complaint: Option<String>,
}

/// What tells one state of a file from another without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl<L> Look<L> {
    /// `None`: as before.
    async fn again<T>(&mut self) -> Option<Loaded<T>>
    where
        T: Send + 'static,
        L: Fn(&[Content]) -> Loaded<T> + Send + Sync + 'static,
    {
        let paths = self.paths.clone();
        let load = Arc::clone(&self.load);
        let mut last = self.last.clone();
        if last.complaint.is_some() && self.complaining_since.elapsed() >= RELOAD {
            self.complaining_since = Instant::now();
            last.stamps = None;
        }
        // Files can be slow (network file systems): never on this thread.
        let looked = tokio::task::spawn_blocking(move || look(&paths, last, &*load));
        match looked.await {
            Ok((last, loaded)) => {
                if loaded.is_some() {
                    self.complaining_since = Instant::now();
                }
                self.last = last;
                loaded
            }
            Err(join) => Some(Loaded::complaining(format!(
                "reading the files failed: {join}"
            ))),
        }
    }

    /// The next look loads, whatever it finds.
    fn forget(&mut self) {
        self.last = Last::default();
    }
}

fn look<T>(
    paths: &[PathBuf],
    last: Last,
    load: impl Fn(&[Content]) -> Loaded<T>,
) -> (Last, Option<Loaded<T>>) {
    let before = stamps(paths);
    if before.is_some() && before == last.stamps {
        return (last, None);
    }
    let contents: Vec<Content> = paths.iter().map(|path| Content::read(path)).collect();
    // Changed while it was read: whatever comes of it, the next look reads
    // again.
    let after = stamps(paths);
    let stamps = before.filter(|before| after.as_ref() == Some(before) && old_enough(before));
    let digest = digest(&contents);
    let same = last.digest == Some(digest);
    if same && last.complaint.is_none() {
        return (Last { stamps, ..last }, None);
    }
    let loaded = load(&contents);
    let news = !same || loaded.complaint != last.complaint;
    let last = Last {
        stamps,
        digest: Some(digest),
        complaint: loaded.complaint.clone(),
    };
    (last, news.then_some(loaded))
}

fn digest(contents: &[Content]) -> [u8; 32] {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    for content in contents {
        // A file that cannot be read differs from every file that can.
        let bytes = content.bytes.as_ref().map(|bytes| bytes.as_slice());
        let length = bytes.map_or(usize::MAX, <[u8]>::len);
        context.update(&length.to_be_bytes());
        context.update(bytes.unwrap_or_default());
    }
    let mut digest = [0; 32];
    digest.copy_from_slice(context.finish().as_ref());
    digest
}

fn stamps(paths: &[PathBuf]) -> Option<Vec<Stamp>> {
    paths
        .iter()
        .map(|path| {
            let meta = std::fs::metadata(path).ok()?;
            Some(Stamp {
                device: meta.dev(),
                inode: meta.ino(),
                size: meta.size(),
                modified: (meta.mtime(), meta.mtime_nsec()),
                changed: (meta.ctime(), meta.ctime_nsec()),
            })
        })
        .collect()
}

fn old_enough(stamps: &[Stamp]) -> bool {
    let newest = stamps
        .iter()
        .map(|stamp| stamp.changed.0)
        .max()
        .unwrap_or(0);
    let newest = SystemTime::UNIX_EPOCH + Duration::from_secs(newest.try_into().unwrap_or(0));
    SystemTime::now()
        .duration_since(newest)
        .is_ok_and(|age| age >= TRUSTED_AGE)
}

impl Content {
    pub(super) fn read(path: &Path) -> Self {
        let mut mode = 0;
        let bytes = read(path, &mut mode);
        Self {
            path: path.to_owned(),
            bytes,
            mode,
        }
    }

    /// What `parser` makes of the text, or a sentence that names the file.
    pub(super) fn parse<T, E: fmt::Display>(
        &self,
        parser: impl FnOnce(&[u8]) -> Result<T, E>,
    ) -> Result<T, String> {
        let named = |what: &dyn fmt::Display| format!("{}: {what}", self.path.display());
        match &self.bytes {
            Ok(bytes) => parser(bytes).map_err(|e| named(&e)),
            Err(e) => Err(named(e)),
        }
    }
}

/// Reads a regular file of bounded size; a FIFO or a device would hang.
fn read(path: &Path, mode: &mut u32) -> io::Result<Zeroizing<Vec<u8>>> {
    let meta = std::fs::metadata(path)?;
    *mode = meta.mode();
    if !meta.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    if meta.size() > MAX_SIZE {
        return Err(io::Error::other("it is larger than 1 MiB"));
    }
    // Room for the whole at once: a vector that grows leaves copies behind.
    let room = usize::try_from(meta.size()).map_or(0, |size| size + 1);
    let mut bytes = Zeroizing::new(Vec::with_capacity(room));
    File::open(path)?.take(MAX_SIZE).read_to_end(&mut bytes)?;
    Ok(bytes)
}
