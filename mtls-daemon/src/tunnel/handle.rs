//! What the rest of the daemon holds: a loop, its tunnels, their requests and
//! streams. All of it stays on the loop's thread.

use std::future::Future;
use std::io;
use std::marker::PhantomData;
use std::net::TcpStream;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::time::Instant;

use super::outcome::{Carried, ConnectError, Cut, TunnelEnd};
use super::request::ConnectRequest;
use super::settings::{Settings, Stats};

/// The one loop of a data thread: it moves the bytes of all its tunnels.
#[derive(Clone)]
pub struct Loop(Local);

/// Keeps a handle on its thread.
type Local = PhantomData<Rc<()>>;

impl Loop {
    /// A loop with no tunnels. Must be called within the thread's runtime.
    pub fn new(settings: Settings) -> io::Result<Self> {
        let _ = settings;
        Ok(Self(PhantomData))
    }

    /// Turns until the kernel refuses to: spawn it once on the thread.
    pub async fn run(&self) -> io::Error {
        not_wired()
    }

    /// Puts a tunnel on the loop, after a finished handshake.
    pub fn client(&self, _socket: TcpStream, _tls: rustls::ClientConnection) -> io::Result<Tunnel> {
        not_wired()
    }

    /// The same for a tunnel that a peer has opened.
    pub fn server(
        &self,
        _socket: TcpStream,
        _tls: rustls::ServerConnection,
    ) -> io::Result<(Tunnel, Incoming)> {
        not_wired()
    }

    /// What the loop has counted.
    pub fn stats(&self) -> &Stats {
        not_wired()
    }
}

/// A tunnel. It drains when the last handle to it is dropped.
#[derive(Clone)]
pub struct Tunnel(Local);

impl Tunnel {
    /// Asks the peer to connect, and waits for its answer. Dropping the future
    /// resets the stream.
    pub async fn connect(&self, request: &ConnectRequest) -> Result<Stream, ConnectError> {
        self.open(request)?.answer().await
    }

    /// Sends the request and does not wait.
    pub fn open(&self, _request: &ConnectRequest) -> Result<Opening, ConnectError> {
        not_wired()
    }

    /// Whether one more stream could be opened now.
    pub fn has_room(&self) -> bool {
        not_wired()
    }

    /// Flows that are open.
    pub fn flows(&self) -> usize {
        not_wired()
    }

    /// Whether the tunnel lives and is not draining.
    pub fn is_open(&self) -> bool {
        not_wired()
    }

    /// Takes no new flows, tells the peer so, and closes after the last one.
    pub fn drain(&self) {
        not_wired()
    }

    /// Resets every flow and closes.
    pub fn abort(&self, _why: Cut) {
        not_wired()
    }

    /// Waits for the tunnel's end. Any number may wait.
    pub async fn closed(&self) -> TunnelEnd {
        not_wired()
    }

    /// Since when the tunnel has had no flow; `None` while it has any.
    pub fn idle_since(&self) -> Option<Instant> {
        not_wired()
    }
}

/// The requests of a peer. Dropping it refuses further ones.
pub struct Incoming(Local);

impl Incoming {
    /// The next request; `None` when the tunnel has ended.
    pub async fn next(&mut self) -> Option<Request> {
        not_wired()
    }
}

/// A peer's request that waits for its answer. Dropping it resets the stream.
pub struct Request(Local);

impl Request {
    /// What the peer asks for.
    pub fn head(&self) -> &ConnectRequest {
        not_wired()
    }

    /// Answers 200: the application is connected.
    pub fn accept(self) -> Stream {
        not_wired()
    }

    /// Answers with another status and ends the stream.
    pub fn refuse(self, _status: u16) {
        not_wired()
    }

    /// Returns when nobody waits for the answer any more: the peer has reset
    /// the stream, or the tunnel has ended.
    pub async fn reset(&self) {
        not_wired()
    }
}

/// A request that was sent and not yet answered. Dropping it resets the stream.
pub struct Opening(Local);

impl Opening {
    /// Waits for the peer's answer.
    pub async fn answer(self) -> Result<Stream, ConnectError> {
        not_wired()
    }
}

/// A stream that both sides agreed on. Dropping it resets it.
pub struct Stream(Local);

impl Stream {
    /// Gives the application's socket to the loop, which moves the bytes until
    /// both halves have ended. The socket must be non-blocking and carry
    /// `SO_LINGER {1,0}`: it is closed in order only at an orderly end, and
    /// reset at any other. Dropping the future resets both sides.
    pub fn carry(self, _app: TcpStream) -> Carry {
        not_wired()
    }
}

/// A flow that is being carried.
pub struct Carry(Local);

impl Carry {
    /// Ends it now: resets both sides.
    pub fn cut(self, _why: Cut) -> Carried {
        not_wired()
    }

    /// A handle to read how much it has moved so far.
    pub fn progress(&self) -> Progress {
        not_wired()
    }
}

impl Future for Carry {
    type Output = Carried;

    fn poll(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Carried> {
        not_wired()
    }
}

/// Reads how much a flow has moved.
#[derive(Clone)]
pub struct Progress(Local);

impl Progress {
    /// Bytes to the peer and from it; `None` when the flow has ended.
    pub fn bytes(&self) -> Option<(u64, u64)> {
        not_wired()
    }
}

#[expect(clippy::panic, reason = "only the signatures are there so far")]
fn not_wired() -> ! {
    panic!("the tunnel's loop is not wired yet")
}
