//! Header blocks: a peer's requests in the server's role, its answers in the
//! client's, and what we say to either.

use std::net::TcpStream;
use std::time::Duration;

use super::endpoint::{Draining, Endpoint, Flows, Role, flood};
use super::event_loop::Shared;
use super::flow::{Flow, FlowKey, Outcome, is};
use super::frame::{self, Head, code, flag};
use super::hpack::{self, Broken, Fields};
use super::outcome::{CarryEnd, ConnectError, Violation};
use super::receive::protocol;
use super::request::{BadHead, ConnectRequest, HeadReader};
use super::settings::count;
use super::windows::{SendWindow, StreamWindow};

/// Pieces that a header block may come in.
const MAX_PIECES: u32 = 16;

/// A tunnel of which nothing was heard for so long may have died unseen. What is
/// asked on it goes without early bytes, so that it may be asked again elsewhere.
/// A busy tunnel, where a round trip counts, is never silent for so long.
const SILENT: Duration = Duration::from_millis(50);

/// A header block that is not whole yet.
#[derive(Debug)]
pub(super) struct Block {
    stream: u32,
    end_stream: bool,
    pieces: u32,
    bytes: Vec<u8>,
}

impl Endpoint {
    pub(super) fn headers(
        &mut self,
        head: Head,
        payload: &[u8],
        flows: &mut Flows,
        shared: &mut Shared,
    ) -> Result<(), Violation> {
        let fragment = fragment(head, payload)?;
        if head.stream == 0 {
            return Err(protocol("HEADERS without a stream"));
        }
        let end_stream = head.has(flag::END_STREAM);
        if head.has(flag::END_HEADERS) {
            return self.whole_head(head.stream, end_stream, fragment, flows, shared);
        }
        self.block = Some(Block {
            stream: head.stream,
            end_stream,
            pieces: 1,
            bytes: fragment.to_vec(),
        });
        Ok(())
    }

    pub(super) fn continuation(
        &mut self,
        head: Head,
        payload: &[u8],
        flows: &mut Flows,
        shared: &mut Shared,
    ) -> Result<(), Violation> {
        let Some(mut block) = self.block.take().filter(|b| b.stream == head.stream) else {
            return Err(protocol("CONTINUATION of nothing"));
        };
        block.pieces += 1;
        if block.pieces > MAX_PIECES
            || block.bytes.len() + payload.len() > self.role.header_list() as usize
        {
            return Err(flood("a header block without end"));
        }
        block.bytes.extend_from_slice(payload);
        if head.has(flag::END_HEADERS) {
            let Block {
                stream,
                end_stream,
                bytes,
                ..
            } = block;
            return self.whole_head(stream, end_stream, &bytes, flows, shared);
        }
        self.block = Some(block);
        Ok(())
    }

    /// A whole header block. It is decoded whatever becomes of it: the next
    /// one may refer to it.
    fn whole_head(
        &mut self,
        stream: u32,
        end_stream: bool,
        block: &[u8],
        flows: &mut Flows,
        shared: &mut Shared,
    ) -> Result<(), Violation> {
        let mut reader = HeadReader::default();
        let limit = self.role.header_list() as usize;
        let fields = self
            .decoder
            .decode(block, limit, |name, value| reader.field(name, value))
            .map_err(|Broken| Violation {
                code: code::COMPRESSION_ERROR,
                what: "a header block that cannot be decoded",
            })?;
        let known = self.streams.get(&stream).copied();
        match (self.role, known) {
            (Role::Client, Some(index)) => {
                self.answer(index, end_stream, fields, reader, flows, shared);
                Ok(())
            }
            // A second head ends a CONNECT, whose streams know no trailers.
            (Role::Server, Some(index)) => {
                self.stream_violation(index, code::PROTOCOL_ERROR, flows, shared);
                Ok(())
            }
            (_, None) if !self.is_idle(stream) => Ok(()),
            (Role::Client, None) => Err(protocol("HEADERS on a stream that was never opened")),
            (Role::Server, None) if stream.is_multiple_of(2) => {
                Err(protocol("a request on an even stream"))
            }
            (Role::Server, None) => {
                self.last_stream = stream;
                self.request(stream, end_stream, fields, reader, flows, shared)
            }
        }
    }

