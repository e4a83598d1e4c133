//! The handshake's bytes. The TLS library makes and judges every message; what
//! it leaves when it is done are keys, and [`super::Records`] works with them.

#[cfg(test)]
pub(super) mod tests;

use std::io;
use std::sync::Arc;

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::kernel::KernelConnection;
use rustls::pki_types::ServerName;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus};
use rustls::{
    ClientConfig, CommonState, ConnectionTrafficSecrets, Error, ExtractedSecrets, HandshakeType,
    ServerConfig,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::failure::HandshakeFault;
use super::records;

/// What a finished handshake leaves of TLS.
pub struct Session {
    /// The keys, each with the number of its next record.
    pub(super) secrets: ExtractedSecrets,
    pub(super) schedule: Schedule,
    /// Records, or a part of one, that came behind the handshake.
    pub(super) unread: Vec<u8>,
}

impl Session {
    /// Shakes hands over `socket` as the end that dialled. Whom it proves to
    /// be what is the configuration's affair; so is secret extraction, which
    /// has to be enabled in it.
    pub async fn connect(
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
        socket: TcpStream,
    ) -> Result<(TcpStream, Self), HandshakeFault> {
        let tls = UnbufferedClientConnection::new(config, name).map_err(HandshakeFault::Tls)?;
        Self::of(Box::pin(shake(tls, socket)).await)
    }

    /// The same for the end that was dialled.
    pub async fn accept(
        config: Arc<ServerConfig>,
        socket: TcpStream,
    ) -> Result<(TcpStream, Self), HandshakeFault> {
        let tls = UnbufferedServerConnection::new(config).map_err(HandshakeFault::Tls)?;
        Self::of(Box::pin(shake(tls, socket)).await)
    }

    fn of(
        shaken: Result<Shaken<impl Unbuffered>, Failed>,
    ) -> Result<(TcpStream, Self), HandshakeFault> {
        let done = shaken.map_err(|failed| failed.fault)?;
        let session = Self::new(done.tls, done.unread).map_err(HandshakeFault::Tls)?;
        Ok((done.socket, session))
    }

    /// Of a finished handshake, and what came behind it.
    pub(super) fn new(tls: impl Unbuffered, unread: Vec<u8>) -> Result<Self, Error> {
        let (secrets, schedule) = tls.split()?;
        Ok(Self {
            secrets,
            schedule,
            unread,
        })
    }
}

/// A finished handshake, with what the TLS library knows of it.
pub(super) struct Shaken<T> {
    pub(super) socket: TcpStream,
    pub(super) tls: T,
    pub(super) unread: Vec<u8>,
}

/// A handshake that came to nothing; the peer was told if it can be.
pub(super) struct Failed {
    pub(super) fault: HandshakeFault,
    pub(super) socket: TcpStream,
}

impl Failed {
    pub(super) fn new(fault: HandshakeFault, socket: TcpStream) -> Self {
        Self { fault, socket }
    }
}

/// Makes the keys after the first ones.
pub(super) enum Schedule {
    Client(KernelConnection<ClientConnectionData>),
    Server(KernelConnection<ServerConnectionData>),
    /// Of no connection, for the fuzzer: how often each key was changed.
    #[cfg(any(test, fuzzing))]
    Known(u8, u8),
}

impl Schedule {
    /// The next keys that we seal with.
    pub(super) fn next_sealing(&mut self) -> Result<(u64, ConnectionTrafficSecrets), Error> {
        match self {
            Self::Client(keys) => keys.update_tx_secret(),
            Self::Server(keys) => keys.update_tx_secret(),
            #[cfg(any(test, fuzzing))]
            Self::Known(sealing, _) => known_after(sealing),
        }
    }

    /// The next keys that the peer seals with.
    pub(super) fn next_opening(&mut self) -> Result<(u64, ConnectionTrafficSecrets), Error> {
        match self {
            Self::Client(keys) => keys.update_rx_secret(),
            Self::Server(keys) => keys.update_rx_secret(),
            #[cfg(any(test, fuzzing))]
            Self::Known(_, opening) => known_after(opening),
        }
    }

    /// The peer offers to resume the session: the payload of its message.
    pub(super) fn ticket(&mut self, payload: &[u8]) -> Result<(), Error> {
        match self {
            Self::Client(keys) => keys.handle_new_session_ticket(payload),
            _ => Err(Error::InappropriateHandshakeMessage {
                expect_types: vec![HandshakeType::KeyUpdate],
                got_type: HandshakeType::NewSessionTicket,
            }),
        }
    }
}

#[cfg(any(test, fuzzing))]
fn known_after(changes: &mut u8) -> Result<(u64, ConnectionTrafficSecrets), Error> {
    *changes = changes.wrapping_add(1);
    Ok(records::fuzz::secrets(*changes))
}

/// The TLS library's connection of either end.
pub(super) trait Unbuffered: Sized {
    type Data;

    fn known(&self) -> &CommonState;

    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data>;

    /// After the handshake.
    fn split(self) -> Result<(ExtractedSecrets, Schedule), Error>;
}

impl Unbuffered for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn known(&self) -> &CommonState {
        self
    }

    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn split(self) -> Result<(ExtractedSecrets, Schedule), Error> {
        let (secrets, keys) = self.dangerous_into_kernel_connection()?;
        Ok((secrets, Schedule::Client(keys)))
    }
}

