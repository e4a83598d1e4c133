//! Waiting in the runtime for something that owns a descriptor.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Something with a descriptor that becomes readable.
pub(super) struct Readable<T: AsFd>(AsyncFd<Owner<T>>);

struct Owner<T>(T);

impl<T: AsFd> AsRawFd for Owner<T> {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl<T: AsFd> Readable<T> {
    /// Within a runtime only. `inner` must have the same descriptor all its
    /// life, as ring buffers and inotify have.
    #[expect(unsafe_code, reason = "tokio cannot know whether the descriptor stays")]
    pub(super) fn new(inner: T) -> io::Result<Self> {
        // SAFETY: `inner` owns its descriptor, is moved in here, and is only
        // lent to the closure of `next`, which gets no way to replace it that
        // callers in this folder use.
        unsafe { AsyncFd::register_with_interest(Owner(inner), Interest::READABLE) }
            .map(Self)
            .map_err(io::Error::from)
    }

    /// What `take` finds once there is something to read. It is asked again
    /// whenever more has come.
    pub(super) async fn next<R>(&mut self, mut take: impl FnMut(&mut T) -> Option<R>) -> R {
        loop {
            let Ok(mut ready) = self.0.readable_mut().await else {
                // Only while the runtime shuts down.
                return std::future::pending().await;
            };
            if let Some(taken) = take(&mut ready.get_inner_mut().0) {
                return taken;
            }
            ready.clear_ready();
        }
    }
}

impl<T: AsFd> fmt::Debug for Readable<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Readable")
            .field(&self.0.as_raw_fd())
            .finish()
    }
}
