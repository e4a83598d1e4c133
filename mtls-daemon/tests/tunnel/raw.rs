//! A peer that sends what it likes.

use mtls_daemon::tunnel::{Incoming, Loop, Settings, Tunnel, TunnelEnd};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::support::*;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PUSH_PROMISE: u8 = 5;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const ACK: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
pub(crate) const PADDED: u8 = 8;

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// A CONNECT to 10.0.2.7:5432, in literals.
pub(crate) const CONNECT: &[u8] = b"\x02\x07CONNECT\x01\x0d10.0.2.7:5432";
/// `:status 200`.
pub(crate) const OK: &[u8] = b"\x88";

/// One frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![len[1], len[2], len[3], kind, flags];
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

pub(crate) fn request_frame(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, CONNECT)
}

#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    /// The `nth` number of four bytes in the payload.
    pub(crate) fn number(&self, nth: usize) -> u32 {
        u32::from_be_bytes(self.payload[4 * nth..4 * nth + 4].try_into().unwrap())
    }
}

pub(crate) struct Raw<S> {
    io: S,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Raw<S> {
    pub(crate) fn new(io: S) -> Self {
        Self { io }
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.io.write_all(bytes).await.unwrap();
        self.io.flush().await.unwrap();
    }

    /// Sends while the tunnel still reads; for floods, which it ends.
    pub(crate) async fn flood(&mut self, bytes: &[u8], times: usize) {
        for _ in 0..times {
            if self.io.write_all(bytes).await.is_err() || self.io.flush().await.is_err() {
                return;
            }
        }
    }

    /// The next frame; `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.io.read_exact(&mut head).await.ok()?;
        let len = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; len as usize];
        self.io.read_exact(&mut payload).await.ok()?;
        Some(Frame {
            kind: head[3],
            flags: head[4],
            stream: u32::from_be_bytes([head[5], head[6], head[7], head[8]]),
            payload,
        })
    }

    /// The next frame of that type; others are passed over.
    pub(crate) async fn wait_for(&mut self, kind: u8) -> Frame {
        loop {
            let frame = self.next().await.expect("the tunnel has ended");
            assert!(
                frame.kind != GOAWAY || kind == GOAWAY,
                "GOAWAY {} instead",
                frame.number(1)
            );
            if frame.kind == kind {
                return frame;
            }
        }
    }

    /// The code of the GOAWAY that ends the tunnel.
    pub(crate) async fn goaway(&mut self) -> u32 {
        self.wait_for(GOAWAY).await.number(1)
    }

    /// The code that `stream` is reset with.
    pub(crate) async fn reset_of(&mut self, stream: u32) -> u32 {
        let reset = self.wait_for(RST_STREAM).await;
        assert_eq!(reset.stream, stream);
        reset.number(0)
    }

    /// Shows that the tunnel still lives.
    pub(crate) async fn is_answered(&mut self) {
        self.send(&frame(PING, 0, 0, b"are you?")).await;
        loop {
            let pong = self.wait_for(PING).await;
            if pong.flags == ACK {
                assert_eq!(pong.payload, b"are you?");
                return;
            }
        }
    }
}

/// A tunnel of ours with a raw client at its other end.
pub(crate) struct Served {
    pub(crate) turning: Loop,
    pub(crate) tunnel: Tunnel,
    pub(crate) incoming: Incoming,
    pub(crate) raw: Raw<ClientTls>,
}

/// The raw client has said nothing yet.
pub(crate) async fn served() -> Served {
    served_with(Settings::default()).await
}

pub(crate) async fn served_with(settings: Settings) -> Served {
    let turning = new_loop(settings);
    let (near, (tunnel, incoming)) = server_of(&turning).await;
    Served {
        turning,
        tunnel,
        incoming,
        raw: Raw::new(near),
    }
}

impl Served {
    /// The raw client has introduced itself.
    pub(crate) async fn greeted(mut self) -> Self {
        self.raw.send(PREFACE).await;
        self.raw.send(&frame(SETTINGS, 0, 0, &[])).await;
        self.raw.send(&frame(SETTINGS, ACK, 0, &[])).await;
        self
    }

    /// The tunnel ends for a violation with that code, and says so.
    pub(crate) async fn ends_with(mut self, code: u32) {
        assert_eq!(self.raw.goaway().await, code);
        let end = self.tunnel.closed().await;
        assert!(
            matches!(end, TunnelEnd::Violation(violation) if violation.code == code),
            "{end:?}"
        );
        assert_eq!(self.turning.stats().tunnel_violations.get(), 1);
        while self.incoming.next().await.is_some() {}
    }
}

/// A tunnel of ours to a raw server.
pub(crate) struct Client {
    pub(crate) turning: Loop,
    pub(crate) tunnel: Tunnel,
    pub(crate) raw: Raw<ServerTls>,
}

/// The raw server has introduced itself.
pub(crate) async fn client() -> Client {
    let turning = new_loop(Settings::default());
    let (tunnel, far) = client_of(&turning).await;
    let mut raw = Raw::new(far);
    let mut preface = [0; PREFACE.len()];
    raw.io.read_exact(&mut preface).await.unwrap();
    assert_eq!(preface, PREFACE);
    raw.send(&frame(SETTINGS, 0, 0, &[])).await;
    Client {
        turning,
        tunnel,
        raw,
    }
}
