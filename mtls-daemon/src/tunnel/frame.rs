//! HTTP/2 frames (RFC 9113): a parser that takes its input in any pieces and
//! never collects DATA, and what we write ourselves.

use super::out::Out;
use super::outcome::Violation;

/// Bytes of a frame's head.
pub(super) const HEAD: usize = 9;
/// What a client says before its first frame.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The largest payload that either side may send before SETTINGS say more.
pub(super) const DEFAULT_MAX_FRAME: u32 = 16_384;
/// The largest payload that we take. A frame of 64 KiB - 9 and its head fill
/// exactly four TLS records, and that is what our own side sends.
pub(super) const OUR_MAX_FRAME: u32 = 65_536;
/// The window of a stream, and of a connection, before anybody changed it.
pub(super) const DEFAULT_WINDOW: u32 = 65_535;
/// The largest window.
pub(super) const MAX_WINDOW: u32 = 0x7fff_ffff;
/// The largest stream id.
pub(super) const MAX_STREAM: u32 = 0x7fff_ffff;

/// Frame types.
pub(super) mod kind {
    pub(in super::super) const DATA: u8 = 0x0;
    pub(in super::super) const HEADERS: u8 = 0x1;
    pub(in super::super) const PRIORITY: u8 = 0x2;
    pub(in super::super) const RST_STREAM: u8 = 0x3;
    pub(in super::super) const SETTINGS: u8 = 0x4;
    pub(in super::super) const PUSH_PROMISE: u8 = 0x5;
    pub(in super::super) const PING: u8 = 0x6;
    pub(in super::super) const GOAWAY: u8 = 0x7;
    pub(in super::super) const WINDOW_UPDATE: u8 = 0x8;
    pub(in super::super) const CONTINUATION: u8 = 0x9;
    /// Ours (`proof`); from the range that nobody else uses.
    pub(in super::super) const PROOF: u8 = 0xf1;
}

/// Frame flags.
pub(super) mod flag {
    pub(in super::super) const ACK: u8 = 0x1;
    pub(in super::super) const END_STREAM: u8 = 0x1;
    pub(in super::super) const END_HEADERS: u8 = 0x4;
    pub(in super::super) const PADDED: u8 = 0x8;
    pub(in super::super) const PRIORITY: u8 = 0x20;
}

/// Settings.
pub(super) mod setting {
    pub(in super::super) const HEADER_TABLE_SIZE: u16 = 0x1;
    pub(in super::super) const ENABLE_PUSH: u16 = 0x2;
    pub(in super::super) const MAX_CONCURRENT_STREAMS: u16 = 0x3;
    pub(in super::super) const INITIAL_WINDOW_SIZE: u16 = 0x4;
    pub(in super::super) const MAX_FRAME_SIZE: u16 = 0x5;
    pub(in super::super) const MAX_HEADER_LIST_SIZE: u16 = 0x6;
    /// Ours: 1 from an endpoint that knows `kind::PROOF`.
    pub(in super::super) const TAKES_PROOFS: u16 = 0xf1f1;
    /// Ours, of the range for experiments: with 1, a server says that it holds
    /// the DATA of a CONNECT back until it has answered 200, and drops it when
    /// it answers anything else. Whoever does not know it passes over it.
    pub(in super::super) const HOLDS_EARLY_DATA: u16 = 0xf1f2;
}

/// A frame's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) len: u32,
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
}

impl Head {
    fn read(bytes: [u8; HEAD]) -> Self {
        let [a, b, c, kind, flags, s0, s1, s2, s3] = bytes;
        Self {
            len: u32::from_be_bytes([0, a, b, c]),
            kind,
            flags,
            stream: u32::from_be_bytes([s0, s1, s2, s3]) & MAX_STREAM,
        }
    }

    /// The head as it goes on the wire.
    pub(super) fn bytes(self) -> [u8; HEAD] {
        let [_, a, b, c] = self.len.to_be_bytes();
        let [s0, s1, s2, s3] = self.stream.to_be_bytes();
        [a, b, c, self.kind, self.flags, s0, s1, s2, s3]
    }

