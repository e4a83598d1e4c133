//! Handshakes between our driver and the TLS library's own, whole connection.

use std::cell::RefCell;

use rustls::crypto::aws_lc_rs::cipher_suite::{
    TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
};
use rustls::crypto::{CryptoProvider, aws_lc_rs::default_provider};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::TLS13;
use rustls::{RootCertStore, ServerConnection, SupportedCipherSuite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::tls::exporter::{EXPORTER, Exporter, Keeper};

pub(in crate::tls) const SUITES: [SupportedCipherSuite; 3] = [
    TLS13_AES_128_GCM_SHA256,
    TLS13_AES_256_GCM_SHA384,
    TLS13_CHACHA20_POLY1305_SHA256,
];

/// Both ends' settings: one name, one cipher.
fn configs(suite: SupportedCipherSuite) -> (ClientConfig, ServerConfig) {
    let provider = Arc::new(CryptoProvider {
        cipher_suites: vec![suite],
        ..default_provider()
    });
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["peer.test".to_owned()]).unwrap();
    let cert = CertificateDer::from(params.self_signed(&key).unwrap().der().to_vec());
    let mut roots = RootCertStore::empty();
    roots.add(cert.clone()).unwrap();
    let mut client = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![cert],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    client.enable_secret_extraction = true;
    server.enable_secret_extraction = true;
    client.key_log = Arc::new(Keeper);
    (client, server)
}

fn name() -> ServerName<'static> {
    ServerName::try_from("peer.test").unwrap()
}

async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (dialled, accepted) = tokio::join!(TcpStream::connect(addr), listener.accept());
    (dialled.unwrap(), accepted.unwrap().0)
}

fn on_runtime<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .unwrap();
    runtime.block_on(future)
}

fn blocking(socket: TcpStream) -> std::net::TcpStream {
    let socket = socket.into_std().unwrap();
    socket.set_nonblocking(false).unwrap();
    socket
}

/// An end of ours: its socket, which blocks, and its session.
pub(in crate::tls) type Ours = (std::net::TcpStream, Session);

/// A connection with both ends ours: the client's and the server's.
pub(in crate::tls) fn ours(suite: SupportedCipherSuite) -> (Ours, Ours) {
    let (client, server) = configs(suite);
    on_runtime(async {
        let (dialled, accepted) = sockets().await;
        let (near, far) = tokio::join!(
            Session::connect(Arc::new(client), name(), dialled),
            Session::accept(Arc::new(server), accepted)
        );
        let (near, far) = (near.unwrap(), far.unwrap());
        ((blocking(near.0), near.1), (blocking(far.0), far.1))
    })
}

/// Our client, and the TLS library's server.
pub(in crate::tls) fn with_library(
    suite: SupportedCipherSuite,
) -> (Ours, (std::net::TcpStream, ServerConnection)) {
    let (client, server) = configs(suite);
    on_runtime(async {
        let (dialled, accepted) = sockets().await;
        let (near, far) = tokio::join!(
            Session::connect(Arc::new(client), name(), dialled),
            TlsAcceptor::from(Arc::new(server)).accept(accepted)
        );
        let (near, far) = (near.unwrap(), far.unwrap().into_inner());
        ((blocking(near.0), near.1), (blocking(far.0), far.1))
    })
}

#[test]
fn both_ends_export_what_the_library_exports() {
    for suite in SUITES {
        let (client, server) = configs(suite);
        let (near, far) = on_runtime(async {
            let (dialled, accepted) = sockets().await;
            let near = EXPORTER.scope(RefCell::new(None), async {
                let tls = UnbufferedClientConnection::new(Arc::new(client), name()).unwrap();
                let Ok(done) = shake(tls, dialled).await else {
                    panic!("no handshake");
                };
                let kept = EXPORTER.with(RefCell::take);
                let exporter = Exporter::new(done.tls.known(), kept).unwrap();
                exporter.export::<40>(b"EXPORTER-some secret").unwrap()
            });
            let far = TlsAcceptor::from(Arc::new(server)).accept(accepted);
            let (near, far) = tokio::join!(near, far);
            (near, far.unwrap().into_inner().1)
        });
        let theirs = far.export_keying_material([0; 40], b"EXPORTER-some secret", None);
        assert_eq!(near, theirs.unwrap(), "{suite:?}");
    }
}

/// Every flight comes a byte at a time.
#[test]
fn messages_come_in_any_pieces() {
    on_runtime(async {
        let (client, server) = configs(TLS13_AES_128_GCM_SHA256);
        let (dialled, mut relayed) = sockets().await;
        let (mut relaying, accepted) = sockets().await;
        let relay = async {
            let (mut near_read, mut near_write) = relayed.split();
            let (mut far_read, mut far_write) = relaying.split();
            let there = async {
                while let Ok(byte) = near_read.read_u8().await {
                    let _ = far_write.write_u8(byte).await;
                }
            };
            let back = async {
                while let Ok(byte) = far_read.read_u8().await {
                    let _ = near_write.write_u8(byte).await;
                }
            };
            tokio::join!(there, back);
        };
        let ends = async {
            let (near, far) = tokio::join!(
                Session::connect(Arc::new(client), name(), dialled),
                Session::accept(Arc::new(server), accepted)
            );
            assert!(near.is_ok() && far.is_ok());
        };
        tokio::join!(relay, ends);
    });
}
