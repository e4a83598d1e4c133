//! A TLS 1.3 handshake alone, both sides verified, with the library and the
//! settings of our daemon, and nothing else: what a first connection cannot do
//! without. And one that no server accepts.

use std::io::{self, Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use mtls_tests::deadline::Stopwatch;
use mtls_tests::mesh::Leaf;
use mtls_tests::{Doing, Error, Result};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, ServerConfig,
    ServerConnection, SignatureScheme,
};

/// Ends a handshake: the client has been verified when it comes.
const DONE: u8 = b'.';

/// The certificate files as words of the command line.
pub(crate) fn words(leaf: &Leaf) -> [String; 3] {
    [&leaf.certificate, &leaf.key, &leaf.bundle].map(|path| path.display().to_string())
}

/// Takes handshakes, one after the other, until it is killed.
pub(crate) fn serve(port: &str, certificate: &str, key: &str, bundle: &str) -> Result {
    let files = Files::read(certificate, key, bundle)?;
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::clone(&files.roots), provider())
            .build()
            .map_err(|e| Error::Unexpected(format!("a verifier of clients: {e}")))?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(tls)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(files.chain, files.key)
        .map_err(tls)?;
    config.send_tls13_tickets = 0;
    let config = Arc::new(config);
    let port = port.parse().map_err(|e| Error::Unreadable {
        what: format!("the port {port:?}"),
        why: format!("{e}"),
    })?;
    let listener = TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))
        .doing(|| "listening for handshakes")?;
    loop {
        let (socket, _) = listener.accept().doing(|| "accepting")?;
        // A handshake that fails is seen at its client.
        let _ = answer(&socket, &config);
    }
}

fn answer(mut socket: &TcpStream, config: &Arc<ServerConfig>) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let mut tls = ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?;
    tls.complete_io(&mut socket)?;
    tls.writer().write_all(&[DONE])?;
    tls.complete_io(&mut socket)?;
    // The client closes first.
    socket.read(&mut [0; 64]).map(drop)
}

/// Makes a few, and prints the microseconds of each but the first, whose code
/// and data are not in any cache.
pub(crate) fn run(to: &str, certificate: &str, key: &str, bundle: &str) -> Result {
    const COUNT: usize = 6;
    let (to, config) = (address(to)?, client(certificate, key, bundle)?);
    for nth in 0..COUNT {
        let took = once(to, &config).doing(|| "a handshake")?;
        if nth > 0 {
            println!("{}", took.as_secs_f64() * 1e6);
        }
    }
    Ok(())
}

/// Tries that many a second, whatever comes of them, until it is killed.
pub(crate) fn strangers(
    to: &str,
    a_second: &str,
    certificate: &str,
    key: &str,
    bundle: &str,
) -> Result {
    let (to, config) = (address(to)?, client(certificate, key, bundle)?);
    let a_second: f64 = a_second.parse().map_err(|e| Error::Unreadable {
        what: format!("the rate {a_second:?}"),
        why: format!("{e}"),
    })?;
    let pace = Duration::from_secs_f64(1.0 / a_second);
    let clock = Stopwatch::start();
    for nth in 1_u32.. {
        // Refused is what they are to be.
        let _ = once(to, &config);
        std::thread::park_timeout((pace * nth).saturating_sub(clock.elapsed()));
    }
    Ok(())
}

/// From the first byte of TLS to the first of the server's answer.
fn once(to: SocketAddr, config: &Arc<ClientConfig>) -> io::Result<Duration> {
    let mut socket = TcpStream::connect(to)?;
    socket.set_nodelay(true)?;
    let name = ServerName::from(to.ip());
    let clock = Stopwatch::start();
    let mut tls = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
    tls.complete_io(&mut socket)?;
    let mut done = [0];
    loop {
        match tls.reader().read(&mut done) {
            Ok(1) => return Ok(clock.elapsed()),
            Ok(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                tls.read_tls(&mut socket)?;
                tls.process_new_packets().map_err(io::Error::other)?;
            }
            Err(error) => return Err(error),
        }
    }
}

fn client(certificate: &str, key: &str, bundle: &str) -> Result<Arc<ClientConfig>> {
    let files = Files::read(certificate, key, bundle)?;
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(tls)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(ByRoots(files.roots)))
        .with_client_auth_cert(files.chain, files.key)
        .map_err(tls)?;
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

struct Files {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    roots: Arc<RootCertStore>,
}

impl Files {
    fn read(certificate: &str, key: &str, bundle: &str) -> Result<Self> {
        let all = |file: &str| -> Result<Vec<CertificateDer<'static>>> {
            CertificateDer::pem_file_iter(file)
                .and_then(Iterator::collect)
                .map_err(|e| unreadable(file, &e))
        };
        let mut roots = RootCertStore::empty();
        for root in all(bundle)? {
            roots.add(root).map_err(tls)?;
        }
        Ok(Self {
            chain: all(certificate)?,
            key: PrivateKeyDer::from_pem_file(key).map_err(|e| unreadable(key, &e))?,
            roots: Arc::new(roots),
        })
    }
}

/// Our certificates name no host: the chain to the root is what is verified.
#[derive(Debug)]
struct ByRoots(Arc<RootCertStore>);

impl ServerCertVerifier for ByRoots {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
        verify_server_cert_signed_by_trust_anchor(
            &certificate,
            &self.0,
            intermediates,
            now,
            algorithms.all,
        )?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.3 alone is spoken".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

fn address(word: &str) -> Result<SocketAddr> {
    word.parse().map_err(|e| Error::Unreadable {
        what: format!("the address {word:?}"),
        why: format!("{e}"),
    })
}

fn unreadable(file: &str, why: &dyn std::fmt::Display) -> Error {
    Error::Unreadable {
        what: file.to_owned(),
        why: why.to_string(),
    }
}

fn tls(error: rustls::Error) -> Error {
    Error::Unexpected(format!("preparing TLS: {error}"))
}