    pub(super) fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// What the parser found. `'i` is the input, `'p` the parser.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece<'i, 'p> {
    /// A DATA frame begins. Its length counts on the windows as it stands,
    /// padding included.
    DataHead(Head),
    /// Payload of the DATA frame that has begun, as much as was there.
    Data(&'i [u8]),
    /// The DATA frame is over; so much of it was padding.
    DataEnd(Head, u32),
    /// Any other frame that we know, whole.
    Frame(Head, &'p [u8]),
    /// A frame of a type that we do not know; its payload is skipped.
    Unknown(Head),
}

/// Takes frames apart, however they were cut.
#[derive(Debug)]
pub(super) struct Parser {
    state: State,
    /// A head, or the payload of a frame that is not DATA, of which only a
    /// part was there.
    partial: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// So much of the client's preface was seen.
    Preface(usize),
    Head,
    Payload(Head),
    /// The collected payload was handed out and can go.
    Handed,
    PadLength(Head),
    Data {
        head: Head,
        left: u32,
        pad: u32,
    },
    Skip(u32),
}

impl Parser {
    /// A parser for what a client sends: the preface comes first.
    pub(super) fn of_client() -> Self {
        Self {
            state: State::Preface(0),
            partial: Vec::new(),
        }
    }

    /// A parser for what a server sends.
    pub(super) fn of_server() -> Self {
        Self {
            state: State::Head,
            partial: Vec::new(),
        }
    }

    /// The next piece of `input`, which is moved past it. `None` when all of
    /// it was taken.
    pub(super) fn next<'i: 'p, 'p>(
        &'p mut self,
        input: &mut &'i [u8],
    ) -> Result<Option<Piece<'i, 'p>>, Violation> {
        loop {
            match self.state {
                State::Preface(seen) => {
                    let rest = &PREFACE[seen..];
                    let given = take(input, rest.len());
                    if !rest.starts_with(given) {
                        return Err(protocol("not an HTTP/2 preface"));
                    }
                    let seen = seen + given.len();
                    if seen < PREFACE.len() {
                        self.state = State::Preface(seen);
                        return Ok(None);
                    }
                    self.state = State::Head;
                }
                State::Head => {
                    let Some(head) = self.head(input) else {
                        return Ok(None);
                    };
                    if head.len > OUR_MAX_FRAME {
                        return Err(size("a frame larger than was allowed"));
                    }
                    if head.kind > kind::CONTINUATION && head.kind != kind::PROOF {
                        self.state = State::Skip(head.len);
                        return Ok(Some(Piece::Unknown(head)));
                    }
                    if head.kind != kind::DATA {
                        self.state = State::Payload(head);
                        continue;
                    }
                    self.state = if head.has(flag::PADDED) {
                        if head.len == 0 {
                            return Err(size("padded DATA without a pad length"));
                        }
                        State::PadLength(head)
                    } else {
                        State::Data {
                            head,
                            left: head.len,
                            pad: 0,
                        }
                    };
                    return Ok(Some(Piece::DataHead(head)));
                }
                State::PadLength(head) => {
                    let &[pad] = take(input, 1) else {
                        return Ok(None);
                    };
                    let pad = u32::from(pad);
                    if pad >= head.len {
                        return Err(protocol("padding longer than its frame"));
                    }
                    self.state = State::Data {
                        head,
                        left: head.len - 1 - pad,
                        pad,
                    };
                }
                State::Data { head, left: 0, pad } => {
                    self.state = State::Skip(pad);
                    let padding = pad + u32::from(head.has(flag::PADDED));
                    return Ok(Some(Piece::DataEnd(head, padding)));
                }
                State::Data { head, left, pad } => {
                    let given = take(input, index(left));
                    if given.is_empty() {
                        return Ok(None);
                    }
                    let left = left - length(given);
                    self.state = State::Data { head, left, pad };
                    return Ok(Some(Piece::Data(given)));
                }
                State::Skip(left) => {
                    let left = left - length(take(input, index(left)));
                    if left > 0 {
                        self.state = State::Skip(left);
                        return Ok(None);
                    }
                    self.state = State::Head;
                }
                State::Payload(head) => return Ok(self.payload(head, input)),
                State::Handed => {
                    self.partial = Vec::new();
                    self.state = State::Head;
                }
            }
        }
    }

    fn head(&mut self, input: &mut &[u8]) -> Option<Head> {
        if self.partial.is_empty()
            && let Some((head, rest)) = input.split_first_chunk::<HEAD>()
        {
            *input = rest;
            return Some(Head::read(*head));
        }
        let missing = HEAD - self.partial.len();
        self.partial.extend_from_slice(take(input, missing));
        let head = Head::read(*self.partial.first_chunk::<HEAD>()?);
        self.partial.clear();
        Some(head)
    }

    /// The whole payload of a frame that is not DATA: out of the input where
    /// it is in one piece, else collected.
    fn payload<'i: 'p, 'p>(
        &'p mut self,
        head: Head,
        input: &mut &'i [u8],
    ) -> Option<Piece<'i, 'p>> {
        let missing = index(head.len) - self.partial.len();
        let given = take(input, missing);
        if self.partial.is_empty() && given.len() == missing {
            self.state = State::Head;
            return Some(Piece::Frame(head, given));
        }
        self.partial.extend_from_slice(given);
        if given.len() < missing {
            return None;
        }
        self.state = State::Handed;
        Some(Piece::Frame(head, &self.partial))
    }
}

/// Takes up to `n` bytes off the front of `input`.
fn take<'i>(input: &mut &'i [u8], n: usize) -> &'i [u8] {
    let (given, rest) = input.split_at(n.min(input.len()));
    *input = rest;
    given
}

fn index(n: u32) -> usize {
    // No target of ours has a usize of fewer than 32 bits.
    n as usize
}

