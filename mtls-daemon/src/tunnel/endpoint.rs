//! Our end of one tunnel: its state, its start and its turn of the loop. What
//! frames do to it stands in `receive`, `head` and `control`; how applications'
//! bytes get into it, in `serve`; how it ends, in `life`.

use std::collections::VecDeque;
use std::io::{self, Read as _};
use std::mem;
use std::net::TcpStream;
use std::task::Waker;

use slab::Slab;
use tokio::time::Instant;

use super::event_loop::Shared;
use super::flow::{Flow, FlowKey, NO_TUNNEL, Outcome};
use super::frame::{self, Parser, code, setting};
use super::head::Block;
use super::hpack;
use super::limits::Limits;
use super::out::Out;
use super::outcome::{CarryEnd, TunnelEnd, Violation};
use super::poller::Event;
use super::proof::Proofs;
use super::records::Records;
use super::settings::count;
use super::streams::Streams;
use super::windows::{ConnectionWindow, Growth, SendWindow};

/// The most that waits unsent while the peer reads nothing: what one turn
/// seals, and answers to frames that it goes on sending.
const MAX_UNSENT: usize = 1 << 20;
/// Streams that a peer may be asked for before it has told its own limit.
const STREAMS_UNTOLD: u32 = 100;

/// Which side of HTTP/2 we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// We opened the connection, and open the streams.
    Client,
    /// The peer did.
    Server,
}

/// What the peer's SETTINGS say.
#[derive(Clone, Copy, Debug)]
pub(super) struct PeerSettings {
    pub(super) initial_window: u32,
    pub(super) max_frame: u32,
    pub(super) max_streams: u32,
    /// The first SETTINGS have come.
    pub(super) told: bool,
    /// It keeps what comes before its answer from everybody until then.
    pub(super) holds_early_data: bool,
    /// The peer wants a smaller header table than the default: our next header
    /// block has to say that it uses none.
    pub(super) owed_no_table: bool,
}

/// How far draining has come, on our side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Draining {
    No,
    /// The peer was told, and what it had already sent is waited for.
    Announced,
    /// Streams above what was seen are not looked at any more.
    Final,
}

/// Our end of one tunnel.
pub(super) struct Endpoint {
    pub(super) index: u32,
    pub(super) role: Role,
    pub(super) socket: Option<TcpStream>,
    pub(super) records: Box<dyn Records>,
    pub(super) parser: Parser,
    pub(super) decoder: hpack::Decoder,
    /// A header block of which CONTINUATION is missing.
    pub(super) block: Option<Block>,
    /// The flow that the DATA frame now being read is for.
    pub(super) current: Option<FlowKey>,
    /// What waits to be sealed. During a turn it is the loop's large buffer.
    pub(super) out: Out,
    pub(super) unsent: usize,
    pub(super) readable: bool,
    pub(super) writable: bool,
    half_closed: bool,
    /// Stands in the loop's queue.
    pub(super) due: bool,
    /// Every stream that is open on the wire.
    pub(super) streams: Streams,
    /// The highest stream id seen, or in the client's role used.
    pub(super) last_stream: u32,
    pub(super) peer: PeerSettings,
    pub(super) send: SendWindow,
    pub(super) receive: ConnectionWindow,
    pub(super) growth: Growth,
    pub(super) ready: VecDeque<u32>,
    pub(super) starved: Vec<u32>,
    /// Flows that are not over, on the wire or at their application.
    pub(super) flows: usize,
    pub(super) limits: Limits,
    pub(super) incoming: VecDeque<FlowKey>,
    pub(super) incoming_waiter: Option<Waker>,
    pub(super) proofs: Proofs,
    /// Whether anybody takes the peer's requests.
    pub(super) serving: bool,
    pub(super) draining: Draining,
    /// The peer's GOAWAY, with its error code.
    pub(super) going_away: Option<u32>,
    pub(super) end: Option<TunnelEnd>,
    /// Who waits for the end.
    pub(super) watchers: Slab<Waker>,
    /// No handle is left.
    pub(super) unheld: bool,
    pub(super) heard: Instant,
    pub(super) pinged: Option<Instant>,
    pub(super) closing: Option<Instant>,
    pub(super) said_last: bool,
    pub(super) idle_since: Option<Instant>,
}

