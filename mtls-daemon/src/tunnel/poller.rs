//! The loop's own epoll, edge-triggered.

use std::io;
use std::net::TcpStream;
use std::os::fd::{AsRawFd, RawFd};
use std::rc::Rc;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::flow::FlowKey;

/// Events that are fetched at once.
pub(super) const BATCH: usize = 256;

/// Whose socket an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    Tunnel(u32),
    Flow(FlowKey),
}

/// What happened on a socket.
#[derive(Clone, Copy, Debug)]
pub(super) struct Event {
    pub(super) token: Token,
    pub(super) readable: bool,
    pub(super) writable: bool,
    /// The other side sends no more.
    pub(super) half_closed: bool,
    /// Nothing goes in either direction any more.
    pub(super) hung_up: bool,
    pub(super) failed: bool,
}

/// The epoll instance.
pub(super) struct Poller(Epoll);

impl Poller {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?))
    }

    /// Watches a tunnel's socket, in both directions from the start.
    pub(super) fn watch_tunnel(&self, socket: &TcpStream, token: Token) -> io::Result<()> {
        let flags = READ | EpollFlags::EPOLLOUT;
        Ok(self.0.add(socket, EpollEvent::new(flags, token.encode()))?)
    }

    /// Watches an application's socket; for room to write only when asked
    /// `again`, since most never run out of it.
    pub(super) fn watch_app(
        &self,
        socket: &TcpStream,
        token: Token,
        again: bool,
    ) -> io::Result<()> {
        if again {
            let flags = READ | EpollFlags::EPOLLOUT;
            let mut event = EpollEvent::new(flags, token.encode());
            self.0.modify(socket, &mut event)?;
        } else {
            self.0.add(socket, EpollEvent::new(READ, token.encode()))?;
        }
        Ok(())
    }

    /// Fetches what has happened, without waiting.
    pub(super) fn fetch<'e>(
        &self,
        events: &'e mut [EpollEvent; BATCH],
    ) -> io::Result<&'e [EpollEvent]> {
        match self.0.wait(events, EpollTimeout::ZERO) {
            Ok(n) => Ok(&events[..n]),
            Err(nix::Error::EINTR) => Ok(&[]),
            Err(e) => Err(e.into()),
        }
    }
}

const READ: EpollFlags = EpollFlags::EPOLLIN
    .union(EpollFlags::EPOLLRDHUP)
    .union(EpollFlags::EPOLLET);

/// The loop's epoll as an event source of the thread's runtime.
pub(super) struct NestedPoller(Rc<Poller>);

impl NestedPoller {
    /// Must be called within the runtime.
    pub(super) fn nest(poller: &Rc<Poller>) -> io::Result<AsyncFd<Self>> {
        let nested = Self(Rc::clone(poller));
        #[expect(unsafe_code, reason = "tokio cannot see that the descriptor stays")]
        // SAFETY: the epoll instance owns its descriptor, never replaces it,
        // and lives as long as this Rc, which the AsyncFd holds.
        Ok(unsafe { AsyncFd::register_with_interest(nested, Interest::READABLE) }?)
    }
}

impl AsRawFd for NestedPoller {
    fn as_raw_fd(&self) -> RawFd {
        self.0.0.0.as_raw_fd()
    }
}

impl Event {
    pub(super) fn read(event: &EpollEvent) -> Self {
        let flags = event.events();
        Self {
            token: Token::decode(event.data()),
            readable: flags.contains(EpollFlags::EPOLLIN),
            writable: flags.contains(EpollFlags::EPOLLOUT),
            half_closed: flags.contains(EpollFlags::EPOLLRDHUP),
            hung_up: flags.contains(EpollFlags::EPOLLHUP),
            failed: flags.contains(EpollFlags::EPOLLERR),
        }
    }
}

/// Marks a tunnel's token; a flow's generation stays below it.
const TUNNEL: u64 = 1 << 63;

impl Token {
    fn encode(self) -> u64 {
        match self {
            Self::Tunnel(index) => TUNNEL | u64::from(index),
            Self::Flow(key) => u64::from(key.generation) << 32 | u64::from(key.index),
        }
    }

    fn decode(data: u64) -> Self {
        let [g0, g1, g2, g3, i0, i1, i2, i3] = data.to_be_bytes();
        let index = u32::from_be_bytes([i0, i1, i2, i3]);
        if data & TUNNEL != 0 {
            return Self::Tunnel(index);
        }
        Self::Flow(FlowKey {
            index,
            generation: u32::from_be_bytes([g0, g1, g2, g3]),
        })
    }
}
