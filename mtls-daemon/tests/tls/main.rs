//! Handshakes over real sockets in one process: what passes, and each way in
//! which one does not, at either end, with the reason that operators see.

#![allow(
    clippy::large_futures,
    clippy::unwrap_used,
    reason = "a test may be large, and fails by panicking"
)]

#[path = "../support/folder.rs"]
mod folder;
#[path = "../support/pki.rs"]
mod pki;

mod attackers;
mod certificates;
mod good;
mod openssl;
mod proofs;
mod protocol;
mod reasons;
mod resumption;

use std::io::Read as _;
use std::time::Duration;

use mtls_daemon::clock::Clock;
use mtls_daemon::identity::{NewestRevocations, TrustBundles};
use mtls_daemon::tls::{self, HandshakeError, Handshaken, Judging, Records, Session};
use tokio::net::{TcpListener, TcpStream};

use pki::{Ca, DB, Leaf, id};

const LIMIT: Duration = Duration::from_secs(5);

fn judging() -> Judging {
    Judging {
        clock: Clock::system(),
        skew: Duration::ZERO,
        revocations: NewestRevocations::none(),
    }
}

/// Two connected sockets: dialling end, dialled end.
async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (dialling, dialled) = tokio::join!(
        TcpStream::connect(listener.local_addr().unwrap()),
        listener.accept()
    );
    (dialling.unwrap(), dialled.unwrap().0)
}

/// The end under test: a good workload of example.org.
struct Us {
    leaf: Leaf,
    id: &'static str,
    /// Bundles that our own certificate verifies against.
    home: TrustBundles,
    /// Bundles that peers are judged by.
    bundles: TrustBundles,
    judging: Judging,
}

impl Us {
    fn new(ca: &Ca, id: &'static str) -> Self {
        Self {
            leaf: ca.leaf(id),
            id,
            home: ca.bundles("example.org"),
            bundles: ca.bundles("example.org"),
            judging: judging(),
        }
    }

    fn trusting(self, bundles: TrustBundles) -> Self {
        Self { bundles, ..self }
    }

    async fn accept(&self, socket: TcpStream) -> Result<Handshaken, HandshakeError> {
        let svid = self.leaf.svid(self.id, &self.home);
        let config = tls::server_config(&svid, &self.bundles, &self.judging).unwrap();
        tls::accept(socket, &config, LIMIT).await
    }

    async fn connect(
        &self,
        socket: TcpStream,
        expected: &str,
    ) -> Result<Handshaken, HandshakeError> {
        let svid = self.leaf.svid(self.id, &self.home);
        let config =
            tls::client_config(&svid, &self.bundles, &id(expected), &self.judging).unwrap();
        tls::connect(socket, &config, LIMIT).await
    }
}

/// A finished handshake, put to use; calls wait.
struct Talk {
    socket: std::net::TcpStream,
    records: Records,
}

impl Talk {
    fn over(socket: std::net::TcpStream, session: Session) -> Self {
        socket.set_nonblocking(false).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        let records = Records::new(session).unwrap();
        Self { socket, records }
    }

    fn say(&mut self, bytes: &[u8], last: bool) {
        let mut bytes = bytes.to_vec();
        let left = self.records.send(&mut bytes, last, &self.socket);
        assert_eq!(left.unwrap(), 0);
    }

    /// What the peer says next.
    fn hear(&mut self) -> Result<String, rustls::Error> {
        let (mut wire, mut plain) = ([0; 1 << 10], [0; 40 << 10]);
        let mut came = 0;
        loop {
            let opened = self.records.open(&mut &wire[..came], &mut plain)?;
            if opened.plain > 0 || opened.closed {
                return Ok(String::from_utf8(plain[..opened.plain].to_vec()).unwrap());
            }
            came = self.socket.read(&mut wire).unwrap();
            assert!(came > 0, "the peer is gone");
        }
    }
}

/// What our server says of a client with this certificate.
async fn judged_as_client(us: &Us, peer: &Leaf) -> HandshakeError {
    let (dialling, dialled) = sockets().await;
    let attack = attackers::client(attackers::client_config(Some(peer.certified())), dialling);
    let (ours, _) = tokio::join!(us.accept(dialled), attack);
    ours.err().expect("the client was let in")
}

/// What our client says of a server with this certificate, where it expects
/// `expected`.
async fn judged_as_server(us: &Us, peer: &Leaf, expected: &str) -> HandshakeError {
    let (dialling, dialled) = sockets().await;
    let attack = attackers::server(attackers::server_config(peer.certified()), dialled);
    let (ours, _) = tokio::join!(us.connect(dialling, expected), attack);
    ours.err().expect("the server was believed")
}

/// Asserts that neither end takes this certificate, for the same reason.
async fn refused_by_both(us: &Us, peer: &Leaf, reason: mtls_daemon::reason::Reason) {
    let as_client = judged_as_client(us, peer).await;
    assert_eq!(as_client.reason(), reason, "as a client: {as_client}");
    let as_server = judged_as_server(us, peer, DB).await;
    assert_eq!(as_server.reason(), reason, "as a server: {as_server}");
}
