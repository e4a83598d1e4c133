//! What the rest of the daemon holds: a loop, its tunnels, their requests and
//! streams. All of it stays on the loop's thread.

use std::future::{Future, poll_fn};
use std::io;
use std::net::TcpStream;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use super::distance;
use super::endpoint::{Endpoint, Role};
use super::event_loop::{Inner, Orphan, State};
use super::flow::{FlowKey, is};
use super::outcome::{Carried, ConnectError, Cut, TunnelEnd};
use super::poller::Token;
use super::proof::ProofNews;
use super::request::ConnectRequest;
use super::settings::{Settings, Stats, count};
use super::slot::{Parts, Slot, carried, nothing_carried, park, unanswered};
use crate::tls::{Records, Session};

/// The one loop of a data thread: it moves the bytes of all its tunnels.
#[derive(Clone)]
pub struct Loop(Rc<Inner>);

impl Loop {
    /// A loop with no tunnels. Must be called within the thread's runtime.
    pub fn new(settings: Settings) -> io::Result<Self> {
        Ok(Self(Rc::new(Inner::new(settings)?)))
    }

    /// Turns until the kernel refuses to tell events: spawn it once on the
    /// thread. Nothing moves without it.
    pub async fn run(&self) -> io::Error {
        self.0.run().await
    }

    /// Puts a tunnel on the loop, after a finished handshake.
    pub fn client(&self, socket: TcpStream, session: Session) -> io::Result<Tunnel> {
        self.add(Role::Client, socket, session)
    }

    /// The same for a tunnel that a peer has opened.
    pub fn server(&self, socket: TcpStream, session: Session) -> io::Result<(Tunnel, Incoming)> {
        let tunnel = self.add(Role::Server, socket, session)?;
        let incoming = Incoming(tunnel.clone());
        Ok((tunnel, incoming))
    }

    /// What the loop has counted.
    pub fn stats(&self) -> &Stats {
        &self.0.stats
    }

    fn add(&self, role: Role, socket: TcpStream, session: Session) -> io::Result<Tunnel> {
        let records = Records::new(session).map_err(io::Error::other)?;
        socket.set_nonblocking(true)?;
        socket.set_nodelay(true)?;
        let index = self.0.with(|state| {
            let index = u32::try_from(state.tunnels.vacant_key()).unwrap_or(u32::MAX);
            let token = Token::Tunnel(index);
            state.shared.poller.watch_tunnel(&socket, token)?;
            let endpoint = Endpoint::new(index, role, socket, Box::new(records), &state.shared);
            state.tunnels.insert(endpoint);
            state.shared.rearm = true;
            state.schedule(index);
            count(&state.shared.stats.tunnels, 1);
            io::Result::Ok(index)
        })?;
        Ok(Tunnel(Rc::new(Held {
            inner: Rc::clone(&self.0),
            index,
        })))
    }
}

/// A tunnel. It drains when the last handle to it is dropped.
#[derive(Clone)]
pub struct Tunnel(Rc<Held>);

struct Held {
    inner: Rc<Inner>,
    index: u32,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.inner.orphan(Orphan::Tunnel(self.index));
    }
}

impl Held {
    /// Works on the tunnel, whose slot lasts as long as this handle.
    fn with<R>(&self, f: impl FnOnce(&mut Endpoint, &mut Parts<'_>) -> R) -> Option<R> {
        self.inner.with(|state| {
            let State {
                tunnels,
                flows,
                shared,
                ..
            } = state;
            let tunnel = tunnels.get_mut(self.index as usize)?;
            let result = f(tunnel, &mut Parts { flows, shared });
            state.schedule(self.index);
            Some(result)
        })
    }
}

impl Tunnel {
    /// Asks the peer to connect, and waits for its answer. Dropping the future
    /// resets the stream.
    pub async fn connect(&self, request: &ConnectRequest) -> Result<Stream, ConnectError> {
        self.open(request)?.answer().await
    }

    /// Sends the request and does not wait.
    pub fn open(&self, request: &ConnectRequest) -> Result<Opening, ConnectError> {
        self.open_with(request, None)
    }

    /// The same, and right behind the request what its application has said
    /// so far, which saves a round trip. Only towards a peer that says that
    /// nobody hears of it before the peer has accepted. The bytes stay in the
    /// socket until then.
    pub fn open_for(
        &self,
        request: &ConnectRequest,
        app: &TcpStream,
    ) -> Result<Opening, ConnectError> {
        self.open_with(request, Some(app))
    }