impl Unbuffered for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn known(&self) -> &CommonState {
        self
    }

    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn split(self) -> Result<(ExtractedSecrets, Schedule), Error> {
        let (secrets, keys) = self.dangerous_into_kernel_connection()?;
        Ok((secrets, Schedule::Server(keys)))
    }
}

/// What the TLS library wants next.
enum Next {
    /// To be asked again.
    Ask,
    /// What it has said sent.
    Send,
    /// Another record.
    Read,
    Done,
    /// To fail, after the peer is told.
    Fail(HandshakeFault),
}

/// Carries messages between `socket` and `tls` until the handshake is done.
pub(super) async fn shake<T: Unbuffered>(
    mut tls: T,
    mut socket: TcpStream,
) -> Result<Shaken<T>, Failed> {
    let mut incoming = Vec::new();
    // It sees whole records only, one more at a time: behind its last message
    // may come records that are not for it.
    let mut shown = 0;
    let mut outgoing = Vec::new();
    let fault = loop {
        let (discard, next) = ask(&mut tls, &mut incoming[..shown], &mut outgoing);
        incoming.drain(..discard);
        shown -= discard;
        let done = match next {
            Next::Ask => Ok(()),
            Next::Send => send(&mut socket, &mut outgoing).await,
            Next::Read => read_record(&mut socket, &mut incoming, &mut shown).await,
            Next::Done => {
                incoming.drain(..shown);
                incoming.shrink_to_fit();
                return Ok(Shaken {
                    socket,
                    tls,
                    unread: incoming,
                });
            }
            Next::Fail(fault) => {
                // Its alert, if it has one; who is gone cannot be told.
                while tls.known().wants_write()
                    && let (0, Next::Ask) = ask(&mut tls, &mut [], &mut outgoing)
                {}
                let _ = send(&mut socket, &mut outgoing).await;
                break fault;
            }
        };
        if let Err(error) = done {
            break HandshakeFault::of_io(error);
        }
    };
    Err(Failed { fault, socket })
}

/// What the library has to say to `incoming` goes behind `outgoing`. Returns
/// how many bytes it needs no more.
fn ask<T: Unbuffered>(tls: &mut T, incoming: &mut [u8], outgoing: &mut Vec<u8>) -> (usize, Next) {
    let UnbufferedStatus { discard, state, .. } = tls.process(incoming);
    let next = match state {
        Ok(ConnectionState::EncodeTlsData(message)) => match encode(message, outgoing) {
            Ok(()) => Next::Ask,
            Err(what) => Next::Fail(HandshakeFault::Tls(Error::General(what.to_string()))),
        },
        Ok(ConnectionState::TransmitTlsData(said)) => {
            said.done();
            Next::Send
        }
        Ok(ConnectionState::BlockedHandshake) => Next::Read,
        // A server may speak before it has heard who the client is.
        Ok(ConnectionState::WriteTraffic(_)) => Next::Done,
        Ok(_application_data_or_the_end) => Next::Fail(HandshakeFault::Eof),
        Err(error) => Next::Fail(HandshakeFault::of_tls(error)),
    };
    match next {
        Next::Done if tls.known().is_handshaking() => (discard, Next::Read),
        next => (discard, next),
    }
}

fn encode<D>(mut message: EncodeTlsData<'_, D>, outgoing: &mut Vec<u8>) -> Result<(), EncodeError> {
    let start = outgoing.len();
    let written = match message.encode(&mut []) {
        Err(EncodeError::InsufficientSize(needs)) => {
            outgoing.resize(start + needs.required_size, 0);
            message.encode(&mut outgoing[start..])?
        }
        other => other?,
    };
    outgoing.truncate(start + written);
    Ok(())
}

async fn send(socket: &mut TcpStream, outgoing: &mut Vec<u8>) -> io::Result<()> {
    let sent = socket.write_all(outgoing).await;
    outgoing.clear();
    sent
}

/// Shows one more record, reading on if no whole one is there. What is no
/// record at all is shown as it is.
async fn read_record(
    socket: &mut TcpStream,
    incoming: &mut Vec<u8>,
    shown: &mut usize,
) -> io::Result<()> {
    const READ: usize = 4_096;
    loop {
        let rest = &incoming[*shown..];
        let whole = match records::whole(rest) {
            Ok(whole) => whole,
            Err(_not_tls) => Some(rest.len()),
        };
        if let Some(len) = whole {
            *shown += len;
            return Ok(());
        }
        incoming.reserve(READ);
        if socket.read_buf(incoming).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}
