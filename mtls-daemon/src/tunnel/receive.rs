//! What a peer's bytes do: DATA goes straight to the applications, anything
//! else to `head` and `control`.

use std::io::IoSlice;
use std::mem;

use super::distance;
use super::endpoint::{Endpoint, Flows, Role, flood};
use super::event_loop::Shared;
use super::flow::{FlowKey, MAX_SLICES, is};
use super::frame::{Head, Parser, Piece, code, flag, kind};
use super::outcome::{CarryEnd, TunnelEnd, Violation};
use super::settings::count;
use super::windows::Exceeded;

/// Payloads for one flow that leave in one write.
struct Gathered<'i> {
    key: FlowKey,
    slices: [IoSlice<'i>; MAX_SLICES],
    len: usize,
}

impl Endpoint {
    /// Does what the plaintext `input` says.
    pub(super) fn consume(
        &mut self,
        input: &[u8],
        flows: &mut Flows,
        shared: &mut Shared,
    ) -> Result<(), TunnelEnd> {
        // Taken out, because a frame may lie in the parser while it is handled.
        let mut parser = mem::replace(&mut self.parser, Parser::of_server());
        let done = self.consume_with(&mut parser, input, flows, shared);
        self.parser = parser;
        done
    }

    fn consume_with(
        &mut self,
        parser: &mut Parser,
        mut input: &[u8],
        flows: &mut Flows,
        shared: &mut Shared,
    ) -> Result<(), TunnelEnd> {
        let mut gathered: Option<Gathered<'_>> = None;
        while let Some(piece) = parser.next(&mut input)? {
            match piece {
                Piece::Data(bytes) => {
                    let Some(key) = self.current else { continue };
                    if gathered.as_ref().is_some_and(|g| !g.takes(key)) {
                        self.deliver(gathered.take(), flows, shared);
                    }
                    gathered
                        .get_or_insert_with(|| Gathered::new(key))
                        .push(bytes);
                }
                Piece::DataHead(head) => self.data_head(head, flows, shared)?,
                Piece::DataEnd(head, padding) => {
                    let Some(key) = self.current.take() else {
                        continue;
                    };
                    if head.has(flag::END_STREAM) {
                        self.deliver(gathered.take(), flows, shared);
                    }
                    self.data_end(key, head, padding, flows, shared);
                }
                Piece::Frame(head, payload) => {
                    // Bytes before an end have to arrive before it.
                    self.deliver(gathered.take(), flows, shared);
                    if !self.peer.told && head.kind != kind::SETTINGS {
                        return Err(protocol("the first frame was not SETTINGS").into());
                    }
                    if self.block.is_some() && head.kind != kind::CONTINUATION {
                        return Err(protocol("a header block was interrupted").into());
                    }
                    self.frame(head, payload, flows, shared)?;
                }
                Piece::Unknown(_) => {
                    if self.block.is_some() || !self.peer.told {
                        return Err(protocol("an unknown frame where none may be").into());
                    }
                    if !self.limits.idle_frame(shared.millis) {
                        return Err(flood("unknown frames without end").into());
                    }
                }
            }
        }
        self.deliver(gathered, flows, shared);
        Ok(())
    }

    fn frame(
        &mut self,
        head: Head,
        payload: &[u8],
        flows: &mut Flows,
        shared: &mut Shared,
    ) -> Result<(), TunnelEnd> {
        match head.kind {
            kind::HEADERS => self.headers(head, payload, flows, shared),
            kind::CONTINUATION => self.continuation(head, payload, flows, shared),
            kind::RST_STREAM => self.rst_stream(head, payload, flows, shared),
            kind::WINDOW_UPDATE => self.window_update(head, payload, flows, shared),
            kind::SETTINGS => self.settings(head, payload, flows, shared),
            kind::PING => self.ping_frame(head, payload, shared),
            kind::GOAWAY => self.goaway(head, payload, flows, shared),
            kind::PRIORITY => self.priority(head, shared),
            kind::PROOF => self.proof_frame(head, payload, shared),
            kind::PUSH_PROMISE => Err(protocol("PUSH_PROMISE, which was never allowed")),
            // The parser hands out nothing else.
            _ => Ok(()),
        }
        .map_err(TunnelEnd::Violation)
    }

    /// A DATA frame begins: it counts on both windows whatever becomes of it.
    fn data_head(
        &mut self,
        head: Head,
        flows: &mut Flows,
        shared: &mut Shared,
    ) -> Result<(), Violation> {
        self.current = None;
        if head.stream == 0 || self.block.is_some() || !self.peer.told {
            return Err(protocol("DATA where none may be"));
        }
        let window = self.receive.receive(head.len);
        let window = window.map_err(|Exceeded| overrun("the connection's window was overrun"))?;
        if let Some(increment) = window {
            super::frame::put_window_update(&mut self.out, 0, increment);
        }
        if head.len == 0 && !head.has(flag::END_STREAM) && !self.limits.idle_frame(shared.millis) {
            return Err(flood("empty DATA without end"));
        }
        let Some(&index) = self.streams.get(&head.stream) else {
            if self.is_idle(head.stream) {
                return Err(protocol("DATA on a stream that was never opened"));
            }
            // What was on the way when the stream ended here.
            count(&shared.stats.late_data, 1);
            return Ok(());
        };
        let Some(flow) = flows.get_mut(index as usize) else {
            return Ok(());
        };
        let violation = if flow.is(is::GOT_END) {
            Some(code::STREAM_CLOSED)
        } else if self.role == Role::Client && !flow.is(is::ANSWERED) {
            Some(code::PROTOCOL_ERROR)
        } else if flow.receive.receive(head.len) == Err(Exceeded) {
            Some(code::FLOW_CONTROL_ERROR)
        } else {
            None
        };
        if let Some(code) = violation {
            self.stream_violation(index, code, flows, shared);
        } else {
            self.current = Some(flow.key(index));
        }
        Ok(())
    }

