//! The handshake at either end: from a connected socket to a socket, a TLS
//! connection and a peer that has proved who it is.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::UnbufferedServerConnection;
use rustls::{CommonState, HandshakeKind, NamedGroup};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::ALPN;
use super::exporter::{EXPORTER, Exporter};
use super::failure::{HandshakeError, HandshakeFault};
use super::proof::Binding;
use super::session::{self, Failed, Session, Shaken, Unbuffered};
use super::verifier::{FINDING, Finding};
use super::{ClientSettings, ServerSettings};
use crate::identity::{PeerFault, PeerSvid};

/// A finished handshake.
pub struct Handshaken {
    /// Non-blocking.
    pub socket: std::net::TcpStream,
    pub session: Session,
    pub peer: PeerSvid,
    /// What the peer proved it by, leaf first: it is judged again when what it
    /// is judged by changes.
    pub chain: Vec<CertificateDer<'static>>,
    /// For proofs of renewed certificates.
    pub binding: Binding,
    pub facts: Facts,
}

/// For the handshake metrics. The version is always 1.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    pub group: Option<NamedGroup>,
    pub resumed: bool,
    pub took: Duration,
}

/// How long a refused peer gets to read its alert, and how much of what it
/// sent meanwhile is read and dropped. Closing a socket with unread data
/// sends a RST, which overtakes the alert.
const PARTING: Duration = Duration::from_millis(250);
const PARTING_BYTES: usize = 64 * 1024;

/// A handshake's future holds the connection's whole state, several times over.
type Boxed<F> = Pin<Box<F>>;

/// Opens TLS over `socket`, as the end that dialled. The peer may yet refuse
/// our certificate: see [`super::reason_of`].
pub async fn connect(
    socket: TcpStream,
    settings: &ClientSettings,
    limit: Duration,
) -> Result<Handshaken, HandshakeError> {
    let judge = |chain: &[CertificateDer<'_>]| settings.verifier.judge(chain);
    let handshake = Box::pin(async {
        let peer = match socket.peer_addr() {
            Ok(peer) => peer.ip().to_canonical(),
            Err(error) => return Err(Failed::new(HandshakeFault::Io(error), socket)),
        };
        let name = ServerName::IpAddress(peer.into());
        match UnbufferedClientConnection::new(Arc::clone(&settings.config), name) {
            Ok(tls) => session::shake(tls, socket).await,
            Err(error) => Err(Failed::new(HandshakeFault::Tls(error), socket)),
        }
    });
    shake(limit, judge, handshake).await
}

/// Takes TLS over `socket`, as the end that was dialled.
pub async fn accept(
    socket: TcpStream,
    settings: &ServerSettings,
    limit: Duration,
) -> Result<Handshaken, HandshakeError> {
    let judge = |chain: &[CertificateDer<'_>]| settings.verifier.judge(chain);
    let handshake = Box::pin(async {
        match UnbufferedServerConnection::new(Arc::clone(&settings.config)) {
            Ok(tls) => session::shake(tls, socket).await,
            Err(error) => Err(Failed::new(HandshakeFault::Tls(error), socket)),
        }
    });
    shake(limit, judge, handshake).await
}

async fn shake<T: Unbuffered>(
    limit: Duration,
    judge: impl Fn(&[CertificateDer<'_>]) -> Result<PeerSvid, PeerFault>,
    handshake: Boxed<impl Future<Output = Result<Shaken<T>, Failed>>>,
) -> Result<Handshaken, HandshakeError> {
    let began = Instant::now();
    let deadline = began + limit;
    let watched = EXPORTER.scope(RefCell::new(None), async {
        let watched = FINDING.scope(RefCell::new(None), async {
            let done = timeout_at(deadline, handshake).await;
            (done, FINDING.with(RefCell::take))
        });
        let (done, finding) = watched.await;
        (done, finding, EXPORTER.with(RefCell::take))
    });
    let (done, mut finding, exporter) = watched.await;
    if let Ok(Ok(Shaken { tls, .. })) = &done
        && tls.known().handshake_kind() == Some(HandshakeKind::Resumed)
    {
        // From the ticket: nobody has looked at it since that was made.
        let chain = tls.known().peer_certificates().unwrap_or_default();
        finding = chain.first().map(|leaf| match judge(chain) {
            Ok(peer) => Finding::Proved(peer),
            Err(fault) => Finding::refused(fault, leaf),
        });
    }
    let failed = |fault, presented| HandshakeError {
        fault,
        presented,
        took: began.elapsed(),
    };

    match (done, finding) {
        (Ok(Ok(shaken)), Some(Finding::Proved(peer))) => {
            let known = shaken.tls.known();
            if known.alpn_protocol() != Some(ALPN) {
                return Err(failed(HandshakeFault::Protocol, None));
            }
            let facts = Facts::of(known, began.elapsed());
            let chain = known.peer_certificates().unwrap_or_default();
            let chain = chain.iter().map(|one| one.clone().into_owned()).collect();
            let binding = Exporter::new(known, exporter)
                .and_then(|exporter| Binding::of(&exporter).ok())
                .ok_or_else(|| {
                    let what = "a handshake ended without a secret to bind proofs to";
                    failed(HandshakeFault::Internal(what), None)
                })?;
            let session = Session::new(shaken.tls, shaken.unread)
                .map_err(|error| failed(HandshakeFault::Tls(error), None))?;
            let socket = shaken
                .socket
                .into_std()
                .map_err(|error| failed(HandshakeFault::Io(error), None))?;
            Ok(Handshaken {
                socket,
                session,
                peer,
                chain,
                binding,
                facts,
            })
        }
        // The ticket is right, and what it brings back does not count any more.
        (Ok(Ok(_)), Some(Finding::Refused { fault, presented })) => {
            Err(failed(HandshakeFault::Peer(fault), Some(presented)))
        }
        (Ok(Ok(_)), None) => Err(failed(
            HandshakeFault::Internal("a handshake ended without a verified peer"),
            None,
        )),
        (Ok(Err(Failed { socket, .. })), Some(Finding::Refused { fault, presented })) => {
            part(socket, deadline).await;
            Err(failed(HandshakeFault::Peer(fault), Some(presented)))
        }
        (Ok(Err(Failed { fault, socket })), _) => {
            if fault.was_told() {
                part(socket, deadline).await;
            }
            Err(failed(fault, None))
        }
        (Err(_elapsed), _) => Err(failed(HandshakeFault::Timeout(limit), None)),
    }
}

/// Lets a refused peer read its alert before the socket closes.
async fn part(mut socket: TcpStream, deadline: Instant) {
    let deadline = deadline.min(Instant::now() + PARTING);
    let _ = timeout_at(deadline, async {
        socket.shutdown().await?;
        let mut left = PARTING_BYTES;
        let mut dropped = vec![0; 4096];
        while left > 0 {
            match socket.read(&mut dropped).await? {
                0 => break,
                n => left = left.saturating_sub(n),
            }
        }
        io::Result::Ok(())
    })
    .await;
}

impl Facts {
    fn of(tls: &CommonState, took: Duration) -> Self {
        Self {
            group: tls
                .negotiated_key_exchange_group()
                .map(|group| group.name()),
            resumed: tls.handshake_kind() == Some(HandshakeKind::Resumed),
            took,
        }
    }
}
