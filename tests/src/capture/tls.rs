//! Judges the bytes of one TCP connection: are they TLS 1.3, both ways?
//!
//! Well-formed records; a ClientHello that offers, and a ServerHello that
//! chooses, TLS 1.3; after that nothing but encrypted records, the one dummy
//! ChangeCipherSpec that the standard allows, and an alert from before there
//! were keys. What is encrypted cannot be looked into: stories search the
//! capture for marked plain text, too.

use std::ops::AddAssign;

const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;

const CLIENT_HELLO: u8 = 1;
const SERVER_HELLO: u8 = 2;
const SUPPORTED_VERSIONS: u16 = 43;
const EARLY_DATA: u16 = 42;
const TLS_1_3: u16 = 0x0304;

const HEADER: usize = 5;
/// Of a record: the standard's plaintext, and what encryption may add.
const LARGEST_PLAIN: usize = 1 << 14;
const LARGEST_SEALED: usize = LARGEST_PLAIN + 256;
/// A content type and a tag.
const SMALLEST_SEALED: usize = 17;
const LARGEST_HELLO: usize = 64 * 1024;

/// RFC 8446, 4.1.3: a ServerHello with this random asks for another ClientHello.
const RETRY: [u8; 32] = [
    0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91,
    0xc2, 0xa2, 0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Server,
}

/// Bytes, by what they turned out to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Judged {
    pub(super) inside: u64,
    pub(super) outside: u64,
}

impl AddAssign for Judged {
    fn add_assign(&mut self, other: Self) {
        self.inside += other.inside;
        self.outside += other.outside;
    }
}

/// A connection under judgement.
#[derive(Debug, Default)]
pub(super) struct Judge {
    client: Stream,
    server: Stream,
    negotiation: Negotiation,
    complaint: Option<String>,
}

/// How far the two hellos are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Negotiation {
    #[default]
    Nothing,
    Offered,
    /// The server asked for another hello.
    Retry,
    OfferedAgain,
    Agreed,
}

/// One direction: the record that is being read.
#[derive(Debug, Default)]
struct Stream {
    header: Vec<u8>,
    /// Kind and bytes to come of the record whose header is read.
    record: Option<(u8, usize)>,
    /// Body of a record that is not encrypted.
    body: Vec<u8>,
    /// A handshake message, over several records.
    hello: Vec<u8>,
    /// Bytes of what is not encrypted and not yet judged.
    pending: u64,
    sealed: bool,
    changed_cipher: bool,
    broken: bool,
    judged: Judged,
}

