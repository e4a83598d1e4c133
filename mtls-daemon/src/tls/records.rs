//! TLS 1.3 records after the handshake (RFC 8446, 5 and 4.6): plaintext is
//! sealed where it lies and leaves without a copy, records are opened straight
//! into the reader's buffer. Nobody calls on the TLS library but for the next
//! keys and for tickets.

#[cfg(any(test, fuzzing))]
pub(super) mod fuzz;
mod key;
#[cfg(test)]
mod tests;

use std::io::{self, IoSlice};
use std::mem;
use std::net::TcpStream;

use rustls::{AlertDescription, ContentType, Error, HandshakeType, InvalidMessage, PeerMisbehaved};
use socket2::SockRef;

use self::key::{HEAD, Key, TAIL};
use super::session::{Schedule, Session};

/// The most plaintext that one record carries.
pub(super) const MAX_PLAINTEXT: usize = 16_384;
/// The most that follows a record's head (RFC 8446, 5.2).
const MAX_SEALED: usize = MAX_PLAINTEXT + 256;
/// Records that leave in one write.
const BATCH: usize = 16;
/// So many records a key may seal: what AES-GCM is good for (RFC 8446, 5.5).
const RECORDS_PER_KEY: u64 = 1 << 24;
/// Records without a byte for the reader that may follow one another.
const MAX_FRUITLESS: u32 = 32;
/// The longest message after the handshake; tickets are the only long ones.
const MAX_MESSAGE: usize = 64 << 10;

/// Seals and opens the records of one connection.
pub struct Records {
    sealing: Key,
    opening: Key,
    schedule: Schedule,
    records_per_key: u64,
    /// The peer wants us to change our key.
    owes_update: bool,
    /// The beginning of a record of which the rest has not come.
    unread: Vec<u8>,
    /// Messages after the handshake, while the last one is not whole.
    message: Vec<u8>,
    /// Records since the last one with a byte for the reader.
    fruitless: u32,
    /// Sealed, and not taken by the socket.
    unsent: Vec<u8>,
    /// What the last words are: `close_notify`, if the peer did nothing wrong.
    farewell: AlertDescription,
}

/// What was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Bytes of plaintext.
    pub plain: usize,
    /// The peer has said, under the records' protection, that nothing follows.
    pub closed: bool,
}

/// What one record was.
enum Content {
    Data(usize),
    Nothing,
    Closed,
}

impl Records {
    /// Goes on where the handshake has ended.
    pub fn new(session: Session) -> Result<Self, Error> {
        Ok(Self {
            sealing: Key::new(session.secrets.tx)?,
            opening: Key::new(session.secrets.rx)?,
            schedule: session.schedule,
            records_per_key: RECORDS_PER_KEY,
            owes_update: false,
            unread: session.unread,
            message: Vec::new(),
            fruitless: 0,
            unsent: Vec::new(),
            farewell: AlertDescription::CloseNotify,
        })
    }

    /// Opens records from the front of `wire` into `plain`, which has room for
    /// several: until `wire` is used up or `plain` cannot hold the next.
    pub fn open(&mut self, wire: &mut &[u8], plain: &mut [u8]) -> Result<Opened, Error> {
        let opened = self.open_all(wire, plain);
        if let Err(error) = &opened {
            self.farewell = farewell(error);
        }
        opened
    }

    fn open_all(&mut self, wire: &mut &[u8], plain: &mut [u8]) -> Result<Opened, Error> {
        let mut filled = 0;
        let mut closed = false;
        while !closed {
            let room = &mut plain[filled..];
            let mut unread = mem::take(&mut self.unread);
            complete(&mut unread, wire)?;
            let from_wire = unread.is_empty();
            let source = if from_wire { *wire } else { unread.as_slice() };
            let content = match whole(source)? {
                Some(len) if len <= room.len() => {
                    let content = self.open_one(&source[..len], room)?;
                    if from_wire {
                        *wire = &wire[len..];
                    } else if unread.len() > len {
                        unread.drain(..len);
                    } else {
                        // Most tunnels are idle, and keep nothing.
                        unread = Vec::new();
                    }
                    content
                }
                fits => {
                    if from_wire && fits.is_none() {
                        unread.extend_from_slice(wire);
                        *wire = &[];
                    }
                    self.unread = unread;
                    break;
                }
            };
            self.unread = unread;
            match content {
                Content::Data(n) => filled += n,
                Content::Nothing => {}
                Content::Closed => closed = true,
            }
        }
        Ok(Opened {
            plain: filled,
            closed,
        })
    }

