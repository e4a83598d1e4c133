//! Handshakes with another implementation: openssl, which has no hybrid
//! group yet in the versions that distributions carry.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

use crate::Us;
use crate::folder::Folder;
use crate::pki::{Ca, DB, Leaf, WEB, id};

/// An openssl that ends with the test.
pub(crate) struct Openssl(Child);

impl Openssl {
    pub(crate) fn start(folder: &Folder, arguments: &str) -> Self {
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
    pub(crate) fn port(&mut self) -> u16 {
        let lines = BufReader::new(self.0.stdout.as_mut().unwrap()).lines();
        let mut lines = lines.map(|line| line.unwrap());
        let line = lines.find(|line| line.starts_with("ACCEPT")).unwrap();
        line.rsplit(':').next().unwrap().trim().parse().unwrap()
    }
}

impl Openssl {
    /// Waits until it ends by itself.
    pub(crate) async fn ended(mut self) {
        while self.0.try_wait().unwrap().is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Openssl {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn written(leaf: &Leaf, root: &Ca) -> Folder {
    let folder = Folder::new();
    folder.write("tls.crt", leaf.chain_pem());
    folder.write("tls.key", leaf.key_pem());
    folder.write("ca.crt", &root.pem);
    folder
}

pub(crate) async fn listening() -> (TcpListener, u16) {
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
}
