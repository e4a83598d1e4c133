//! Peers whose daemons know nothing of renewed certificates, as ztunnel and
//! Envoy: connections live as long as what was proved when their tunnel was
//! opened, or past that where the operator chose so. Both ends of a tunnel.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use mtls_daemon::identity::Presenter;
use mtls_daemon::reason::Reason;
use mtls_daemon::tls::{self, WorkloadTls};
use mtls_daemon::tunnel::{Carried, ConnectRequest, Stream};
use mtls_daemon::tunnels::Proved;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, spawn_local};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::pki::{Ca, DB, Leaf, WEB, in_};
use crate::{LIMIT, Stage, attackers, facts, judging, on_a_worker};

/// Of the certificate that ends first.
const LIFE: Duration = Duration::from_secs(3);

#[tokio::test]
async fn a_connection_to_it_ends_with_the_certificate_that_it_proved() {
    on_a_worker(async || {
        let ca = Ca::root("root");
        let (stage, listener) = Stage::without_peer(&ca, 1000, facts("")).await;
        let mut connection = outbound(&stage, listener, &short_lived(&ca, DB)).await;
        // Ours is renewed meanwhile, which is no help.
        stage.renew(&ca);
        connection.is_cut_in_time().await;
    })
    .await;
}

#[tokio::test]
async fn a_connection_from_it_ends_with_our_certificate() {
    on_a_worker(async || {
        let ca = Ca::root("root");
        let (stage, listener) = Stage::without_peer(&ca, 1000, facts("")).await;
        let mut connection = inbound(&stage, listener, &ca, &short_lived(&ca, DB)).await;
        connection.is_cut_in_time().await;
    })
    .await;
}

#[tokio::test]
async fn with_keep_connections_go_on_and_new_ones_do_not() {
    on_a_worker(async || {
        let keep = || facts("foreign_past_expiry = \"keep\"");
        let ca = Ca::root("root");
        let (stage, listener) = Stage::without_peer(&ca, 1000, keep()).await;
        let mut to_it = outbound(&stage, listener, &short_lived(&ca, DB)).await;
        let (other, listener) = Stage::without_peer(&ca, 1000, keep()).await;
        let mut from_it = inbound(&other, listener, &ca, &short_lived(&ca, DB)).await;
        let end = SystemTime::now() + LIFE;
        while SystemTime::now() < end + Duration::from_millis(500) {
            to_it.exchange().await;
            from_it.exchange().await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(!to_it.ended.is_finished() && !from_it.ended.is_finished());
        let refused = stage.pool.checkout(&stage.web, &stage.db).await;
        assert_eq!(refused.err().unwrap().reason, Reason::Expired);
    })
    .await;
}

fn short_lived(ca: &Ca, id: &str) -> Leaf {
    ca.leaf_with(id, |params| params.not_after = in_(LIFE))
}

/// A connection through a tunnel of ours whose other end is the `h2` crate.
struct Connection {
    /// The application at our end, as it sees its connection.
    app: TcpStream,
    send: SendStream<Bytes>,
    recv: RecvStream,
    ended: JoinHandle<Carried>,
}

impl Connection {
    async fn new(stream: Stream, send: SendStream<Bytes>, recv: RecvStream) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (app, inside) = tokio::join!(
            TcpStream::connect(listener.local_addr().unwrap()),
            listener.accept()
        );
        let inside = inside.unwrap().0;
        inside.set_zero_linger().unwrap();
        Self {
            app: app.unwrap(),
            send,
            recv,
            ended: spawn_local(stream.carry(inside.into_std().unwrap())),
        }
    }

    async fn exchange(&mut self) {
        self.app.write_all(b"ping").await.unwrap();
        let mut got = Vec::new();
        while got.len() < 4 {
            let data = self.recv.data().await.unwrap().unwrap();
            let _ = self.recv.flow_control().release_capacity(data.len());
            got.extend_from_slice(&data);
        }
        assert_eq!(got, b"ping");
        self.send
            .send_data(Bytes::from_static(b"pong"), false)
            .unwrap();
        let mut got = [0; 4];
        self.app.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"pong");
    }

    /// Reset at both ends, not before the certificate ends.
    async fn is_cut_in_time(&mut self) {
        let opened = SystemTime::now();
        self.exchange().await;
        let error = self.app.read(&mut [0]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        // Dates are in whole seconds, and some time went by before `opened`.
        let lived = opened.elapsed().unwrap();
        assert!(lived > LIFE / 3 && lived < 2 * LIFE, "{lived:?}");
        let carried = (&mut self.ended).await.unwrap();
        assert_eq!(carried.end.reason(), Reason::TunnelExpired);
        let theirs = self.recv.data().await;
        assert!(
            theirs.as_ref().is_some_and(Result::is_err),
            "a cut looks like an end to the peer: {theirs:?}"
        );
    }
}

