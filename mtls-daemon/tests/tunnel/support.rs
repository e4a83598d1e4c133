//! Sockets, TLS and loops for the stories.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use mtls_daemon::tls::Session;
use mtls_daemon::tunnel::{ConnectRequest, Incoming, Loop, Request, Settings, Stream, Tunnel};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// Runs a story on a thread as the daemon has them; it may not hang.
pub(crate) fn story<F: Future<Output = ()>>(story: F) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        tokio::time::timeout(Duration::from_secs(60), story)
            .await
            .expect("the story hangs");
    });
}

pub(crate) struct Tls {
    pub(crate) client: Arc<ClientConfig>,
    pub(crate) server: Arc<ServerConfig>,
    /// For other programs.
    pub(crate) cert_pem: String,
    pub(crate) key_pem: String,
}

/// One authority and one name, for both sides of every test.
pub(crate) static TLS: LazyLock<Tls> = LazyLock::new(|| {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["peer.test".to_owned()]).unwrap();
    let cert = params.self_signed(&key).unwrap();
    let (cert_pem, key_pem) = (cert.pem(), key.serialize_pem());
    let cert = CertificateDer::from(cert.der().to_vec());
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let mut roots = RootCertStore::empty();
    roots.add(cert.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut client = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.alpn_protocols = vec![b"h2".to_vec()];
    client.enable_secret_extraction = true;
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert], key)
        .unwrap();
    server.alpn_protocols = vec![b"h2".to_vec()];
    server.enable_secret_extraction = true;
    Tls {
        client: Arc::new(client),
        server: Arc::new(server),
        cert_pem,
        key_pem,
    }
});

/// Two ends of a TCP connection over loopback: who dialled, who accepted.
pub(crate) async fn tcp() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (dialled, accepted) = tokio::join!(TcpStream::connect(addr), listener.accept());
    (dialled.unwrap(), accepted.unwrap().0)
}

pub(crate) type ClientTls = tokio_rustls::client::TlsStream<TcpStream>;
pub(crate) type ServerTls = tokio_rustls::server::TlsStream<TcpStream>;

/// A foreign client, and the socket that it is shaking hands over.
pub(crate) async fn client_tls(socket: TcpStream) -> ClientTls {
    let connector = TlsConnector::from(Arc::clone(&TLS.client));
    connector.connect(name(), socket).await.unwrap()
}

pub(crate) async fn server_tls(socket: TcpStream) -> ServerTls {
    let acceptor = TlsAcceptor::from(Arc::clone(&TLS.server));
    acceptor.accept(socket).await.unwrap()
}

fn name() -> ServerName<'static> {
    ServerName::try_from("peer.test").unwrap()
}

/// A tunnel of ours to a foreign server.
pub(crate) async fn client_of(turning: &Loop) -> (Tunnel, ServerTls) {
    let (dialled, accepted) = tcp().await;
    tokio::join!(client_on(turning, dialled), server_tls(accepted))
}

/// A tunnel of ours that a foreign client has opened.
pub(crate) async fn server_of(turning: &Loop) -> (ClientTls, (Tunnel, Incoming)) {
    let (dialled, accepted) = tcp().await;
    tokio::join!(client_tls(dialled), server_on(turning, accepted))
}

/// A loop that runs until the story ends.
pub(crate) fn new_loop(settings: Settings) -> Loop {
    let turning = Loop::new(settings).unwrap();
    let running = turning.clone();
    tokio::task::spawn_local(async move {
        let e = running.run().await;
        panic!("the loop has stopped: {e}");
    });
    turning
}

/// A tunnel of ours over `socket`, to whoever accepted it.
pub(crate) async fn client_on(turning: &Loop, socket: TcpStream) -> Tunnel {
    let shaken = Session::connect(Arc::clone(&TLS.client), name(), socket).await;
    let (socket, session) = shaken.unwrap();
    turning.client(socket.into_std().unwrap(), session).unwrap()
}

/// A tunnel of ours over `socket`, from whoever dialled it.
pub(crate) async fn server_on(turning: &Loop, socket: TcpStream) -> (Tunnel, Incoming) {
    let shaken = Session::accept(Arc::clone(&TLS.server), socket).await;
    let (socket, session) = shaken.unwrap();
    turning.server(socket.into_std().unwrap(), session).unwrap()
}

