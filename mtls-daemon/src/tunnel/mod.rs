//! A tunnel between two daemons: a purpose-built HTTP/2 endpoint that knows
//! CONNECT only, in both roles, and the loop that moves its bytes.
//!
//! Opening a stream is ordinary async code. Then the application's socket
//! joins its tunnel's loop: there is no task, channel or buffer for a flow,
//! and everything that a turn of the loop has to say leaves in one write.

mod control;
mod distance;
mod endpoint;
mod event_loop;
mod flow;
mod frame;
mod handle;
mod head;
mod hpack;
mod huffman;
mod life;
mod limits;
#[cfg(any(test, fuzzing))]
mod lone;
mod out;
mod outcome;
mod poller;
mod proof;
mod receive;
mod records;
mod request;
mod serve;
mod settings;
mod slot;
mod streams;
mod windows;

pub use frame::code;
pub use handle::{Carry, CarryHandle, Incoming, Loop, Opening, Request, Stream, Tunnel};
pub use outcome::{Carried, CarryEnd, ConnectError, Cut, TunnelEnd, Violation};
pub use proof::ProofNews;
pub use request::ConnectRequest;
pub use settings::{Settings, Stats};

/// What the fuzzers feed: bytes of a peer, whose TLS is already opened.
#[cfg(fuzzing)]
pub mod fuzzing {
    /// To endpoints in both roles.
    pub fn endpoint(input: &[u8]) -> std::io::Result<()> {
        super::lone::run(input)
    }

    /// To the decoder of header blocks and the readers of heads. Returns what
    /// was taken for a request.
    pub fn head(block: &[u8]) -> Option<super::ConnectRequest> {
        use super::hpack::{Decoder, Fields};
        use super::request::HeadReader;
        let mut decoder = Decoder::new();
        let mut request = HeadReader::default();
        let mut answer = HeadReader::default();
        let fields = decoder.decode(block, 64 << 10, |name, value| {
            request.field(name, value);
            answer.field(name, value);
        });
        let _ = answer.answer();
        fields.ok().filter(|fields| *fields == Fields::All)?;
        request.request().ok()
    }

    /// To the readers of heads, past the coding of header blocks: a field a
    /// line.
    pub fn fields(lines: &[u8]) -> Option<super::ConnectRequest> {
        use super::request::HeadReader;
        let mut request = HeadReader::default();
        for line in lines.split(|byte| *byte == b'\n') {
            // Names may begin with a colon.
            let end = line.iter().skip(1).position(|byte| *byte == b':');
            let (name, value) = line.split_at(end.map_or(line.len(), |end| end + 1));
            request.field(name, value.strip_prefix(b":").unwrap_or(value));
        }
        request.request().ok()
    }

    /// What we would send for it.
    pub fn encoded(request: &super::ConnectRequest) -> Vec<u8> {
        let mut block = Vec::new();
        request.encode(&mut block);
        block
    }
}