    /// Opens one whole record to the front of `room`.
    fn open_one(&mut self, record: &[u8], room: &mut [u8]) -> Result<Content, Error> {
        let (kind, len) = self.opening.open(record, room)?;
        if len > MAX_PLAINTEXT {
            return Err(Error::PeerSentOversizedRecord);
        }
        if kind == ContentType::ApplicationData && len > 0 {
            if !self.message.is_empty() {
                return Err(PeerMisbehaved::MessageInterleavedWithHandshakeMessage.into());
            }
            self.fruitless = 0;
            return Ok(Content::Data(len));
        }
        self.fruitless += 1;
        if self.fruitless > MAX_FRUITLESS {
            return Err(PeerMisbehaved::TooManyEmptyFragments.into());
        }
        let content = &room[..len];
        match kind {
            ContentType::ApplicationData => Ok(Content::Nothing),
            ContentType::Handshake if len > 0 => {
                self.messages(content)?;
                Ok(Content::Nothing)
            }
            _ if !self.message.is_empty() => {
                Err(PeerMisbehaved::MessageInterleavedWithHandshakeMessage.into())
            }
            ContentType::Alert => alert(content),
            got_type => Err(Error::InappropriateMessage {
                expect_types: vec![ContentType::ApplicationData],
                got_type,
            }),
        }
    }

    /// What the peer has to say beside its data (RFC 8446, 4.6).
    fn messages(&mut self, content: &[u8]) -> Result<(), Error> {
        let mut bytes = mem::take(&mut self.message);
        bytes.extend_from_slice(content);
        let mut rest = bytes.as_slice();
        while let [kind, a, b, c, behind @ ..] = rest {
            let len = u32::from_be_bytes([0, *a, *b, *c]) as usize;
            if len > MAX_MESSAGE {
                return Err(InvalidMessage::HandshakePayloadTooLarge.into());
            }
            let Some((payload, behind)) = behind.split_at_checked(len) else {
                break;
            };
            rest = behind;
            match HandshakeType::from(*kind) {
                HandshakeType::NewSessionTicket => self.schedule.ticket(payload)?,
                HandshakeType::KeyUpdate => self.key_update(payload, rest)?,
                got_type => {
                    return Err(Error::InappropriateHandshakeMessage {
                        expect_types: vec![
                            HandshakeType::NewSessionTicket,
                            HandshakeType::KeyUpdate,
                        ],
                        got_type,
                    });
                }
            }
        }
        self.message = rest.to_vec();
        Ok(())
    }

    /// The peer has changed its key, and may want us to change ours.
    fn key_update(&mut self, payload: &[u8], rest: &[u8]) -> Result<(), Error> {
        let [asked @ 0..=1] = payload else {
            return Err(InvalidMessage::InvalidKeyUpdate.into());
        };
        // What follows would have come under the old key.
        if !rest.is_empty() {
            return Err(PeerMisbehaved::KeyEpochWithPendingFragment.into());
        }
        self.opening = Key::new(self.schedule.next_opening()?)?;
        self.owes_update |= *asked == 1;
        Ok(())
    }

    /// Seals `plain`, in its place, behind what waits already, and with `last`
    /// the notice that nothing follows; then writes what the socket takes.
    /// Returns how many bytes of records still wait.
    pub fn send(&mut self, plain: &mut [u8], last: bool, socket: &TcpStream) -> io::Result<usize> {
        let waited = !self.unsent.is_empty();
        self.write_unsent(socket)?;
        // What a batch leaves over has found the socket full just now.
        let mut queued = last || self.owes_update;
        if self.owes_update {
            self.change_key().map_err(io::Error::other)?;
        }
        for batch in plain.chunks_mut(BATCH * MAX_PLAINTEXT) {
            // One more for the notice of the change, one for the last words.
            if self.sealing.used() + BATCH as u64 + 2 > self.records_per_key {
                self.change_key().map_err(io::Error::other)?;
                queued = true;
            }
            self.send_batch(batch, socket)?;
        }
        if last {
            let fatal = self.farewell != AlertDescription::CloseNotify;
            let alert = [1 + u8::from(fatal), self.farewell.into()];
            self.queue(ContentType::Alert, &alert)
                .map_err(io::Error::other)?;
        }
        if queued {
            self.write_unsent(socket)?;
        }
        if waited && self.unsent.is_empty() {
            // It was large, and is rarely needed.
            self.unsent = Vec::new();
        }
        Ok(self.unsent.len())
    }