impl Judge {
    /// The next bytes of a direction.
    pub(super) fn take(&mut self, side: Side, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.stream(side).broken {
                self.stream(side).judged.outside += bytes.len() as u64;
                return;
            }
            let (eaten, verdict) = self.step(side, bytes);
            bytes = &bytes[eaten..];
            if let Err(complaint) = verdict {
                self.break_off(side, &complaint);
            }
        }
    }

    /// What both directions carried; bytes that wait for the rest of a hello
    /// or a header are outside, unless they belong to a record of an agreed
    /// connection that was cut there.
    pub(super) fn finish(mut self) -> (Judged, bool, Option<String>) {
        let agreed = self.negotiation == Negotiation::Agreed;
        for side in [Side::Client, Side::Server] {
            let stream = self.stream(side);
            let waiting = stream.header.len() as u64 + stream.pending;
            let plausible = agreed && plausible_start(&stream.header);
            stream.header.clear();
            stream.pending = 0;
            if waiting == 0 {
                continue;
            }
            if plausible {
                stream.judged.inside += waiting;
            } else {
                stream.judged.outside += waiting;
                self.complain(
                    side,
                    &format!("{waiting} bytes are no whole hello or header"),
                );
            }
        }
        let mut judged = self.client.judged;
        judged += self.server.judged;
        (judged, agreed, self.complaint)
    }

    fn stream(&mut self, side: Side) -> &mut Stream {
        match side {
            Side::Client => &mut self.client,
            Side::Server => &mut self.server,
        }
    }

    /// Eats some bytes, at most to the end of a header or a record.
    fn step(&mut self, side: Side, bytes: &[u8]) -> (usize, Result<(), String>) {
        let stream = self.stream(side);
        let Some((kind, left)) = stream.record else {
            let eaten = bytes.len().min(HEADER - stream.header.len());
            stream.header.extend_from_slice(&bytes[..eaten]);
            let verdict = if stream.header.len() == HEADER {
                self.header(side)
            } else {
                Ok(())
            };
            return (eaten, verdict);
        };
        let eaten = bytes.len().min(left);
        stream.record = (eaten < left).then_some((kind, left - eaten));
        if kind == APPLICATION_DATA {
            stream.judged.inside += eaten as u64;
            return (eaten, Ok(()));
        }
        stream.pending += eaten as u64;
        stream.body.extend_from_slice(&bytes[..eaten]);
        if stream.record.is_some() {
            return (eaten, Ok(()));
        }
        let body = std::mem::take(&mut stream.body);
        (eaten, self.body(side, kind, &body))
    }

    fn header(&mut self, side: Side) -> Result<(), String> {
        let record = self.record(side)?;
        let stream = self.stream(side);
        stream.header.clear();
        stream.record = Some(record);
        if record.0 == APPLICATION_DATA {
            stream.judged.inside += HEADER as u64;
        } else {
            stream.pending += HEADER as u64;
        }
        Ok(())
    }

    /// Judges a record's header.
    fn record(&mut self, side: Side) -> Result<(u8, usize), String> {
        let negotiation = self.negotiation;
        let stream = self.stream(side);
        let between_hello = !stream.hello.is_empty();
        let [kind, major, minor, high, low] = stream.header[..] else {
            return Err("no header".into());
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if !(CHANGE_CIPHER_SPEC..=APPLICATION_DATA).contains(&kind)
            || major != 3
            || !(1..=3).contains(&minor)
        {
            return Err(format!("no TLS record: {:02x?}", stream.header));
        }
        let allowed = match kind {
            APPLICATION_DATA => {
                stream.sealed = true;
                negotiation == Negotiation::Agreed
                    && (SMALLEST_SEALED..=LARGEST_SEALED).contains(&length)
            }
            CHANGE_CIPHER_SPEC => {
                let first = !std::mem::replace(&mut stream.changed_cipher, true);
                first && length == 1 && negotiation != Negotiation::Nothing
            }
            ALERT => !stream.sealed && length == 2 && negotiation != Negotiation::Nothing,
            _ => {
                !stream.sealed
                    && (1..=LARGEST_PLAIN).contains(&length)
                    && hello_due(negotiation, side)
            }
        };
        if allowed && (kind == HANDSHAKE || !between_hello) {
            Ok((kind, length))
        } else {
            Err(format!(
                "a record of type {kind} and {length} bytes, in state {negotiation:?}"
            ))
        }
    }

    /// Judges the body of a record that is not encrypted.
    fn body(&mut self, side: Side, kind: u8, body: &[u8]) -> Result<(), String> {
        match kind {
            CHANGE_CIPHER_SPEC if body != [1] => Err("a malformed ChangeCipherSpec".into()),
            ALERT if !matches!(body[0], 1 | 2) => Err("a malformed alert".into()),
            HANDSHAKE => self.hello(side, body),
            _ => {
                self.stream(side).accept_pending();
                Ok(())
            }
        }
    }

    fn hello(&mut self, side: Side, body: &[u8]) -> Result<(), String> {
        let stream = self.stream(side);
        stream.hello.extend_from_slice(body);
        let Some(&[kind, a, b, c]) = stream.hello.get(..4) else {
            return Ok(());
        };
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        let due = match side {
            Side::Client => CLIENT_HELLO,
            Side::Server => SERVER_HELLO,
        };
        if kind != due || length > LARGEST_HELLO {
            return Err(format!("a plain handshake message of type {kind}"));
        }
        if stream.hello.len() < 4 + length {
            return Ok(());
        }
        if stream.hello.len() > 4 + length {
            return Err("something follows the hello in its record".into());
        }
        let message = std::mem::take(&mut stream.hello);
        let hello = Hello::parse(&message[4..], side).ok_or("a malformed hello")?;
        if !hello.versions.contains(&TLS_1_3) {
            return Err(format!("not TLS 1.3: versions {:04x?}", hello.versions));
        }
        if hello.early_data {
            return Err("early data, which can be replayed".into());
        }
        self.stream(side).accept_pending();
        self.negotiation = match (self.negotiation, side, hello.retry) {
            (Negotiation::Nothing, Side::Client, _) => Negotiation::Offered,
            (Negotiation::Offered, Side::Server, true) => Negotiation::Retry,
            (Negotiation::Retry, Side::Client, _) => Negotiation::OfferedAgain,
            (Negotiation::Offered | Negotiation::OfferedAgain, Side::Server, false) => {
                Negotiation::Agreed
            }
            (state, ..) => return Err(format!("a hello out of turn, in state {state:?}")),
        };
        Ok(())
    }

    /// From here on, every byte of this direction is outside.
    fn break_off(&mut self, side: Side, complaint: &str) {
        let stream = self.stream(side);
        stream.broken = true;
        let waiting = stream.header.len() as u64 + std::mem::take(&mut stream.pending);
        stream.judged.outside += waiting;
        stream.header.clear();
        self.complain(side, complaint);
    }

    fn complain(&mut self, side: Side, complaint: &str) {
        if self.complaint.is_none() {
            self.complaint = Some(format!("{side:?} sent {complaint}"));
        }
    }
}

