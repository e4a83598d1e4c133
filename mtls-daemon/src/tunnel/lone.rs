//! One endpoint without TLS and without a loop, for property tests and
//! fuzzers: it is fed what a peer could send, and has to stay consistent.

use std::io::{self, Write as _};
use std::net::{TcpListener, TcpStream};

use super::endpoint::{Endpoint, Flows, Role};
use super::event_loop::Shared;
use super::flow::is;
use super::frame::{MAX_STREAM, Parser, Piece};
use super::outcome::TunnelEnd;
use super::records::Records;
use super::request::ConnectRequest;
use super::settings::Settings;
use crate::tls::Opened;

pub(super) struct Lone {
    pub(super) endpoint: Endpoint,
    pub(super) flows: Flows,
    pub(super) shared: Shared,
    /// Takes apart what the endpoint says.
    said: Parser,
    _peer: TcpStream,
    /// The applications' own ends.
    outside: Vec<TcpStream>,
}

impl Lone {
    pub(super) fn new(role: Role) -> io::Result<Self> {
        let (socket, peer) = sockets()?;
        let settings = Settings {
            max_streams: 8,
            ..Settings::default()
        };
        let shared = Shared::new(settings)?;
        let endpoint = Endpoint::new(0, role, socket, Box::new(NoRecords), &shared);
        Ok(Self {
            endpoint,
            flows: Flows::new(),
            shared,
            said: match role {
                Role::Client => Parser::of_client(),
                Role::Server => Parser::of_server(),
            },
            _peer: peer,
            outside: Vec::new(),
        })
    }

    /// The peer has sent this.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        if self.endpoint.end.is_none()
            && let Err(end) = self
                .endpoint
                .consume(bytes, &mut self.flows, &mut self.shared)
        {
            assert!(
                matches!(end, TunnelEnd::Violation(_)),
                "bytes are the peer's fault: {end:?}"
            );
            self.endpoint.finish(end, &mut self.flows, &mut self.shared);
        }
    }

    /// Opens a stream of ours.
    pub(super) fn open(&mut self) {
        let request = ConnectRequest {
            authority: ([10, 0, 2, 7], 5432).into(),
            forwarded: None,
            traceparent: None,
            baggage: None,
        };
        let _ = self
            .endpoint
            .open(&request, None, &mut self.flows, &mut self.shared);
    }

    /// Answers the oldest request, with an application that reads nothing.
    pub(super) fn answer(&mut self, status: u16) -> io::Result<()> {
        let Some(key) = self.endpoint.incoming.pop_front() else {
            return Ok(());
        };
        if let Some(flow) = self.flows.get_mut(key.index as usize) {
            flow.head = None;
        }
        let (flows, shared) = (&mut self.flows, &mut self.shared);
        self.endpoint.respond(key.index, status, flows, shared);
        if status == 200 {
            let (app, outside) = sockets()?;
            self.outside.push(outside);
            self.endpoint.attach(key.index, app, flows, shared);
        }
        Ok(())
    }

    /// Serves whatever applications have, as a turn does. The oldest has just
    /// said something and gone.
    pub(super) fn serve(&mut self) {
        if !self.outside.is_empty() {
            let _ = self.outside.remove(0).write_all(b"last words");
        }
        for (index, flow) in &mut self.flows {
            flow.set(is::READABLE);
            let index = u32::try_from(index).unwrap_or(u32::MAX);
            if !flow.is(is::QUEUED) {
                flow.set(is::QUEUED);
                self.endpoint.ready.push_back(index);
            }
        }
        if self.endpoint.end.is_none() {
            let _ = self.endpoint.serve(&mut self.flows, &mut self.shared);
        }
    }

    /// What has to hold at any time.
    pub(super) fn check(&mut self) {
        let own = self.endpoint.index;
        let living = self.flows.iter().filter(|(_, flow)| flow.tunnel == own);
        assert_eq!(living.count(), self.endpoint.flows, "every flow is counted");
        for (stream, index) in &self.endpoint.streams {
            let flow = &self.flows[*index as usize];
            assert_eq!((flow.stream, flow.tunnel), (*stream, own));
            assert!(
                !flow.is(is::CLOSED) && !flow.has_ended(),
                "{stream} is open"
            );
        }
        if self.endpoint.flows == 0 {
            assert!(self.shared.growth.is_unused(), "growth was given back");
            let own = self.endpoint.end.is_some() || self.endpoint.growth.is_unused();
            assert!(own, "and to the tunnel's budget");
        }
        // What it says is HTTP/2.
        let mut out = self.endpoint.out.filled();
        while let Some(piece) = self.said.next(&mut out).expect("valid frames") {
            if let Piece::Frame(head, _) | Piece::DataHead(head) = piece {
                assert!(head.stream <= MAX_STREAM);
            }
        }
        self.endpoint.out.clear();
        self.shared.wakers.clear();
    }
}

/// Plaintext on the wire; nothing is sent.
struct NoRecords;