fn length(bytes: &[u8]) -> u32 {
    // Never more than was asked of `take`, which came from a u32.
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

fn protocol(what: &'static str) -> Violation {
    Violation {
        code: code::PROTOCOL_ERROR,
        what,
    }
}

fn size(what: &'static str) -> Violation {
    Violation {
        code: code::FRAME_SIZE_ERROR,
        what,
    }
}

/// Appends a frame with a small payload.
fn put(out: &mut Out, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let head = Head {
        len: length(payload),
        kind,
        flags,
        stream,
    };
    out.put(&head.bytes());
    out.put(payload);
}

/// Our SETTINGS.
pub(super) fn put_settings(out: &mut Out, settings: &[(u16, u32)]) {
    let mut payload = Vec::with_capacity(settings.len() * 6);
    for (id, value) in settings {
        payload.extend_from_slice(&id.to_be_bytes());
        payload.extend_from_slice(&value.to_be_bytes());
    }
    put(out, kind::SETTINGS, 0, 0, &payload);
}

/// The receipt for the peer's SETTINGS.
pub(super) fn put_settings_ack(out: &mut Out) {
    put(out, kind::SETTINGS, flag::ACK, 0, &[]);
}

/// A PING, or with `ack` the answer to one.
pub(super) fn put_ping(out: &mut Out, ack: bool, payload: [u8; 8]) {
    put(
        out,
        kind::PING,
        if ack { flag::ACK } else { 0 },
        0,
        &payload,
    );
}

/// A GOAWAY: streams up to `last` were or will be looked at.
pub(super) fn put_goaway(out: &mut Out, last: u32, code: u32) {
    let [a, b, c, d] = last.to_be_bytes();
    let [e, f, g, h] = code.to_be_bytes();
    put(out, kind::GOAWAY, 0, 0, &[a, b, c, d, e, f, g, h]);
}

/// Resets a stream.
pub(super) fn put_reset(out: &mut Out, stream: u32, code: u32) {
    put(out, kind::RST_STREAM, 0, stream, &code.to_be_bytes());
}

/// Gives back window: stream 0 is the connection.
pub(super) fn put_window_update(out: &mut Out, stream: u32, increment: u32) {
    put(
        out,
        kind::WINDOW_UPDATE,
        0,
        stream,
        &increment.to_be_bytes(),
    );
}

/// A proof, on the connection's own stream.
pub(super) fn put_proof(out: &mut Out, proof: &[u8]) {
    put(out, kind::PROOF, 0, 0, proof);
}

/// A header block in one frame. Ours are far below the smallest frame limit.
pub(super) fn put_headers(out: &mut Out, stream: u32, end_stream: bool, block: &[u8]) {
    debug_assert!(length(block) <= DEFAULT_MAX_FRAME, "a head of our own");
    let end = if end_stream { flag::END_STREAM } else { 0 };
    put(out, kind::HEADERS, flag::END_HEADERS | end, stream, block);
}

/// An empty DATA frame that ends the stream.
pub(super) fn put_end_stream(out: &mut Out, stream: u32) {
    put(out, kind::DATA, flag::END_STREAM, stream, &[]);
}

/// HTTP/2 error codes (RFC 9113, section 7).
pub mod code {
    /// Not an error.
    pub const NO_ERROR: u32 = 0x0;
    /// The peer broke the protocol.
    pub const PROTOCOL_ERROR: u32 = 0x1;
    /// A fault of the sender of the code.
    pub const INTERNAL_ERROR: u32 = 0x2;
    /// More data came than the window allowed.
    pub const FLOW_CONTROL_ERROR: u32 = 0x3;
    /// SETTINGS were not acknowledged in time.
    pub const SETTINGS_TIMEOUT: u32 = 0x4;
    /// A frame came for a half-closed stream.
    pub const STREAM_CLOSED: u32 = 0x5;
    /// A frame had a size that its type does not allow.
    pub const FRAME_SIZE_ERROR: u32 = 0x6;
    /// The stream was not looked at: it may be tried again.
    pub const REFUSED_STREAM: u32 = 0x7;
    /// The stream is no longer wanted.
    pub const CANCEL: u32 = 0x8;
    /// The header compression state is broken.
    pub const COMPRESSION_ERROR: u32 = 0x9;
    /// The TCP connection behind a CONNECT was reset or failed.
    pub const CONNECT_ERROR: u32 = 0xa;
    /// The peer does what generates too much work.
    pub const ENHANCE_YOUR_CALM: u32 = 0xb;

    /// The code's name in the RFC.
    pub fn name(code: u32) -> Option<&'static str> {
        const NAMES: [&str; 14] = [
            "NO_ERROR",
            "PROTOCOL_ERROR",
            "INTERNAL_ERROR",
            "FLOW_CONTROL_ERROR",
            "SETTINGS_TIMEOUT",
            "STREAM_CLOSED",
            "FRAME_SIZE_ERROR",
            "REFUSED_STREAM",
            "CANCEL",
            "COMPRESSION_ERROR",
            "CONNECT_ERROR",
            "ENHANCE_YOUR_CALM",
            "INADEQUATE_SECURITY",
            "HTTP_1_1_REQUIRED",
        ];
        NAMES.get(usize::try_from(code).ok()?).copied()
    }
}

#[cfg(test)]
mod tests;
