//! Keeps the plug-in in its place, whoever writes there beside us, until it is
//! told to leave.

use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::install::{Done, InstallError, Place};

/// Told of most changes at once; of a folder that was not there, so late.
const LOOK_AGAIN: u16 = 5_000;
/// At most so often is anything written: somebody else may want it otherwise.
const REST: u16 = 1_000;
/// So many times without a quiet moment is no accident.
const A_FIGHT: u32 = 5;

#[derive(Debug)]
pub struct Keeper(Arc<State>);

#[derive(Debug)]
struct State {
    /// `None`: left.
    place: Mutex<Option<Place>>,
    trouble: Mutex<Option<String>>,
}

impl Keeper {
    /// Starts a thread, which lives as long as the process.
    pub fn start(place: Place) -> io::Result<Self> {
        let state = Arc::new(State {
            place: Mutex::new(Some(place)),
            trouble: Mutex::default(),
        });
        let of_thread = Arc::clone(&state);
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        thread::Builder::new()
            .name("cni".to_owned())
            .spawn(move || of_thread.keep(&inotify))?;
        Ok(Self(state))
    }

    /// Why the plug-in is not in its place.
    pub fn trouble(&self) -> Option<String> {
        lock(&self.0.trouble).clone()
    }

    /// Takes the entry away, for good.
    pub fn leave(&self) -> Result<Vec<PathBuf>, InstallError> {
        let place = lock(&self.0.place).take();
        match place {
            Some(place) => place.remove(),
            None => Ok(Vec::new()),
        }
    }
}

impl State {
    fn keep(&self, inotify: &Inotify) {
        let mut writes = 0;
        loop {
            // Watched before it is looked at: nothing is missed in between.
            let done = {
                let mut held = lock(&self.place);
                let Some(place) = held.as_mut() else { return };
                for folder in place.folders() {
                    // Who is not there yet is looked for again.
                    let _ = inotify.add_watch(folder, CHANGES);
                }
                place.put()
            };
            let wrote = matches!(done, Ok(Done { written: true, .. }));
            writes += u32::from(wrote);
            self.report(done, writes);
            if wrote {
                wait(None, REST);
            }
            if !wait(Some(inotify), LOOK_AGAIN) {
                writes = 0;
            }
            // What has changed is looked at, not read.
            while inotify.read_events().is_ok() {}
        }
    }

    fn report(&self, done: Result<Done, InstallError>, writes: u32) {
        let trouble = match &done {
            Ok(_) if writes > A_FIGHT => Some(
                "another program takes the entry out again and again (with Cilium: set cni.exclusive=false)"
                    .to_owned(),
            ),
            Ok(_) => None,
            // The next look is in a moment.
            Err(InstallError::Changed(_)) => return,
            Err(error) => Some(error.to_string()),
        };
        if let Ok(done) = done
            && done != Done::default()
        {
            tracing::info!(
                file = done.copied,
                entry = done.written,
                "network plug-in installed"
            );
        }
        let mut before = lock(&self.trouble);
        if let Some(trouble) = &trouble
            && before.as_ref() != Some(trouble)
        {
            tracing::error!(
                trouble,
                "pods do not wait for the daemon: the network plug-in is not in its place"
            );
        }
        *before = trouble;
    }
}

const CHANGES: AddWatchFlags = AddWatchFlags::IN_CLOSE_WRITE
    .union(AddWatchFlags::IN_CREATE)
    .union(AddWatchFlags::IN_DELETE)
    .union(AddWatchFlags::IN_MOVE)
    .union(AddWatchFlags::IN_ONLYDIR);

/// Whether something has changed before the time was over.
fn wait(inotify: Option<&Inotify>, milliseconds: u16) -> bool {
    let mut of: Vec<PollFd<'_>> = inotify
        .iter()
        .map(|inotify| PollFd::new(inotify.as_fd(), PollFlags::POLLIN))
        .collect();
    poll(&mut of, PollTimeout::from(milliseconds)).is_ok_and(|ready| ready > 0)
}

/// A thread that panicked has ended the process by then.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