    /// Seals up to [`BATCH`] records and writes them around their plaintext's
    /// place: of each record, the head lies before it and the tail behind it.
    fn send_batch(&mut self, batch: &mut [u8], socket: &TcpStream) -> io::Result<()> {
        let mut between = [[0; TAIL + HEAD]; BATCH + 1];
        let mut count = 0;
        for plain in batch.chunks_mut(MAX_PLAINTEXT) {
            let (head, tail) = self
                .sealing
                .seal(ContentType::ApplicationData, plain)
                .map_err(io::Error::other)?;
            between[count][TAIL..].copy_from_slice(&head);
            between[count + 1][..TAIL].copy_from_slice(&tail);
            count += 1;
        }
        let mut slices = [IoSlice::new(&[]); 2 * BATCH + 1];
        slices[0] = IoSlice::new(&between[0][TAIL..]);
        for (nth, sealed) in batch.chunks(MAX_PLAINTEXT).enumerate() {
            let end = if nth + 1 == count { TAIL } else { TAIL + HEAD };
            slices[2 * nth + 1] = IoSlice::new(sealed);
            slices[2 * nth + 2] = IoSlice::new(&between[nth + 1][..end]);
        }
        let mut rest = &mut slices[..=2 * count];
        while self.unsent.is_empty() && !rest.is_empty() {
            match SockRef::from(socket).send_vectored_with_flags(rest, libc::MSG_NOSIGNAL) {
                Ok(n) => IoSlice::advance_slices(&mut rest, n),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) => return Err(e),
            }
        }
        rest.iter()
            .for_each(|slice| self.unsent.extend_from_slice(slice));
        Ok(())
    }

    /// Tells the peer that what follows comes under our next key.
    fn change_key(&mut self) -> Result<(), Error> {
        const UPDATE_NOT_REQUESTED: u8 = 0;
        let message = [
            HandshakeType::KeyUpdate.into(),
            0,
            0,
            1,
            UPDATE_NOT_REQUESTED,
        ];
        self.queue(ContentType::Handshake, &message)?;
        self.sealing = Key::new(self.schedule.next_sealing()?)?;
        self.owes_update = false;
        Ok(())
    }

    /// Seals a short record of our own behind what waits.
    fn queue(&mut self, kind: ContentType, content: &[u8]) -> Result<(), Error> {
        let mut sealed = content.to_vec();
        let (head, tail) = self.sealing.seal(kind, &mut sealed)?;
        for part in [head.as_slice(), &sealed, &tail] {
            self.unsent.extend_from_slice(part);
        }
        Ok(())
    }

    fn write_unsent(&mut self, socket: &TcpStream) -> io::Result<()> {
        let mut sent = 0;
        while sent < self.unsent.len() {
            let rest = &self.unsent[sent..];
            // Without SIGPIPE, whatever the process does with it.
            match SockRef::from(socket).send_with_flags(rest, libc::MSG_NOSIGNAL) {
                Ok(n) => sent += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) => return Err(e),
            }
        }
        self.unsent.drain(..sent);
        Ok(())
    }
}

/// Takes from `wire` what makes the record that `unread` begins whole.
fn complete(unread: &mut Vec<u8>, wire: &mut &[u8]) -> Result<(), Error> {
    while !unread.is_empty() && !wire.is_empty() {
        let missing = match head(unread)? {
            Some(len) => len.saturating_sub(unread.len()),
            None => HEAD - unread.len(),
        };
        if missing == 0 {
            break;
        }
        let (taken, rest) = wire.split_at(missing.min(wire.len()));
        unread.extend_from_slice(taken);
        *wire = rest;
    }
    Ok(())
}

/// How long the record at the front of `bytes` is, if all of it is there.
pub(super) fn whole(bytes: &[u8]) -> Result<Option<usize>, Error> {
    Ok(head(bytes)?.filter(|len| *len <= bytes.len()))
}

/// How long the record is that begins with `bytes`, if its head is there.
fn head(bytes: &[u8]) -> Result<Option<usize>, Error> {
    let Some((head, _)) = bytes.split_first_chunk::<HEAD>() else {
        return Ok(None);
    };
    // The version's second number is to be ignored (RFC 8446, 5.1).
    let [20..=23, 3, _, high, low] = *head else {
        return Err(InvalidMessage::InvalidContentType.into());
    };
    let len = usize::from(u16::from_be_bytes([high, low]));
    if len > MAX_SEALED {
        return Err(Error::PeerSentOversizedRecord);
    }
    Ok(Some(HEAD + len))
}

/// What the peer's alert means: in TLS 1.3 every one but two is an error.
fn alert(content: &[u8]) -> Result<Content, Error> {
    let [_level, what] = content else {
        return Err(InvalidMessage::MessageTooShort.into());
    };
    match AlertDescription::from(*what) {
        AlertDescription::CloseNotify => Ok(Content::Closed),
        AlertDescription::UserCanceled => Ok(Content::Nothing),
        error => Err(Error::AlertReceived(error)),
    }
}

/// What a peer is told of its error (RFC 8446, 6.2).
fn farewell(error: &Error) -> AlertDescription {
    match error {
        Error::DecryptError => AlertDescription::BadRecordMac,
        Error::PeerSentOversizedRecord => AlertDescription::RecordOverflow,
        Error::InvalidMessage(_) => AlertDescription::DecodeError,
        Error::PeerMisbehaved(_)
        | Error::InappropriateMessage { .. }
        | Error::InappropriateHandshakeMessage { .. } => AlertDescription::UnexpectedMessage,
        // Its own alert needs no answer.
        Error::AlertReceived(_) => AlertDescription::CloseNotify,
        _ => AlertDescription::InternalError,
    }
}