    /// A peer asks for a connection.
    fn request(
        &mut self,
        stream: u32,
        end_stream: bool,
        fields: Fields,
        reader: HeadReader,
        flows: &mut Flows,
        shared: &mut Shared,
    ) -> Result<(), Violation> {
        // Flows that still deliver after their stream's end count too: the
        // peer may be told to come again, what it left behind may not grow.
        let full = self.flows >= shared.settings.max_streams as usize;
        if full || !self.serving || self.draining == Draining::Final {
            count(&shared.stats.streams_refused, 1);
            frame::put_reset(&mut self.out, stream, code::REFUSED_STREAM);
            // A peer that knows our limit has no reason to go on.
            if full && !self.limits.early_reset(shared.millis) {
                return Err(flood("streams past the limit without end"));
            }
            return Ok(());
        }
        let request = match (fields, reader.request()) {
            (Fields::All, Ok(request)) => request,
            (fields, head) => {
                count(&shared.stats.bad_requests, 1);
                match (fields, head) {
                    (Fields::TooMany, _) => self.answer_and_end(stream, 431, end_stream),
                    (_, Err(BadHead::NotForUs(_))) => {
                        self.answer_and_end(stream, 400, end_stream);
                    }
                    _ => frame::put_reset(&mut self.out, stream, code::PROTOCOL_ERROR),
                }
                if !self.limits.early_reset(shared.millis) {
                    return Err(flood("bad requests without end"));
                }
                return Ok(());
            }
        };
        let mut flow = self.new_flow(stream, shared);
        if end_stream {
            flow.set(is::GOT_END);
        }
        flow.head = Some(Box::new(request));
        let key = self.add_flow(flow, flows, shared);
        self.incoming.push_back(key);
        shared.wake(&mut self.incoming_waiter);
        Ok(())
    }

    fn new_flow(&self, stream: u32, shared: &mut Shared) -> Flow {
        Flow::new(
            self.index,
            stream,
            shared.next_generation(),
            SendWindow::new(self.peer.initial_window),
            StreamWindow::new(shared.settings.initial_window, shared.millis),
        )
    }

    fn add_flow(&mut self, flow: Flow, flows: &mut Flows, shared: &mut Shared) -> FlowKey {
        count(&shared.stats.flows, 1);
        let stream = flow.stream;
        // A process cannot have 2^32 sockets.
        let index = u32::try_from(flows.vacant_key()).unwrap_or(u32::MAX);
        let key = flow.key(index);
        flows.insert(flow);
        self.streams.insert(stream, index);
        self.flows += 1;
        self.idle_since = None;
        key
    }

    /// Answers a peer's request, with 200 or, at its end, anything else.
    pub(super) fn respond(
        &mut self,
        index: u32,
        status: u16,
        flows: &mut Flows,
        shared: &mut Shared,
    ) {
        let Some(flow) = flows.get_mut(index as usize) else {
            return;
        };
        if flow.has_ended() {
            return;
        }
        if status == 200 {
            flow.set(is::ANSWERED);
            let block = self.status(status);
            frame::put_headers(&mut self.out, flow.stream, false, &block);
            return;
        }
        let (stream, got_end) = (flow.stream, flow.is(is::GOT_END));
        self.answer_and_end(stream, status, got_end);
        let refused = Outcome::Refused(status);
        self.close_flow(index, None, refused, flows, shared);
    }

    fn answer_and_end(&mut self, stream: u32, status: u16, got_end: bool) {
        let block = self.status(status);
        frame::put_headers(&mut self.out, stream, true, &block);
        if !got_end {
            // The rest of the request is of no interest (RFC 9113, 8.1).
            frame::put_reset(&mut self.out, stream, code::NO_ERROR);
        }
    }

    fn status(&mut self, status: u16) -> Vec<u8> {
        let mut block = self.new_block();
        hpack::put_status(&mut block, status);
        block
    }

    fn new_block(&mut self) -> Vec<u8> {
        let mut block = Vec::new();
        if std::mem::take(&mut self.peer.owed_no_table) {
            hpack::put_no_table(&mut block);
        }
        block
    }

    /// Nobody takes the peer's requests any more.
    pub(super) fn refuse_incoming(&mut self, flows: &mut Flows, shared: &mut Shared) {
        self.serving = false;
        for key in std::mem::take(&mut self.incoming) {
            let end = CarryEnd::ResetByPeer(code::REFUSED_STREAM);
            self.reset(key.index, code::REFUSED_STREAM, end, flows, shared);
        }
    }

