//! Every reason why a handshake fails, each by a real bad peer at either end:
//! openssl where it can misbehave in that way, a bare socket where not.

use std::time::Duration;

use mtls_daemon::reason::{Reason, Use};
use mtls_daemon::tls;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::folder::Folder;
use crate::openssl::{Openssl, listening, written};
use crate::pki::{Ca, DB, HOUR, Leaf, WEB, bundle, id, in_, since};
use crate::resumption::revoking;
use crate::{LIMIT, Us};

#[tokio::test]
async fn of_clients() {
    for reason in all() {
        let stage = Stage::new();
        let server = stage.us(WEB);
        let svid = server.leaf.svid(WEB, &server.home);
        let server = tls::server_config(&svid, &server.bundles, &server.judging).unwrap();
        let (listener, port) = listening().await;
        let _openssl = match stage.bad(reason, End::Client) {
            Bad::Openssl(folder, options) => {
                let connect = format!("s_client -connect 127.0.0.1:{port} {options}");
                let openssl = Openssl::start(&folder, &connect);
                Some((folder, openssl))
            }
            Bad::Bare => {
                let socket = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                tokio::spawn(bare(reason, End::Client, socket));
                None
            }
        };
        let (dialled, _) = listener.accept().await.unwrap();
        let error = tls::accept(dialled, &server, limit(reason)).await;
        let error = error.err().unwrap_or_else(|| panic!("{reason}: let in"));
        assert_eq!(error.reason(), reason, "{error}");
    }
}

#[tokio::test]
async fn of_servers() {
    // A server of TLS 1.3 has a certificate, and it is the server that looks
    // for a common group: its alert is all that there is to hear.
    let of_clients_alone = [Reason::NoCert, Reason::NoCommonGroup];
    for reason in all().filter(|reason| !of_clients_alone.contains(reason)) {
        let stage = Stage::new();
        let client = stage.us(WEB);
        let svid = client.leaf.svid(WEB, &client.home);
        let client = tls::client_config(&svid, &client.bundles, &id(DB), &client.judging).unwrap();
        let (listener, mut port) = listening().await;
        let _openssl = match stage.bad(reason, End::Server) {
            Bad::Openssl(folder, options) => {
                let accept = format!("s_server -accept 0 {options}");
                let mut openssl = Openssl::start(&folder, &accept);
                port = openssl.port();
                Some((folder, openssl))
            }
            Bad::Bare => {
                tokio::spawn(async move {
                    let (socket, _) = listener.accept().await.unwrap();
                    bare(reason, End::Server, socket).await;
                });
                None
            }
        };
        let dialling = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let error = tls::connect(dialling, &client, limit(reason)).await;
        let error = error.err().unwrap_or_else(|| panic!("{reason}: believed"));
        assert_eq!(error.reason(), reason, "{error}");
    }
}

/// What no peer can bring about is a fault of our own.
fn all() -> impl Iterator<Item = Reason> {
    let all = Reason::ALL.iter().copied();
    all.filter(|reason| reason.uses().contains(&Use::Handshake) && *reason != Reason::Internal)
}

fn limit(reason: Reason) -> Duration {
    match reason {
        Reason::Timeout => Duration::from_millis(100),
        _ => LIMIT,
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Client,
    Server,
}

enum Bad {
    /// With its certificate there, and these options.
    Openssl(Folder, &'static str),
    Bare,
}

/// Two authorities of example.org, of which one publishes what it revoked.
struct Stage {
    root: Ca,
    silent: Ca,
    revoked: Leaf,
}

impl Stage {
    fn new() -> Self {
        let root = Ca::root("root");
        Self {
            revoked: root.leaf(DB),
            silent: Ca::root("silent"),
            root,
        }
    }

    fn us(&self, id: &'static str) -> Us {
        let mut us = Us::new(&self.root, id);
        us.bundles = [bundle("example.org", &[&self.root, &self.silent])]
            .into_iter()
            .collect();
        let revocations = revoking(&self.root, &[&self.revoked]);
        us.judging.revocations = (*revocations).clone().into();
        us
    }

    fn bad(&self, reason: Reason, end: End) -> Bad {
        let at = |leaf: &Leaf, options| Bad::Openssl(written(leaf, &self.root), options);
        let with = |leaf: &Leaf| at(leaf, "-alpn h2 -cert tls.crt -key tls.key");
        let good = self.root.leaf(DB);
        let but = |change: fn(&mut CertificateParams)| with(&self.root.leaf_with(DB, change));
        match (reason, end) {
            (Reason::Expired, _) => but(|params| params.not_after = since(HOUR / 2)),
            (Reason::NotYetValid, _) => but(|params| params.not_before = in_(HOUR / 2)),
            (Reason::UnknownIssuer, _) => with(&Ca::root("stranger").leaf(DB)),
            (Reason::Revoked, _) => with(&self.revoked),
            (Reason::RevocationUnknown, _) => with(&self.silent.leaf(DB)),
            (Reason::BadSan, _) => with(&self.root.leaf("https://example.org/db")),
            (Reason::TrustDomain, _) => with(&self.root.leaf("spiffe://other.test/db")),
            (Reason::BadEku, _) => {
                but(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any])
            }
            (Reason::BadChain, _) => {
                but(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained))
            }
            (Reason::NoCert, _) => at(&good, "-alpn h2"),
            (Reason::NoCommonVersion, _) => {
                at(&good, "-alpn h2 -tls1_2 -cert tls.crt -key tls.key")
            }
            (Reason::NoCommonProtocol, _) => at(&good, "-cert tls.crt -key tls.key"),
            (Reason::NoCommonGroup, _) | (Reason::AlertFromPeer, End::Server) => {
                at(&good, "-alpn h2 -groups X448 -cert tls.crt -key tls.key")
            }
            // It believes nobody.
            (Reason::AlertFromPeer, End::Client) => at(
                &good,
                "-alpn h2 -verify_return_error -cert tls.crt -key tls.key",
            ),
            (Reason::NotTls | Reason::Eof | Reason::Io | Reason::Timeout, _) => Bad::Bare,
            (other, _) => unreachable!("no peer here fails for {other}"),
        }
    }
}

/// Something that knows no TLS, and fails the handshake for `reason`.
async fn bare(reason: Reason, end: End, mut socket: TcpStream) {
    match reason {
        Reason::NotTls => socket.write_all(b"SSH-2.0-OpenSSH_9.9\r\n").await.unwrap(),
        // The whole ClientHello, or closing would reset the connection.
        Reason::Eof if end == End::Server => {
            let _ = socket.read(&mut vec![0; 64 * 1024]).await;
        }
        Reason::Io => socket.set_zero_linger().unwrap(),
        _ => {}
    }
    if matches!(reason, Reason::NotTls | Reason::Timeout) {
        let _ = socket.read_to_end(&mut Vec::new()).await;
    }
}