    fn open_with(
        &self,
        request: &ConnectRequest,
        app: Option<&TcpStream>,
    ) -> Result<Opening, ConnectError> {
        let opened = self
            .0
            .with(|tunnel, parts| tunnel.open(request, app, parts.flows, parts.shared));
        let key = opened.unwrap_or(Err(ConnectError::GoingAway))?;
        Ok(Opening(self.slot(key)))
    }

    /// Whether one more stream could be opened now.
    pub fn has_room(&self) -> bool {
        self.0.with(|tunnel, _| tunnel.has_room()).unwrap_or(false)
    }

    /// To the peer and back, as the kernel takes it now; zero if it has no idea.
    pub fn round_trip(&self) -> Duration {
        let known = |tunnel: &mut Endpoint| tunnel.socket.as_ref().map(distance::round_trip);
        self.0
            .with(|tunnel, _| known(tunnel))
            .flatten()
            .unwrap_or_default()
    }

    /// Flows that have not ended.
    pub fn flows(&self) -> usize {
        self.0.with(|tunnel, _| tunnel.flows).unwrap_or(0)
    }

    /// Whether the tunnel lives and neither side drains it.
    pub fn is_open(&self) -> bool {
        self.0.with(|tunnel, _| tunnel.is_open()).unwrap_or(false)
    }

    /// Takes no new flows, tells the peer so, and closes after the last one.
    pub fn drain(&self) {
        self.0.with(|tunnel, parts| tunnel.drain(parts.shared));
    }

    /// Resets every flow and closes.
    pub fn abort(&self, why: Cut) {
        self.0
            .with(|tunnel, parts| tunnel.abort(why, parts.flows, parts.shared));
    }

    /// Waits for the tunnel's end. Any number may wait.
    pub async fn closed(&self) -> TunnelEnd {
        let mut watch = Watch {
            held: &self.0,
            nth: None,
        };
        poll_fn(|cx| watch.poll(cx)).await
    }

    /// Since when the tunnel has had no flow; `None` while it has any.
    pub fn idle_since(&self) -> Option<Instant> {
        self.0.with(|tunnel, _| tunnel.idle_since).flatten()
    }

    /// Whether the peer takes proofs of renewed certificates. Only known once
    /// its first words are here.
    pub fn takes_proofs(&self) -> bool {
        self.0
            .with(|tunnel, _| tunnel.proofs.taken)
            .unwrap_or(false)
    }

    /// Sends a proof; false if the peer would not take it.
    pub fn prove(&self, proof: &[u8]) -> bool {
        self.0
            .with(|tunnel, _| tunnel.prove(proof))
            .unwrap_or(false)
    }

    /// Waits for what the peer next says about proofs. One may wait.
    pub async fn proof_news(&self) -> ProofNews {
        poll_fn(|cx| {
            let polled = self.0.with(|tunnel, _| match tunnel.proofs.news() {
                Some(news) => Poll::Ready(news),
                None => {
                    park(&mut tunnel.proofs.waiter, cx);
                    Poll::Pending
                }
            });
            polled.unwrap_or(Poll::Pending)
        })
        .await
    }

    fn slot(&self, key: FlowKey) -> Slot {
        Slot {
            inner: Rc::clone(&self.0.inner),
            tunnel: self.0.index,
            key,
        }
    }
}

/// One who waits for a tunnel's end, and may stop doing so.
struct Watch<'h> {
    held: &'h Held,
    nth: Option<usize>,
}

impl Watch<'_> {
    fn poll(&mut self, cx: &Context<'_>) -> Poll<TunnelEnd> {
        let nth = &mut self.nth;
        let polled = self.held.with(|tunnel, _| {
            if let Some(end) = &tunnel.end {
                *nth = None;
                return Poll::Ready(end.clone());
            }
            match nth.and_then(|nth| tunnel.watchers.get_mut(nth)) {
                Some(waker) => waker.clone_from(cx.waker()),
                None => *nth = Some(tunnel.watchers.insert(cx.waker().clone())),
            }
            Poll::Pending
        });
        polled.unwrap_or(Poll::Ready(TunnelEnd::Drained))
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if let Some(nth) = self.nth {
            let tunnel = self.held.index;
            self.held.inner.orphan(Orphan::Watcher { tunnel, nth });
        }
    }
}

/// The requests of a peer. Dropping it refuses further ones.
pub struct Incoming(Tunnel);

impl Drop for Incoming {
    fn drop(&mut self) {
        let held = &self.0.0;
        held.inner.orphan(Orphan::Incoming(held.index));
    }
}

