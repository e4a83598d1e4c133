//! Accepting operators: a bounded number at a time, each for a bounded time,
//! and one at a time even when the process has no descriptor left.

use std::fs::File;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::spawn_local;
use tokio::time::{sleep, timeout};

/// How much one listener may take of the control thread.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    /// Connections at a time; the next ones wait in the kernel's queue.
    pub(crate) most: usize,
    /// From accept to the end of the answer.
    pub(crate) time: Duration,
}

pub(crate) trait Listen {
    type Stream: 'static;

    fn accept(&self) -> impl Future<Output = io::Result<Self::Stream>>;
}

impl Listen for TcpListener {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<TcpStream> {
        Ok(Self::accept(self).await?.0)
    }
}

impl Listen for UnixListener {
    type Stream = UnixStream;

    async fn accept(&self) -> io::Result<UnixStream> {
        Ok(Self::accept(self).await?.0)
    }
}

/// Serves for ever.
pub(crate) async fn attend<L, F>(listener: L, limits: Limits, serve: impl Fn(L::Stream) -> F)
where
    L: Listen,
    F: Future<Output = ()> + 'static,
{
    let places = Arc::new(Semaphore::new(limits.most));
    let mut spare = spare();
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            // Nobody closes the semaphore.
            return;
        };
        match listener.accept().await {
            Ok(stream) => {
                let served = timeout(limits.time, serve(stream));
                spawn_local(async move {
                    // Cut off or not, the connection is over.
                    let _ = served.await;
                    drop(place);
                });
            }
            Err(error) if out_of_descriptors(&error) => {
                // The one moment at which somebody must be able to look.
                if spare.take().is_none() {
                    sleep(Duration::from_millis(100)).await;
                } else if let Ok(stream) = listener.accept().await {
                    let _ = timeout(Duration::from_secs(1), serve(stream)).await;
                }
            }
            // The client went away between its SYN and our accept.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                tracing::warn!(%error, "an operator's connection could not be accepted");
                sleep(Duration::from_millis(100)).await;
            }
        }
        if spare.is_none() {
            spare = self::spare();
        }
    }
}

/// A descriptor to give up when there is no other.
fn spare() -> Option<File> {
    File::open("/dev/null").ok()
}

fn out_of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}