impl Records for NoRecords {
    fn open(&mut self, _: &mut &[u8], _: &mut [u8]) -> Result<Opened, rustls::Error> {
        Ok(Opened {
            plain: 0,
            closed: false,
        })
    }

    fn send(&mut self, _: &mut [u8], _: bool, _: &TcpStream) -> io::Result<usize> {
        Ok(0)
    }
}

fn sockets() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let near = TcpStream::connect(listener.local_addr()?)?;
    let (far, _) = listener.accept()?;
    near.set_nonblocking(true)?;
    Ok((near, far))
}

/// Feeds `input` to both roles, cut and mixed with what this side does as the
/// input's own bytes say.
pub(super) fn run(input: &[u8]) -> io::Result<()> {
    use super::frame::{HEAD, PREFACE};
    for role in [Role::Server, Role::Client] {
        let mut lone = Lone::new(role)?;
        lone.check();
        if role == Role::Server {
            lone.feed(PREFACE);
        } else {
            lone.open();
            lone.open();
        }
        // SETTINGS and their acknowledgement: nothing happens before.
        lone.feed(&[0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 4, 1, 0, 0, 0, 0]);
        let mut rest = input;
        while let Some((&[step, a, b, c], behind)) = rest.split_first_chunk::<4>() {
            rest = behind;
            match step % 8 {
                0 => lone.answer(if a < 200 { 200 } else { 503 })?,
                1 => lone.open(),
                2 => lone.serve(),
                3 => {
                    // As it comes, head and all.
                    let (bytes, behind) = rest.split_at(usize::from(a).min(rest.len()));
                    lone.feed(bytes);
                    rest = behind;
                }
                4 => {
                    // Much DATA, which makes windows grow.
                    let len = usize::from(a) << 8;
                    let mut frame = vec![0, a, 0, 0, b & 1, 0, 0, 0, step / 8];
                    frame.resize(HEAD + len, 0);
                    lone.feed(&frame);
                }
                _ => {
                    // A frame that is likely to mean something.
                    let len = usize::from(c % 64).min(rest.len());
                    let (payload, behind) = rest.split_at(len);
                    rest = behind;
                    let mut frame = vec![0; HEAD];
                    frame[2] = c % 64;
                    frame[3] = a % 11;
                    frame[4] = b;
                    frame[8] = step / 8;
                    frame.extend_from_slice(payload);
                    frame.resize(HEAD + usize::from(c % 64), 0);
                    // In two pieces.
                    let (one, two) = frame.split_at(usize::from(b) % frame.len());
                    lone.feed(one);
                    lone.feed(two);
                }
            }
            lone.check();
        }
        let (flows, shared) = (&mut lone.flows, &mut lone.shared);
        lone.endpoint.finish(TunnelEnd::Truncated, flows, shared);
        lone.check();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    const CONNECT: &[u8] = b"\x02\x07CONNECT\x01\x0d10.0.2.7:5432";

    /// The step of `run` that feeds such a frame.
    fn frame(stream: u8, kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let len = u8::try_from(payload.len()).unwrap();
        let mut bytes = vec![stream * 8 + 5, kind, flags, len];
        bytes.extend_from_slice(payload);
        bytes
    }

    /// Steps most of which mean something.
    fn step() -> impl Strategy<Value = Vec<u8>> {
        let stream = prop::sample::select(vec![1u8, 1, 3, 3, 5, 5, 7, 9, 0, 2]);
        let what = prop_oneof![
            4 => Just((1, 4, CONNECT.to_vec())),
            1 => Just((1, 5, CONNECT.to_vec())),
            1 => Just((1, 4, b"\x88".to_vec())),
            4 => Just((0, 0, vec![7; 60])),
            2 => Just((0, 1, vec![7; 3])),
            1 => Just((0, 8, vec![9; 30])),
            1 => Just((3, 0, vec![0, 0, 0, 8])),
            2 => Just((8, 0, vec![0, 0, 0, 9])),
        ];
        prop_oneof![
            8 => (stream, what).prop_map(|(stream, (kind, flags, payload))| {
                frame(stream, kind, flags, &payload)
            }),
            4 => (0..4u8).prop_map(|n| vec![(2 * n + 1) * 8 + 4, 140, n / 3, 0]),
            1 => any::<[u8; 2]>().prop_map(|[a, b]| frame(0, 4, 0, &[0, 4, 0, 0, a, b])),
            4 => Just(vec![0, 0, 0, 0]),
            1 => Just(vec![0, 255, 0, 0]),
            1 => Just(vec![1, 0, 0, 0]),
            3 => Just(vec![2, 0, 0, 0]),
            1 => vec(any::<u8>(), 4..40),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]
        #[test]
        fn stays_consistent(streams in 0..5u8, steps in vec(step(), 0..60)) {
            let opened = (0..streams).flat_map(|n| frame(2 * n + 1, 1, 4, CONNECT));
            let mut input: Vec<u8> = opened.collect();
            input.extend(steps.concat());
            super::run(&input).unwrap();
        }
    }
}