pub(super) type Flows = Slab<Flow>;

impl Endpoint {
    /// A tunnel over a finished handshake. Its first words wait in `out`.
    pub(super) fn new(
        index: u32,
        role: Role,
        socket: TcpStream,
        records: Box<dyn Records>,
        shared: &Shared,
    ) -> Self {
        let settings = &shared.settings;
        let mut tunnel = Self {
            index,
            role,
            socket: Some(socket),
            records,
            parser: match role {
                Role::Client => Parser::of_server(),
                Role::Server => Parser::of_client(),
            },
            decoder: hpack::Decoder::new(),
            block: None,
            current: None,
            out: Out::default(),
            unsent: 0,
            // The handshake may have read past its own end.
            readable: true,
            writable: true,
            half_closed: false,
            due: false,
            streams: Streams::default(),
            last_stream: 0,
            peer: PeerSettings {
                initial_window: frame::DEFAULT_WINDOW,
                max_frame: frame::DEFAULT_MAX_FRAME,
                max_streams: STREAMS_UNTOLD,
                told: false,
                holds_early_data: false,
                owed_no_table: false,
            },
            send: SendWindow::new(frame::DEFAULT_WINDOW),
            receive: ConnectionWindow::new(settings.connection_window),
            growth: Growth::new(settings.tunnel_growth),
            ready: VecDeque::new(),
            starved: Vec::new(),
            flows: 0,
            limits: Limits::new(shared.millis),
            incoming: VecDeque::new(),
            incoming_waiter: None,
            proofs: Proofs::default(),
            serving: role == Role::Server,
            draining: Draining::No,
            going_away: None,
            end: None,
            watchers: Slab::new(),
            unheld: false,
            heard: shared.now,
            pinged: None,
            closing: None,
            said_last: false,
            idle_since: Some(shared.now),
        };
        tunnel.greet(shared);
        tunnel
    }

    fn greet(&mut self, shared: &Shared) {
        let settings = &shared.settings;
        if self.role == Role::Client {
            self.out.put(frame::PREFACE);
        }
        let own = match self.role {
            Role::Client => [(setting::ENABLE_PUSH, 0)].as_slice(),
            Role::Server => &[
                (setting::MAX_CONCURRENT_STREAMS, settings.max_streams),
                (setting::HOLDS_EARLY_DATA, 1),
            ],
        };
        let all = [
            own,
            &[
                (setting::HEADER_TABLE_SIZE, 0),
                (setting::INITIAL_WINDOW_SIZE, settings.initial_window),
                (setting::MAX_FRAME_SIZE, frame::OUR_MAX_FRAME),
                (setting::MAX_HEADER_LIST_SIZE, self.role.header_list()),
                (setting::TAKES_PROOFS, 1),
            ],
        ];
        frame::put_settings(&mut self.out, &all.concat());
        let more = settings.connection_window - frame::DEFAULT_WINDOW;
        if more > 0 {
            frame::put_window_update(&mut self.out, 0, more);
        }
    }

    /// Whether its slot can be used again.
    pub(super) fn is_gone(&self) -> bool {
        self.socket.is_none() && self.unheld
    }

    /// Whether it takes new flows.
    pub(super) fn is_open(&self) -> bool {
        self.end.is_none() && self.draining == Draining::No && self.going_away.is_none()
    }

    /// Whether one more stream could be opened now. A peer whose window for
    /// the whole connection is used up may have stalled readers that never
    /// give it back: no new flow shall share their fate.
    pub(super) fn has_room(&self) -> bool {
        self.is_open()
            && self.streams.len() < self.peer.max_streams as usize
            && self.send.open() > 0
            && !self.is_used_up()
    }