    /// Sends a request of ours, and right behind it what its application has
    /// said so far, if the peer holds that back until it has accepted.
    pub(super) fn open(
        &mut self,
        request: &ConnectRequest,
        app: Option<&TcpStream>,
        flows: &mut Flows,
        shared: &mut Shared,
    ) -> Result<FlowKey, ConnectError> {
        if let Some(end) = &self.end {
            return Err(ConnectError::Lost(end.clone()));
        }
        if self.role == Role::Server || !self.is_open() {
            return Err(ConnectError::GoingAway);
        }
        if self.is_used_up() {
            self.drain(shared);
            return Err(ConnectError::GoingAway);
        }
        if !self.has_room() {
            return Err(ConnectError::NoRoom);
        }
        let stream = if self.last_stream == 0 {
            1
        } else {
            self.last_stream + 2
        };
        self.last_stream = stream;
        let mut block = self.new_block();
        request.encode(&mut block);
        frame::put_headers(&mut self.out, stream, false, &block);
        let mut flow = self.new_flow(stream, shared);
        if let Some(app) = app
            && self.peer.holds_early_data
            && shared.now - self.heard < SILENT
        {
            let window = self.send.open().min(self.peer.max_frame as usize);
            let early = flow.speak_early(app, &mut self.out, window);
            self.send.spend(early);
        }
        Ok(self.add_flow(flow, flows, shared))
    }

    /// The peer answers a request of ours.
    fn answer(
        &mut self,
        index: u32,
        end_stream: bool,
        fields: Fields,
        reader: HeadReader,
        flows: &mut Flows,
        shared: &mut Shared,
    ) {
        let Some(flow) = flows.get_mut(index as usize) else {
            return;
        };
        let status = match (fields, reader.answer()) {
            // A second head ends a CONNECT, whose streams know no trailers.
            (Fields::All, Ok(status)) if !flow.is(is::ANSWERED | is::GOT_END) => status,
            _ => return self.stream_violation(index, code::PROTOCOL_ERROR, flows, shared),
        };
        match status {
            // Not the answer yet; each costs the peer as much as it costs us.
            100..200 if !end_stream => {}
            200..300 => {
                flow.set(is::ANSWERED);
                shared.wake(&mut flow.waiter);
                if end_stream {
                    self.peer_ended(index, flows, shared);
                }
            }
            _ => {
                let refused = Outcome::Refused(status);
                self.close_flow(index, Some(code::CANCEL), refused, flows, shared);
            }
        }
    }

    /// Gives the application's socket to its flow.
    pub(super) fn attach(
        &mut self,
        index: u32,
        app: TcpStream,
        flows: &mut Flows,
        shared: &mut Shared,
    ) {
        let Some(flow) = flows.get_mut(index as usize) else {
            return;
        };
        // Dropping the socket resets the application: the stream is gone.
        if flow.has_ended() {
            return;
        }
        if let Err(e) = flow.attach(index, app, shared) {
            let end = CarryEnd::Local(e);
            return self.reset(index, code::INTERNAL_ERROR, end, flows, shared);
        }
        self.drain_app(index, flows, shared);
    }

    /// Gives what waits to an application that may take it.
    pub(super) fn drain_app(&mut self, index: u32, flows: &mut Flows, shared: &mut Shared) {
        let Some(flow) = flows.get_mut(index as usize) else {
            return;
        };
        match flow.drain(index, shared) {
            Ok(n) => {
                if n > 0 {
                    self.give_back(index, n, flows, shared);
                }
                self.settle(index, flows, shared);
            }
            Err(_failed) => self.app_failed(index, flows),
        }
    }
}

/// A HEADERS frame's part of the block, without padding and priority.
fn fragment(head: Head, payload: &[u8]) -> Result<&[u8], Violation> {
    let mut rest = payload;
    let mut pad = 0;
    if head.has(flag::PADDED) {
        let (first, behind) = rest
            .split_first()
            .ok_or_else(|| super::control::size("padded HEADERS without a pad length"))?;
        pad = usize::from(*first);
        rest = behind;
    }
    if head.has(flag::PRIORITY) {
        rest = rest
            .split_at_checked(5)
            .ok_or_else(|| super::control::size("HEADERS too short for their priority"))?
            .1;
    }
    let len = rest
        .len()
        .checked_sub(pad)
        .ok_or_else(|| protocol("padding longer than its frame"))?;
    Ok(&rest[..len])
}
