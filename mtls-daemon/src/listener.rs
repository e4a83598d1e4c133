//! Accepting what the kernel steers to the daemon, with a limit on everything
//! that waits: who comes past a limit is reset and counted, never queued.

use std::cell::Cell;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit};
use socket2::SockRef;
use tokio::io::unix::AsyncFd;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::metrics::{Direction, Limit, ThreadMetrics};
use crate::reason::Reason;
use crate::workload::Workload;

/// Descriptors kept for what is not a new connection: tunnels, the
/// applications' ends, the admin socket, the certificates' files.
const RESERVED_DESCRIPTORS: i32 = 256;

/// New connections that a worker begins before the bytes of those that are open
/// have their turn again: each takes about 50 us at either end.
pub const BATCH: u32 = 8;

/// A limit that goes on being reached is logged so often.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// A place among the connections that are accepted and not yet established.
pub type Pass = OwnedSemaphorePermit;

/// One listener of one workload on one worker.
pub struct Door {
    listener: AsyncFd<TcpListener>,
    pub workload: Arc<Workload>,
    direction: Direction,
    pending: Arc<Semaphore>,
    metrics: ThreadMetrics,
    /// Highest descriptor that a new connection may have.
    ceiling: i32,
    logged: Cell<Option<Instant>>,
    batch: Cell<u32>,
}

impl Door {
    /// `pending`: the workload's places for connections that wait.
    pub fn new(
        listener: TcpListener,
        workload: Arc<Workload>,
        direction: Direction,
        pending: Arc<Semaphore>,
        metrics: ThreadMetrics,
    ) -> io::Result<Self> {
        let (soft, _hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        let soft = i32::try_from(soft).unwrap_or(i32::MAX);
        #[expect(unsafe_code, reason = "the safe constructor is deprecated")]
        // SAFETY: a std listener keeps the one descriptor that it owns until
        // it is dropped, and the AsyncFd owns the listener.
        let listener = unsafe { AsyncFd::register(listener)? };
        Ok(Self {
            listener,
            workload,
            direction,
            pending,
            metrics,
            ceiling: (soft - RESERVED_DESCRIPTORS).max(soft / 2),
            logged: Cell::new(None),
            batch: Cell::new(0),
        })
    }

    /// The next connection that is within the limits; the others are reset,
    /// after `turn_away` has cleared up behind them.
    pub async fn next(
        &self,
        turn_away: impl Fn(&TcpStream, SocketAddr),
    ) -> (TcpStream, SocketAddr, Pass) {
        loop {
            self.batch.set(self.batch.get().wrapping_add(1));
            if self.batch.get().is_multiple_of(BATCH) {
                tokio::task::yield_now().await;
            }
            match self.accept().await {
                Ok((socket, source)) => match self.admit(&socket) {
                    Ok(pass) => return (socket, source, pass),
                    Err((reason, limit)) => {
                        turn_away(&socket, source);
                        self.refuse(reason, limit);
                    }
                },
                Err(error) => self.after(&error).await,
            }
        }
    }

    async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        loop {
            let mut ready = self.listener.readable().await?;
            if let Ok(accepted) = ready.try_io(|listener| accept(listener.get_ref())) {
                return accepted;
            }
        }
    }

    /// The kernel hands out the lowest free descriptor, so its number tells
    /// how many are in use.
    fn admit(&self, socket: &TcpStream) -> Result<Pass, (Reason, Limit)> {
        if socket.as_raw_fd() >= self.ceiling {
            return Err((Reason::NoDescriptors, Limit::Descriptors));
        }
        let pass = Arc::clone(&self.pending).try_acquire_owned();
        pass.map_err(|_full| (Reason::LimitReached, Limit::PendingPerWorkload))
    }

    async fn after(&self, error: &io::Error) {
        match error.raw_os_error() {
            Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => {
                self.refuse(Reason::NoDescriptors, Limit::Descriptors);
                // The connection stays in the backlog until one has ended.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            // The client was gone before we came: ECONNABORTED and its like.
            _ => tracing::debug!(%error, "accept"),
        }
    }

    fn refuse(&self, reason: Reason, limit: Limit) {
        self.metrics.limit_reached(limit);
        self.metrics.connection_refused(self.direction, reason);
        let now = Instant::now();
        if self.logged.get().is_none_or(|last| now - last >= LOG_EVERY) {
            self.logged.set(Some(now));
            tracing::warn!(
                workload = %self.workload.name,
                direction = self.direction.word(),
                %reason,
                limit = limit.word(),
                "refusing new connections: {}",
                reason.remedy()
            );
        }
    }
}

fn accept(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    let (socket, source) = SockRef::from(listener).accept4(flags)?;
    let source = source.as_socket().ok_or(io::ErrorKind::InvalidData)?;
    Ok((socket.into(), source))
}
