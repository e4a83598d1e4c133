//! Handshakes with another implementation: openssl, which has no hybrid
//! group yet in the versions that distributions carry.

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

use crate::folder::Folder;
use crate::pki::{Ca, DB, Leaf, WEB, id};
use crate::{Talk, Us};

/// An openssl that ends with the test.
pub(crate) struct Openssl(Child);

impl Openssl {
    pub(crate) fn start(folder: &Folder, arguments: &str) -> Self {
        let child = Command::new("openssl")
            .args(arguments.split_whitespace())
            .current_dir(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
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
    /// Types a line into it, in one write: what it reads apart it takes apart.
    fn hears(&mut self, line: &str) {
        let line = format!("{line}\n");
        let stdin = self.0.stdin.as_mut().unwrap();
        stdin.write_all(line.as_bytes()).unwrap();
    }

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

/// Reads no more than that.
fn until(output: &mut impl Read, words: &str) {
    let mut said = Vec::new();
    while !said.ends_with(words.as_bytes()) {
        let mut byte = [0];
        let n = output.read(&mut byte).unwrap();
        assert!(n > 0, "{}", String::from_utf8_lossy(&said));
        said.extend(byte);
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

/// Data in both directions between changes of keys: `k` has it change its own,
/// `K` has it want ours changed too.
#[tokio::test]
async fn a_client_that_changes_keys() {
    let ca = Ca::root("root");
    let folder = written(&ca.leaf(WEB), &ca);
    let (listener, port) = listening().await;
    let arguments = format!("s_client -connect 127.0.0.1:{port} -alpn h2 {MUTUAL}");
    let mut client = Openssl::start(&folder, &arguments);
    let (dialled, _) = listener.accept().await.unwrap();
    let done = Us::new(&ca, DB).accept(dialled).await.unwrap();
    let mut us = Talk::over(done.socket, done.session);
    for how in ["k", "K", "K", "k", "K"] {
        client.hears(how);
        // A line that it reads together with the command would be lost.
        until(client.0.stderr.as_mut().unwrap(), "KEYUPDATE");
        client.hears("from there");
        assert_eq!(us.hear().unwrap(), "from there\n");
        us.say(b"from here", false);
        until(client.0.stdout.as_mut().unwrap(), "from here");
    }
}
