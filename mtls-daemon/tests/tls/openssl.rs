//! Handshakes with another implementation: openssl, which has no hybrid
//! group yet in the versions that distributions carry.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use mtls_daemon::reason::Reason;
use rustls::ProtocolVersion;
use tokio::net::{TcpListener, TcpStream};

use crate::Us;
use crate::folder::Folder;
use crate::pki::{Ca, DB, Leaf, WEB, id};

/// An openssl that ends with the test.
struct Openssl(Child);

impl Openssl {
    fn start(folder: &Folder, arguments: &str) -> Self {
        let child = Command::new("openssl")
            .args(arguments.split_whitespace())
            .current_dir(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        Self(child.expect("openssl is needed: install openssl 3"))
    }

    /// The port that `s_server -accept 0` says it listens on.
    fn port(&mut self) -> u16 {
        let lines = BufReader::new(self.0.stdout.as_mut().unwrap()).lines();
        let mut lines = lines.map(|line| line.unwrap());
        let line = lines.find(|line| line.starts_with("ACCEPT")).unwrap();
        line.rsplit(':').next().unwrap().trim().parse().unwrap()
    }
}

impl Drop for Openssl {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn written(leaf: &Leaf, root: &Ca) -> Folder {
    let folder = Folder::new();
    folder.write("tls.crt", leaf.chain_pem());
    folder.write("tls.key", leaf.key_pem());
    folder.write("ca.crt", &root.pem);
    folder
}

async fn listening() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

const MUTUAL: &str = "-cert_chain tls.crt -cert tls.crt -key tls.key -CAfile ca.crt";

#[tokio::test]
async fn a_client() {
    let ca = Ca::root("root");
    let peer = ca.intermediate("second").leaf(WEB);
    let folder = written(&peer, &ca);
    let (listener, port) = listening().await;
    let _client = Openssl::start(
        &folder,
        &format!("s_client -connect 127.0.0.1:{port} -alpn h2 -verify_return_error {MUTUAL}"),
    );
    let (dialled, _) = listener.accept().await.unwrap();
    let server = Us::new(&ca, DB).accept(dialled).await.unwrap();
    assert_eq!(server.peer.id, id(WEB));
    assert_eq!(
        server.tls.protocol_version(),
        Some(ProtocolVersion::TLSv1_3)
    );
    assert!(server.facts.group.is_some());
}

#[tokio::test]
async fn a_server() {
    let ca = Ca::root("root");
    let folder = written(&ca.intermediate("second").leaf(DB), &ca);
    let mut server = Openssl::start(
        &folder,
        &format!("s_server -accept 0 -alpn h2 -Verify 1 -verify_return_error {MUTUAL}"),
    );
    let dialling = TcpStream::connect(("127.0.0.1", server.port()))
        .await
        .unwrap();
    let client = Us::new(&ca, WEB).connect(dialling, DB).await.unwrap();
    assert_eq!(client.peer.id, id(DB));
    assert_eq!(
        client.tls.protocol_version(),
        Some(ProtocolVersion::TLSv1_3)
    );
}

#[tokio::test]
async fn bad_clients() {
    let ca = Ca::root("root");
    let stranger = Ca::root("stranger");
    for (leaf, arguments, reason) in [
        (ca.leaf(WEB), "-alpn h2", Reason::NoCert),
        (
            ca.leaf(WEB),
            "-alpn h2 -tls1_2 -cert tls.crt -key tls.key",
            Reason::NoCommonVersion,
        ),
        (
            ca.leaf(WEB),
            "-cert tls.crt -key tls.key",
            Reason::NoCommonProtocol,
        ),
        (
            ca.leaf(WEB),
            "-alpn http/1.1 -cert tls.crt -key tls.key",
            Reason::NoCommonProtocol,
        ),
        (
            ca.leaf(WEB),
            "-alpn h2 -groups X448 -cert tls.crt -key tls.key",
            Reason::NoCommonGroup,
        ),
        (
            stranger.leaf(WEB),
            "-alpn h2 -cert tls.crt -key tls.key",
            Reason::UnknownIssuer,
        ),
        (
            ca.leaf(DB),
            // It believes no one: its alert arrives here.
            "-alpn h2 -cert tls.crt -key tls.key -verify_return_error",
            Reason::AlertFromPeer,
        ),
    ] {
        let folder = written(&leaf, &ca);
        let (listener, port) = listening().await;
        let connect = format!("s_client -connect 127.0.0.1:{port} {arguments}");
        let _client = Openssl::start(&folder, &connect);
        let (dialled, _) = listener.accept().await.unwrap();
        let error = Us::new(&ca, DB).accept(dialled).await.err().unwrap();
        assert_eq!(error.reason(), reason, "{arguments}: {error}");
    }
}

#[tokio::test]
async fn bad_servers() {
    let ca = Ca::root("root");
    let stranger = Ca::root("stranger");
    for (leaf, arguments, reason) in [
        (ca.leaf(DB), "-alpn h2 -tls1_2", Reason::NoCommonVersion),
        (ca.leaf(DB), "", Reason::NoCommonProtocol),
        (ca.leaf(WEB), "-alpn h2", Reason::BadSan),
        (stranger.leaf(DB), "-alpn h2", Reason::UnknownIssuer),
    ] {
        let folder = written(&leaf, &ca);
        let accept = format!("s_server -accept 0 -cert tls.crt -key tls.key {arguments}");
        let mut server = Openssl::start(&folder, &accept);
        let dialling = TcpStream::connect(("127.0.0.1", server.port()))
            .await
            .unwrap();
        let error = Us::new(&ca, WEB).connect(dialling, DB).await.err().unwrap();
        assert_eq!(error.reason(), reason, "{arguments}: {error}");
    }
}