    fn data_end(
        &mut self,
        key: FlowKey,
        head: Head,
        padding: u32,
        flows: &mut Flows,
        shared: &mut Shared,
    ) {
        if !lives(key, flows) {
            return;
        }
        if padding > 0 {
            self.give_back(key.index, padding as usize, flows, shared);
        }
        if head.has(flag::END_STREAM) {
            self.peer_ended(key.index, flows, shared);
        }
    }

    /// The peer has ended its half of the stream.
    pub(super) fn peer_ended(&mut self, index: u32, flows: &mut Flows, shared: &mut Shared) {
        if let Some(flow) = flows.get_mut(index as usize) {
            flow.set(is::GOT_END);
            self.settle(index, flows, shared);
        }
    }

    fn deliver(&mut self, gathered: Option<Gathered<'_>>, flows: &mut Flows, shared: &mut Shared) {
        let Some(mut gathered) = gathered else { return };
        let key = gathered.key;
        if !lives(key, flows) {
            return;
        }
        let Some(flow) = flows.get_mut(key.index as usize) else {
            return;
        };
        let slices = &mut gathered.slices[..gathered.len];
        match flow.deliver(key.index, slices, shared) {
            Ok(0) => {}
            Ok(n) => self.give_back(key.index, n, flows, shared),
            Err(_failed) => self.app_failed(key.index, flows),
        }
    }

    /// The application has taken `n` bytes: the peer may send as many more.
    pub(super) fn give_back(
        &mut self,
        index: u32,
        n: usize,
        flows: &mut Flows,
        shared: &mut Shared,
    ) {
        let Some(flow) = flows.get_mut(index as usize) else {
            return;
        };
        if flow.is(is::GOT_END | is::CLOSED) {
            return;
        }
        let settings = &shared.settings;
        let socket = self.socket.as_ref();
        let most = |size| match socket {
            Some(socket) if size >= settings.max_window => {
                settings.window_over(distance::round_trip(socket))
            }
            _ => settings.max_window,
        };
        let bounds = (settings.initial_window, most);
        let budgets = [&mut self.growth, &mut shared.growth];
        // Never more than the window, so it fits.
        let n = u32::try_from(n).unwrap_or(u32::MAX);
        if let Some(back) = flow.receive.deliver(n, shared.millis, bounds, budgets) {
            super::frame::put_window_update(&mut self.out, flow.stream, back.increment);
            count(&shared.stats.growth_denied, u64::from(back.denied));
        }
    }

    /// After a half has ended or an application has caught up: tells the
    /// application, takes a finished stream off the tunnel, ends a flow that
    /// is done.
    pub(super) fn settle(&mut self, index: u32, flows: &mut Flows, shared: &mut Shared) {
        let Some(flow) = flows.get_mut(index as usize) else {
            return;
        };
        if flow.is(is::SENT_END) && flow.is(is::GOT_END) && !flow.is(is::CLOSED) {
            flow.set(is::CLOSED);
            self.streams.remove(&flow.stream);
        }
        if flow.shut().is_err() {
            self.app_failed(index, flows);
        } else if flow.is_done() {
            let done = super::flow::Outcome::Ended(CarryEnd::Done);
            self.close_flow(index, None, done, flows, shared);
        }
    }

    /// Writing to the application has failed. What it has sent before may
    /// still be read, and reading finds the error in its place; `serve` does.
    pub(super) fn app_failed(&mut self, index: u32, flows: &mut Flows) {
        if let Some(flow) = flows.get_mut(index as usize) {
            flow.set(is::FAILED | is::READABLE);
            self.enqueue(index, flows);
        }
    }

    /// Resets a stream for what the peer did on it.
    pub(super) fn stream_violation(
        &mut self,
        index: u32,
        code: u32,
        flows: &mut Flows,
        shared: &mut Shared,
    ) {
        count(&shared.stats.stream_violations, 1);
        // To whoever waits, it is as if the peer had reset it.
        self.reset(index, code, CarryEnd::ResetByPeer(code), flows, shared);
    }

    /// Whether nobody has opened that stream yet.
    pub(super) fn is_idle(&self, stream: u32) -> bool {
        // Only clients open streams, with odd ids.
        stream.is_multiple_of(2) || stream > self.last_stream
    }
}

/// Whether that flow is still in its slot and has not ended.
fn lives(key: FlowKey, flows: &Flows) -> bool {
    flows
        .get(key.index as usize)
        .is_some_and(|flow| flow.key(key.index) == key && !flow.has_ended())
}

impl<'i> Gathered<'i> {
    fn new(key: FlowKey) -> Self {
        Self {
            key,
            slices: [IoSlice::new(&[]); MAX_SLICES],
            len: 0,
        }
    }

    fn takes(&self, key: FlowKey) -> bool {
        self.key == key && self.len < MAX_SLICES
    }

    fn push(&mut self, bytes: &'i [u8]) {
        self.slices[self.len] = IoSlice::new(bytes);
        self.len += 1;
    }
}

pub(super) fn protocol(what: &'static str) -> Violation {
    Violation {
        code: code::PROTOCOL_ERROR,
        what,
    }
}

fn overrun(what: &'static str) -> Violation {
    Violation {
        code: code::FLOW_CONTROL_ERROR,
        what,
    }
}