/// The peer is the server, and its certificate is `leaf`.
async fn outbound(stage: &Stage, listener: TcpListener, leaf: &Leaf) -> Connection {
    let acceptor = TlsAcceptor::from(Arc::new(attackers::server_config(leaf.certified())));
    let (give, mut take) = tokio::sync::mpsc::unbounded_channel();
    spawn_local(async move {
        // One at a time is enough; a refused one is the test's to see.
        while let Ok((socket, _)) = listener.accept().await {
            let Ok(tls) = acceptor.accept(socket).await else {
                continue;
            };
            let give = give.clone();
            spawn_local(async move {
                let mut far = h2::server::handshake(tls).await.unwrap();
                while let Some(Ok((asked, mut respond))) = far.accept().await {
                    let answer = http::Response::new(());
                    let send = respond.send_response(answer, false).unwrap();
                    let _ = give.send((send, asked.into_body()));
                }
            });
        }
    });
    let tunnel = stage.pool.checkout(&stage.web, &stage.db).await;
    let tunnel = tunnel.unwrap().tunnel;
    let request = ConnectRequest {
        authority: SocketAddr::from(([10, 0, 2, 7], 5432)),
        forwarded: None,
        traceparent: None,
        baggage: None,
    };
    let stream = tunnel.connect(&request).await.unwrap();
    assert!(!tunnel.takes_proofs());
    let (send, recv) = take.recv().await.unwrap();
    Connection::new(stream, send, recv).await
}

/// The peer is the client, and ours is `leaf`.
async fn inbound(stage: &Stage, listener: TcpListener, ca: &Ca, leaf: &Leaf) -> Connection {
    let bundles = ca.bundles("example.org");
    let ours = WorkloadTls::new(leaf.svid(DB, &bundles), bundles.clone(), judging()).unwrap();
    let config = attackers::client_config(Some(ca.leaf(WEB).certified()));
    let dialling = async {
        let socket = TcpStream::connect(listener.local_addr().unwrap()).await;
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let tls = TlsConnector::from(Arc::new(config)).connect(name, socket.unwrap());
        tls.await.unwrap()
    };
    let accepting = async {
        let (socket, _) = listener.accept().await.unwrap();
        tls::accept(socket, ours.server(), LIMIT).await.unwrap()
    };
    let (tls, done) = tokio::join!(dialling, accepting);
    let turning = &stage.pool.tunnel_loop;
    let (tunnel, mut incoming) = turning.server(done.socket, done.session).unwrap();
    let proved = Proved {
        workload: Arc::clone(&stage.web),
        own: Arc::clone(ours.svid()),
        peer: done.peer,
        chain: done.chain,
        presenter: Presenter::Client,
        binding: done.binding,
        bundles,
    };
    let tunnels = Rc::clone(&stage.pool.tunnels);
    spawn_local(async move { tunnels.guard(tunnel, proved, |_| ()).await });

    let (mut requests, far) = h2::client::handshake(tls).await.unwrap();
    spawn_local(far);
    let asking = http::Request::connect("10.0.2.7:5432").body(()).unwrap();
    let (answer, send) = requests.send_request(asking, false).unwrap();
    let stream = incoming.next().await.unwrap().accept();
    let answer = answer.await.unwrap();
    // Its end of the tunnel lives as long as this.
    spawn_local(async move {
        let _requests = requests;
        std::future::pending::<()>().await;
    });
    Connection::new(stream, send, answer.into_body()).await
}