impl Incoming {
    /// The next request; `None` when the tunnel has ended.
    pub async fn next(&mut self) -> Option<Request> {
        poll_fn(|cx| {
            let polled = self.0.0.with(|tunnel, parts| {
                if let Some(key) = tunnel.incoming.pop_front() {
                    let flow = parts.flows.get_mut(key.index as usize)?;
                    return Some(Poll::Ready((key, flow.head.take()?)));
                }
                tunnel.end.is_none().then(|| {
                    park(&mut tunnel.incoming_waiter, cx);
                    Poll::Pending
                })
            });
            match polled.flatten() {
                Some(Poll::Ready((key, head))) => Poll::Ready(Some(Request {
                    slot: self.0.slot(key),
                    head,
                })),
                Some(Poll::Pending) => Poll::Pending,
                None => Poll::Ready(None),
            }
        })
        .await
    }
}

/// A peer's request that waits for its answer. Dropping it resets the stream.
pub struct Request {
    slot: Slot,
    head: Box<ConnectRequest>,
}

impl Request {
    /// What the peer asks for.
    pub fn head(&self) -> &ConnectRequest {
        &self.head
    }

    /// Answers 200: the application is connected.
    pub fn accept(self) -> Stream {
        self.slot.respond(200);
        Stream(self.slot)
    }

    /// Answers with another status and ends the stream.
    pub fn refuse(self, status: u16) {
        debug_assert!(!(200..300).contains(&status), "that would be an acceptance");
        self.slot.respond(status);
    }

    /// Returns when nobody waits for the answer any more: the peer has reset
    /// the stream, or the tunnel has ended.
    pub async fn reset(&self) {
        self.slot.until(|flow| flow.has_ended().then_some(())).await;
    }
}

/// A request that was sent and not yet answered. Dropping it resets the stream.
pub struct Opening(Slot);

impl Opening {
    /// Waits for the peer's answer.
    pub async fn answer(self) -> Result<Stream, ConnectError> {
        let refused = self
            .0
            .until(|flow| {
                // Accepted is accepted, also if the peer has reset it since:
                // somebody may have the application's first bytes.
                if flow.is(is::ANSWERED) {
                    return Some(None);
                }
                let outcome = flow.outcome.take()?;
                Some(Some(unanswered(*outcome)))
            })
            .await;
        match refused.unwrap_or(Some(ConnectError::GoingAway)) {
            Some(refused) => Err(refused),
            None => Ok(Stream(self.0)),
        }
    }

    /// Whether bytes of the application were sent behind the request. If the
    /// tunnel is lost now, nobody can say whether they were delivered.
    pub fn has_spoken(&self) -> bool {
        self.0
            .inner
            .with(|state| state.flow(self.0.key).is_some_and(|flow| flow.early > 0))
    }
}

/// A stream that both sides agreed on. Dropping it resets it.
pub struct Stream(Slot);

impl Stream {
    /// Gives the application's socket to the loop, which moves the bytes until
    /// both halves have ended. The socket must be non-blocking and carry
    /// `SO_LINGER {1,0}`: it is closed in order only at an orderly end, and
    /// reset at any other. Dropping the future resets both sides.
    pub fn carry(self, app: TcpStream) -> Carry {
        self.0.attach(app);
        Carry(self.0)
    }
}

/// A flow that is being carried.
pub struct Carry(Slot);

impl Carry {
    /// Ends it now: resets both sides.
    pub fn cut(self, why: Cut) -> Carried {
        self.0.cut(why)
    }

    /// Another handle on it, while this one waits for its end.
    pub fn handle(&self) -> CarryHandle {
        CarryHandle {
            inner: Rc::clone(&self.0.inner),
            key: self.0.key,
        }
    }
}

impl Future for Carry {
    type Output = Carried;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Carried> {
        let polled = self.0.poll(cx, |flow| {
            let outcome = *flow.outcome.take()?;
            Some(carried(flow, outcome))
        });
        polled.map(|done| done.unwrap_or_else(nothing_carried))
    }
}

/// Reads how much a flow has moved, and ends it.
#[derive(Clone)]
pub struct CarryHandle {
    inner: Rc<Inner>,
    key: FlowKey,
}

impl CarryHandle {
    /// Resets both sides now, if it has not ended yet.
    pub fn cut(&self, why: Cut) {
        self.inner.with(|state| state.cut(self.key, why));
    }

    /// Bytes to the peer and from it; `None` when the flow has ended.
    pub fn bytes(&self) -> Option<(u64, u64)> {
        self.inner.with(|state| {
            let flow = state.flow(self.key)?;
            Some((flow.to_peer, flow.from_peer))
        })
    }
}