/// Two daemons' worth of loops with one tunnel between them.
pub(crate) struct Pair {
    pub(crate) near_loop: Loop,
    pub(crate) far_loop: Loop,
    pub(crate) near: Tunnel,
    pub(crate) far: Tunnel,
    pub(crate) incoming: Incoming,
}

pub(crate) async fn pair() -> Pair {
    pair_with(Settings::default(), Settings::default()).await
}

pub(crate) async fn pair_with(near: Settings, far: Settings) -> Pair {
    let (near_loop, far_loop) = (new_loop(near), new_loop(far));
    let (dialled, accepted) = tcp().await;
    let (near, (far, incoming)) = tokio::join!(
        client_on(&near_loop, dialled),
        server_on(&far_loop, accepted)
    );
    Pair {
        near_loop,
        far_loop,
        near,
        far,
        incoming,
    }
}

impl Pair {
    /// A stream that both sides agreed on.
    pub(crate) async fn stream(&mut self) -> (Stream, Stream) {
        let head = request();
        let (near, far) = tokio::join!(self.near.connect(&head), async {
            self.incoming.next().await.unwrap().accept()
        });
        (near.unwrap(), far)
    }

    /// A request that waits at the far side, and who waits for it here.
    pub(crate) async fn asked(
        &mut self,
    ) -> (
        tokio::task::JoinHandle<Result<Stream, mtls_daemon::tunnel::ConnectError>>,
        Request,
    ) {
        let near = self.near.clone();
        let asking = tokio::task::spawn_local(async move { near.connect(&request()).await });
        (asking, self.incoming.next().await.unwrap())
    }

    /// A carried flow: the client application, the server application, and
    /// how either side says that it ended.
    pub(crate) async fn flow(&mut self) -> Flow {
        let (near, far) = self.stream().await;
        let (client, near_app) = app().await;
        let (server, far_app) = app().await;
        Flow {
            client,
            server,
            near: near.carry(near_app),
            far: far.carry(far_app),
        }
    }
}

pub(crate) struct Flow {
    pub(crate) client: TcpStream,
    pub(crate) server: TcpStream,
    pub(crate) near: mtls_daemon::tunnel::Carry,
    pub(crate) far: mtls_daemon::tunnel::Carry,
}

pub(crate) fn request() -> ConnectRequest {
    ConnectRequest {
        authority: SocketAddr::from(([10, 0, 2, 7], 5432)),
        forwarded: Some(SocketAddr::from(([10, 0, 1, 4], 41022))),
        traceparent: None,
        baggage: None,
    }
}

/// An application's connection: its own end, and the daemon's as the tunnel
/// wants it.
pub(crate) async fn app() -> (TcpStream, std::net::TcpStream) {
    let (outside, inside) = tcp().await;
    outside.set_nodelay(true).unwrap();
    (outside, daemons_end(inside))
}

pub(crate) fn daemons_end(socket: TcpStream) -> std::net::TcpStream {
    let socket = socket.into_std().unwrap();
    socket2::SockRef::from(&socket)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    socket.set_nodelay(true).unwrap();
    socket
}

/// Makes the application reset its connection.
pub(crate) fn reset(app: TcpStream) {
    let app = app.into_std().unwrap();
    socket2::SockRef::from(&app)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
}

/// The error that ends reading, which must not be an orderly end.
pub(crate) async fn read_error(app: &mut TcpStream) -> io::ErrorKind {
    let mut buf = vec![0; 65_536];
    loop {
        match app.read(&mut buf).await {
            Ok(0) => panic!("an orderly end instead of a reset"),
            Ok(_) => {}
            Err(e) => return e.kind(),
        }
    }
}

/// Bytes that repeat late enough to show any that were swapped.
pub(crate) fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut x = seed | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        bytes.extend_from_slice(&x.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// One request and its answer, to show that a flow moves.
pub(crate) async fn ping_pong(client: &mut TcpStream, server: &mut TcpStream) {
    let mut buf = [0; 4];
    client.write_all(b"ping").await.unwrap();
    server.read_exact(&mut buf).await.unwrap();
    assert_eq!(&buf, b"ping");
    server.write_all(b"pong").await.unwrap();
    client.read_exact(&mut buf).await.unwrap();
    assert_eq!(&buf, b"pong");
}
