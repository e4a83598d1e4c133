//! The handshake at either end: from a connected socket to a socket, a TLS
//! connection and a peer that has proved who it is.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConnection, CommonState, HandshakeKind, NamedGroup, ServerConnection};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::ALPN;
use super::failure::{HandshakeError, HandshakeFault};
use super::proof::Binding;
use super::verifier::{FINDING, Finding};
use super::{ClientSettings, ServerSettings};
use crate::identity::{PeerFault, PeerSvid};

/// A finished handshake.
pub struct Handshaken<C> {
    /// Non-blocking.
    pub socket: std::net::TcpStream,
    /// May hold plaintext already.
    pub tls: C,
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
) -> Result<Handshaken<ClientConnection>, HandshakeError> {
    let name = socket
        .peer_addr()
        .map(|addr| ServerName::IpAddress(addr.ip().to_canonical().into()));
    let judge = |chain: &[CertificateDer<'_>]| settings.verifier.judge(chain);
    let handshake = Box::pin(async {
        let name = match name {
            Ok(name) => name,
            Err(error) => return Err((error, socket)),
        };
        let tls = TlsConnector::from(Arc::clone(&settings.config))
            .connect(name, socket)
            .into_fallible()
            .await?;
        Ok(tls.into_inner())
    });
    shake(limit, judge, handshake).await
}

/// Takes TLS over `socket`, as the end that was dialled.
pub async fn accept(
    socket: TcpStream,
    settings: &ServerSettings,
    limit: Duration,
) -> Result<Handshaken<ServerConnection>, HandshakeError> {
    let judge = |chain: &[CertificateDer<'_>]| settings.verifier.judge(chain);
    let handshake = Box::pin(async {
        let tls = TlsAcceptor::from(Arc::clone(&settings.config))
            .accept(socket)
            .into_fallible()
            .await?;
        Ok(tls.into_inner())
    });
    shake(limit, judge, handshake).await
}

async fn shake<C, D>(
    limit: Duration,
    judge: impl Fn(&[CertificateDer<'_>]) -> Result<PeerSvid, PeerFault>,
    handshake: Boxed<impl Future<Output = Result<(TcpStream, C), (io::Error, TcpStream)>>>,
) -> Result<Handshaken<C>, HandshakeError>
where
    C: Deref<Target = rustls::ConnectionCommon<D>>,
{
    let began = Instant::now();
    let deadline = began + limit;
    let watched = FINDING.scope(RefCell::new(None), async {
        let done = timeout_at(deadline, handshake).await;
        (done, FINDING.with(RefCell::take))
    });
    let (done, mut finding) = watched.await;
    if let Ok(Ok((_, tls))) = &done
        && tls.handshake_kind() == Some(HandshakeKind::Resumed)
    {
        // From the ticket: nobody has looked at it since that was made.
        let chain = tls.peer_certificates().unwrap_or_default();
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
        (Ok(Ok((socket, tls))), Some(Finding::Proved(peer))) => {
            if tls.alpn_protocol() != Some(ALPN) {
                return Err(failed(HandshakeFault::Protocol, None));
            }
            let facts = Facts::of(&tls, began.elapsed());
            let chain = tls.peer_certificates().unwrap_or_default();
            let chain = chain.iter().map(|one| one.clone().into_owned()).collect();
            let binding =
                Binding::of(&tls).map_err(|error| failed(HandshakeFault::Tls(error), None))?;
            let socket = socket
                .into_std()
                .map_err(|error| failed(HandshakeFault::Io(error), None))?;
            Ok(Handshaken {
                socket,
                tls,
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
        (Ok(Err((_, socket))), Some(Finding::Refused { fault, presented })) => {
            part(socket, deadline).await;
            Err(failed(HandshakeFault::Peer(fault), Some(presented)))
        }
        (Ok(Err((error, socket))), _) => {
            let fault = HandshakeFault::of_io(error);
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