    /// Whether the stream ids have come to their end: at a thousand flows a
    /// second that takes twelve days.
    pub(super) fn is_used_up(&self) -> bool {
        self.last_stream >= frame::MAX_STREAM - 2
    }

    /// Something happened on the tunnel's socket.
    pub(super) fn event(&mut self, event: Event) {
        self.readable |= event.readable || event.half_closed || event.hung_up || event.failed;
        self.half_closed |= event.half_closed || event.hung_up || event.failed;
        self.writable |= event.writable;
    }

    /// Whether a turn would find something to do.
    pub(super) fn has_work(&self) -> bool {
        self.socket.is_some()
            && (self.readable
                || self.writable
                    && (self.unsent > 0
                        || !self.out.is_empty()
                        || !self.ready.is_empty()
                        || self.end.is_some() && !self.said_last)
                || self.is_drained())
    }

    /// One turn: read, serve, and one write for all of it.
    pub(super) fn turn(&mut self, flows: &mut Flows, shared: &mut Shared) {
        let borrowed = self.writable.then(|| self.borrow_out(shared));
        if self.end.is_none()
            && let Err(end) = self.work(flows, shared)
        {
            self.finish(end, flows, shared);
        }
        if self.end.is_some() {
            self.wind_down(shared);
        }
        if let Some(own) = borrowed {
            shared.out = mem::replace(&mut self.out, own);
            // Nothing, unless the socket has filled up in the middle.
            self.out.put(shared.out.filled());
            shared.out.clear();
        }
    }

    fn work(&mut self, flows: &mut Flows, shared: &mut Shared) -> Result<(), TunnelEnd> {
        if self.readable {
            self.read(flows, shared)?;
        }
        if self.writable && self.unsent > 0 {
            self.flush()?;
        }
        self.serve(flows, shared)?;
        self.flush()?;
        if self.is_drained() {
            return Err(match self.going_away {
                Some(code) if code != code::NO_ERROR => TunnelEnd::PeerError(code),
                _ => TunnelEnd::Drained,
            });
        }
        Ok(())
    }

    /// Swaps the loop's large buffer in; gives back the tunnel's own.
    fn borrow_out(&mut self, shared: &mut Shared) -> Out {
        let mut own = mem::replace(&mut self.out, mem::take(&mut shared.out));
        self.out.put(own.filled());
        own.clear();
        own.shrink();
        own
    }

    /// Reads from the socket, and does what it says, up to a turn's worth.
    fn read(&mut self, flows: &mut Flows, shared: &mut Shared) -> Result<(), TunnelEnd> {
        let mut wire = mem::take(&mut shared.wire);
        let mut plain = mem::take(&mut shared.plain);
        let done = self.read_into(&mut wire, &mut plain, flows, shared);
        shared.wire = wire;
        shared.plain = plain;
        done
    }