impl Stream {
    /// What was not encrypted was what it should be.
    fn accept_pending(&mut self) {
        self.judged.inside += std::mem::take(&mut self.pending);
    }
}

fn hello_due(negotiation: Negotiation, side: Side) -> bool {
    match side {
        Side::Client => matches!(negotiation, Negotiation::Nothing | Negotiation::Retry),
        Side::Server => matches!(
            negotiation,
            Negotiation::Offered | Negotiation::OfferedAgain
        ),
    }
}

/// Whether these are the first bytes of an encrypted record or an alert.
fn plausible_start(header: &[u8]) -> bool {
    match header {
        [] => true,
        [kind, rest @ ..] => {
            matches!(*kind, CHANGE_CIPHER_SPEC | ALERT | APPLICATION_DATA)
                && rest.first().is_none_or(|major| *major == 3)
        }
    }
}

/// What matters of a hello.
struct Hello {
    versions: Vec<u16>,
    early_data: bool,
    retry: bool,
}

impl Hello {
    fn parse(message: &[u8], side: Side) -> Option<Self> {
        let mut rest = Cursor(message);
        rest.take(2)?; // the version of old, always TLS 1.2
        let retry = rest.take(32)? == RETRY;
        let session = rest.u8()?;
        rest.take(session.into())?;
        match side {
            Side::Client => {
                let suites = rest.u16()?;
                rest.take(suites.into())?;
                let compressions = rest.u8()?;
                rest.take(compressions.into())?;
            }
            Side::Server => drop(rest.take(3)?),
        }
        let mut hello = Self {
            versions: Vec::new(),
            early_data: false,
            retry,
        };
        if rest.0.is_empty() {
            return Some(hello); // TLS 1.2 without extensions
        }
        let length = rest.u16()?;
        let mut extensions = Cursor(rest.take(length.into())?);
        while !extensions.0.is_empty() {
            let (kind, length) = (extensions.u16()?, extensions.u16()?);
            let mut body = Cursor(extensions.take(length.into())?);
            match kind {
                EARLY_DATA => hello.early_data = true,
                SUPPORTED_VERSIONS => {
                    if side == Side::Client {
                        body.u8()?;
                    }
                    while !body.0.is_empty() {
                        hello.versions.push(body.u16()?);
                    }
                }
                _ => {}
            }
        }
        rest.0.is_empty().then_some(hello)
    }
}

struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(n)?;
        self.0 = tail;
        Some(head)
    }

    fn u8(&mut self) -> Option<u8> {
        Some(self.take(1)?[0])
    }

    fn u16(&mut self) -> Option<u16> {
        let bytes = self.take(2)?;
        Some(u16::from_be_bytes([bytes[0], bytes[1]]))
    }
}

#[cfg(test)]
#[path = "tls_tests.rs"]
mod tests;