    fn read_into(
        &mut self,
        wire: &mut [u8],
        plain: &mut [u8],
        flows: &mut Flows,
        shared: &mut Shared,
    ) -> Result<(), TunnelEnd> {
        // What the handshake has read past its end comes first.
        let mut unopened = 0..0;
        let mut budget = super::event_loop::TURN;
        loop {
            let mut rest = &wire[unopened.clone()];
            let opened = self
                .records
                .open(&mut rest, plain)
                .map_err(TunnelEnd::Tls)?;
            unopened.start = unopened.end - rest.len();
            self.consume(&plain[..opened.plain], flows, shared)?;
            if opened.closed {
                return Err(self.closed_by_peer());
            }
            if !unopened.is_empty() {
                continue;
            }
            let Some(socket) = self.socket.as_mut().filter(|_| self.readable && budget > 0) else {
                return Ok(());
            };
            match socket.read(wire) {
                // The end, but no close_notify before it.
                Ok(0) => {
                    count(&shared.stats.truncated, 1);
                    return Err(TunnelEnd::Truncated);
                }
                Ok(n) => {
                    // A short read has emptied it, unless its end is near.
                    self.readable = n == wire.len() || self.half_closed;
                    self.heard = shared.now;
                    self.pinged = None;
                    budget = budget.saturating_sub(n);
                    unopened = 0..n;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.readable = false,
                Err(e) => return Err(TunnelEnd::Io(e.kind())),
            }
        }
    }

    fn closed_by_peer(&self) -> TunnelEnd {
        match self.going_away {
            Some(code::NO_ERROR) if self.flows == 0 => TunnelEnd::Drained,
            Some(code) if code != code::NO_ERROR => TunnelEnd::PeerError(code),
            _ => TunnelEnd::ClosedByPeer,
        }
    }

    /// Seals and writes all that waits.
    pub(super) fn flush(&mut self) -> Result<(), TunnelEnd> {
        if !self.writable {
            // Answers to a peer that sends and does not read.
            if self.out.len() > MAX_UNSENT {
                return Err(TunnelEnd::Violation(flood("the peer does not read")));
            }
            return Ok(());
        }
        let Some(socket) = &self.socket else {
            return Ok(());
        };
        let sent = self.records.send(self.out.filled_mut(), false, socket);
        self.out.clear();
        self.unsent = sent.map_err(|e| TunnelEnd::Io(e.kind()))?;
        self.writable = self.unsent == 0;
        Ok(())
    }

    /// Nobody wants a stream any more, here.
    pub(super) fn cancel(&mut self, index: u32, flows: &mut Flows, shared: &mut Shared) {
        // Nobody will read how it ended either.
        let end = CarryEnd::ResetByPeer(code::CANCEL);
        self.reset(index, code::CANCEL, end, flows, shared);
    }

    /// Resets a stream, and ends its flow.
    pub(super) fn reset(
        &mut self,
        index: u32,
        code: u32,
        end: CarryEnd,
        flows: &mut Flows,
        shared: &mut Shared,
    ) {
        self.close_flow(index, Some(code), Outcome::Ended(end), flows, shared);
    }

    /// Ends a flow; with a code, and if its stream is open, resets that.
    pub(super) fn close_flow(
        &mut self,
        index: u32,
        reset: Option<u32>,
        outcome: Outcome,
        flows: &mut Flows,
        shared: &mut Shared,
    ) {
        let Some(flow) = flows.get_mut(index as usize) else {
            return;
        };
        if flow.has_ended() || flow.tunnel != self.index {
            return;
        }
        if self.streams.remove(&flow.stream).is_some()
            && let Some(code) = reset
        {
            frame::put_reset(&mut self.out, flow.stream, code);
        }
        let grown = flow.receive.release(shared.settings.initial_window);
        self.growth.give(grown);
        shared.growth.give(grown);
        flow.tunnel = NO_TUNNEL;
        let fetched = flow.head.is_none();
        flow.end(outcome, shared);
        if !fetched {
            // Nobody has heard of it, and nobody will.
            self.incoming.retain(|key| key.index != index);
            flows.remove(index as usize);
        }
        self.flows -= 1;
        if self.flows == 0 {
            self.idle_since = Some(shared.now);
            self.shrink();
        }
    }

    /// Gives back what many flows have made large.
    fn shrink(&mut self) {
        const KEEP: usize = 64;
        self.streams.shrink_to(KEEP);
        self.ready.shrink_to(KEEP);
        self.starved.shrink_to(KEEP);
        self.incoming.shrink_to(KEEP);
    }
}

impl Role {
    /// The longest header list that is taken.
    pub(super) fn header_list(self) -> u32 {
        match self {
            Self::Client => 16 << 10,
            Self::Server => 64 << 10,
        }
    }
}

/// The peer does what would cost us too much.
pub(super) fn flood(what: &'static str) -> Violation {
    Violation {
        code: code::ENHANCE_YOUR_CALM,
        what,
    }
}

impl From<Violation> for TunnelEnd {
    fn from(violation: Violation) -> Self {
        Self::Violation(violation)
    }
}
