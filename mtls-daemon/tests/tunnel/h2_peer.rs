//! The `h2` crate at the other end, as client and as server.

use std::io::ErrorKind;

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http::{Method, StatusCode, Version};
use mtls_daemon::tunnel::{CarryEnd, ConnectError, Incoming, Loop, Settings, Tunnel, TunnelEnd};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::spawn_local;

use crate::support::*;

const MIB: usize = 1 << 20;

/// An `h2` client on a tunnel of ours. Its connection runs by itself.
struct Client {
    requests: h2::client::SendRequest<Bytes>,
    turning: Loop,
    tunnel: Tunnel,
    incoming: Incoming,
}

async fn h2_client(builder: &h2::client::Builder, settings: Settings) -> Client {
    let turning = new_loop(settings);
    let (near, (tunnel, incoming)) = server_of(&turning).await;
    let (requests, connection) = builder.handshake(near).await.unwrap();
    spawn_local(connection);
    Client {
        requests,
        turning,
        tunnel,
        incoming,
    }
}

impl Client {
    fn ask(&mut self) -> (h2::client::ResponseFuture, SendStream<Bytes>) {
        self.requests.send_request(connect(), false).unwrap()
    }

    /// A flow to an application of ours.
    async fn flow(&mut self) -> ClientFlow {
        self.requests = self.requests.clone().ready().await.unwrap();
        let (answer, send) = self.ask();
        let asked = self.incoming.next().await.unwrap();
        assert_eq!(asked.head(), &request());
        let (server, far_app) = app().await;
        let carry = asked.accept().carry(far_app);
        let answer = answer.await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        ClientFlow {
            send,
            recv: answer.into_body(),
            server,
            carry,
        }
    }
}

struct ClientFlow {
    send: SendStream<Bytes>,
    recv: RecvStream,
    server: tokio::net::TcpStream,
    carry: mtls_daemon::tunnel::Carry,
}

fn connect() -> http::Request<()> {
    http::Request::builder()
        .method(Method::CONNECT)
        .uri("10.0.2.7:5432")
        .version(Version::HTTP_2)
        .header("forwarded", r#"for="10.0.1.4:41022""#)
        .body(())
        .unwrap()
}

async fn send_all(send: &mut SendStream<Bytes>, mut bytes: Bytes, end: bool) {
    while !bytes.is_empty() {
        send.reserve_capacity(bytes.len());
        let n = std::future::poll_fn(|cx| send.poll_capacity(cx))
            .await
            .expect("the stream is open")
            .unwrap();
        send.send_data(bytes.split_to(n.min(bytes.len())), false)
            .unwrap();
    }
    if end {
        send.send_data(Bytes::new(), true).unwrap();
    }
}

async fn recv_all(recv: &mut RecvStream) -> Vec<u8> {
    let mut all = vec![];
    while let Some(data) = recv.data().await {
        let data = data.unwrap();
        recv.flow_control().release_capacity(data.len()).unwrap();
        all.extend_from_slice(&data);
    }
    all
}

/// An `h2` server at the other end of a tunnel of ours: echoes every stream.
async fn echo_peer(builder: &h2::server::Builder, settings: Settings) -> Tunnel {
    let turning = new_loop(settings);
    let (tunnel, far) = client_of(&turning).await;
    let builder = builder.clone();
    spawn_local(async move {
        let mut connection = builder.handshake::<_, Bytes>(far).await.unwrap();
        while let Some(Ok((asked, mut respond))) = connection.accept().await {
            assert_eq!(asked.method(), Method::CONNECT);
            assert_eq!(asked.uri().authority().unwrap(), "10.0.2.7:5432");
            spawn_local(async move {
                let mut recv = asked.into_body();
                let mut send = respond
                    .send_response(http::Response::new(()), false)
                    .unwrap();
                while let Some(data) = recv.data().await {
                    let Ok(data) = data else { return };
                    let _ = recv.flow_control().release_capacity(data.len());
                    send_all(&mut send, data, false).await;
                }
                send.send_data(Bytes::new(), true).unwrap();
            });
        }
    });
    tunnel
}

async fn echo_through(tunnel: &Tunnel, len: usize) {
    let mut tasks = vec![];
    for n in 0..8 {
        let tunnel = tunnel.clone();
        tasks.push(spawn_local(async move {
            let stream = tunnel.connect(&request()).await.unwrap();
            let (mut client, near_app) = app().await;
            let carry = stream.carry(near_app);
            let bytes = pattern(len, n);
            let (mut read, mut write) = client.split();
            let mut got = vec![];
            tokio::join!(
                async {
                    write.write_all(&bytes).await.unwrap();
                    write.shutdown().await.unwrap();
                },
                async { read.read_to_end(&mut got).await.unwrap() }
            );
            assert!(got == bytes, "stream {n} came back changed");
            let carried = carry.await;
            assert!(matches!(carried.end, CarryEnd::Done), "{carried:?}");
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
}

async fn echo_from(client: &mut Client, len: usize) {
    let mut tasks = vec![];
    for n in 0..8 {
        let flow = client.flow().await;
        tasks.push(spawn_local(async move {
            let ClientFlow {
                mut send,
                mut recv,
                mut server,
                carry,
            } = flow;
            let bytes = pattern(len, n);
            let sent = Bytes::from(bytes.clone());
            let (mut read, mut write) = server.split();
            let ((), (), got) = tokio::join!(
                send_all(&mut send, sent, true),
                async {
                    tokio::io::copy(&mut read, &mut write).await.unwrap();
                    write.shutdown().await.unwrap();
                },
                recv_all(&mut recv),
            );
            assert!(got == bytes, "stream {n} came back changed");
            let carried = carry.await;
            assert!(matches!(carried.end, CarryEnd::Done), "{carried:?}");
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
}

#[test]
fn eight_echoes_through_an_h2_server() {
    story(async {
        let plain = h2::server::Builder::new();
        let mut wide = plain.clone();
        wide.initial_window_size(4 << 20)
            .initial_connection_window_size(64 << 20)
            .max_frame_size(1 << 20);
        for builder in [plain, wide] {
            let tunnel = echo_peer(&builder, Settings::default()).await;
            echo_through(&tunnel, 4 * MIB).await;
        }
    });
}

#[test]
fn eight_echoes_from_an_h2_client() {
    story(async {
        let plain = h2::client::Builder::new();
        let mut wide = plain.clone();
        wide.initial_window_size(4 << 20)
            .initial_connection_window_size(64 << 20)
            .max_frame_size(1 << 20);
        for builder in [plain, wide] {
            let mut client = h2_client(&builder, Settings::default()).await;
            echo_from(&mut client, 4 * MIB).await;
        }
    });
}

#[test]
fn tiny_windows_of_the_peer() {
    story(async {
        let mut builder = h2::server::Builder::new();
        builder.initial_window_size(100);
        let tunnel = echo_peer(&builder, Settings::default()).await;
        echo_through(&tunnel, 50_000).await;
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(1);
        let mut client = h2_client(&builder, Settings::default()).await;
        echo_from(&mut client, 2_000).await;
    });
}

#[test]
fn a_window_that_shrinks_below_nothing() {
    story(async {
        let turning = new_loop(Settings::default());
        let (near, (_tunnel, mut incoming)) = server_of(&turning).await;
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(50_000);
        let (mut requests, mut connection) = builder.handshake::<_, Bytes>(near).await.unwrap();
        let (answer, _send) = requests.send_request(connect(), false).unwrap();
        let asking = async {
            let asked = incoming.next().await.unwrap();
            let (server, far_app) = app().await;
            (asked.accept().carry(far_app), server)
        };
        let (mut answered, (carry, mut server)) = tokio::join!(
            async {
                tokio::select! {
                    answer = answer => answer.unwrap(),
                    end = &mut connection => panic!("{end:?}"),
                }
            },
            asking
        );
        server.write_all(&pattern(200_000, 4)).await.unwrap();
        // The whole first window is used; now it was too large by 49,000.
        let recv = answered.body_mut();
        tokio::select! {
            first = recv.data() => { first.unwrap().unwrap(); }
            end = &mut connection => panic!("{end:?}"),
        }
        connection.set_initial_window_size(1_000).unwrap();
        spawn_local(connection);
        server.shutdown().await.unwrap();
        let recv = answered.body_mut();
        let mut rest = 0;
        while let Some(data) = recv.data().await {
            rest += data.unwrap().len();
            // Everything that came is given back at once.
            let used = recv.flow_control().used_capacity();
            recv.flow_control().release_capacity(used).unwrap();
        }
        assert!(rest > 100_000 && rest < 200_000);
        drop(answered);
        drop(carry);
    });
}

#[test]
fn resets_both_ways() {
    story(async {
        let mut client = h2_client(&h2::client::Builder::new(), Settings::default()).await;
        // The peer's, with a code.
        let mut flow = client.flow().await;
        flow.send.send_reset(Reason::CANCEL);
        assert_eq!(
            read_error(&mut flow.server).await,
            ErrorKind::ConnectionReset
        );
        assert!(matches!(flow.carry.await.end, CarryEnd::ResetByPeer(8)));
        // The application's.
        let mut flow = client.flow().await;
        reset(flow.server);
        let error = flow.recv.data().await.unwrap().unwrap_err();
        assert_eq!(error.reason(), Some(Reason::CONNECT_ERROR));
        assert!(matches!(flow.carry.await.end, CarryEnd::ResetByApp));
        // The peer's, before the answer.
        let (_answer, mut send) = client.ask();
        let asked = client.incoming.next().await.unwrap();
        send.send_reset(Reason::CANCEL);
        asked.reset().await;
        drop(asked);
        // Ours, instead of an answer.
        let (answer, _send) = client.ask();
        drop(client.incoming.next().await.unwrap());
        let error = answer.await.unwrap_err();
        assert_eq!(error.reason(), Some(Reason::CANCEL));
        // And the connection is as good as before.
        echo_from(&mut client, 1_000).await;
    });
}

#[test]
fn answers_and_bad_requests() {
    story(async {
        let mut client = h2_client(&h2::client::Builder::new(), Settings::default()).await;
        let (answer, _send) = client.ask();
        client.incoming.next().await.unwrap().refuse(503);
        assert_eq!(answer.await.unwrap().status(), 503);
        for bad in [
            http::Request::get("https://10.0.2.7:5432/"),
            http::Request::connect("web:5432"),
            http::Request::connect("10.0.2.7"),
        ] {
            let bad = bad.version(Version::HTTP_2).body(()).unwrap();
            let (answer, _send) = client.requests.send_request(bad, true).unwrap();
            assert_eq!(answer.await.unwrap().status(), 400);
        }
        assert_eq!(client.turning.stats().bad_requests.get(), 3);
        echo_from(&mut client, 1_000).await;
    });
}

#[test]
fn refusals_of_an_h2_server() {
    story(async {
        let turning = new_loop(Settings::default());
        let (tunnel, far) = client_of(&turning).await;
        let mut connection = h2::server::handshake(far).await.unwrap();
        spawn_local(async move {
            let mut nth = 0;
            while let Some(Ok((_asked, mut respond))) = connection.accept().await {
                nth += 1;
                match nth {
                    1 => {
                        let refusal = http::Response::builder().status(401).body(()).unwrap();
                        respond.send_response(refusal, true).unwrap();
                    }
                    2 => {
                        let refusal = http::Response::builder().status(503).body(()).unwrap();
                        let mut send = respond.send_response(refusal, false).unwrap();
                        send.send_data(Bytes::from_static(b"why"), true).unwrap();
                    }
                    3 => respond.send_reset(Reason::REFUSED_STREAM),
                    _ => {
                        connection.graceful_shutdown();
                    }
                }
            }
        });
        for wanted in [401, 503] {
            let refused = tunnel.connect(&request()).await.map(|_| ()).unwrap_err();
            assert!(
                matches!(refused, ConnectError::Refused { status } if status == wanted),
                "{refused:?}"
            );
        }
        let refused = tunnel.connect(&request()).await.map(|_| ()).unwrap_err();
        assert!(matches!(refused, ConnectError::Reset(7)), "{refused:?}");
        assert!(refused.may_retry());
        let last = tunnel.connect(&request()).await.map(|_| ()).unwrap_err();
        assert!(matches!(last, ConnectError::Reset(_)), "{last:?}");
        let end = tunnel.closed().await;
        assert!(matches!(end, TunnelEnd::Drained), "{end:?}");
    });
}

#[test]
fn drains_with_an_h2_client() {
    story(async {
        let mut client = h2_client(&h2::client::Builder::new(), Settings::default()).await;
        let mut flow = client.flow().await;
        client.tunnel.drain();
        // The flow goes on; a new stream does not begin.
        flow.server.write_all(b"on").await.unwrap();
        flow.server.shutdown().await.unwrap();
        assert_eq!(recv_all(&mut flow.recv).await, b"on");
        let refused = loop {
            match client.requests.clone().ready().await {
                Ok(requests) => client.requests = requests,
                Err(e) => break e,
            }
            tokio::task::yield_now().await;
        };
        assert!(refused.is_go_away(), "{refused:?}");
        send_all(&mut flow.send, Bytes::from_static(b"and off"), true).await;
        let mut got = vec![];
        flow.server.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"and off");
        assert!(matches!(flow.carry.await.end, CarryEnd::Done));
        let end = client.tunnel.closed().await;
        assert!(matches!(end, TunnelEnd::Drained), "{end:?}");
    });
}

#[test]
fn a_full_connection_window_of_the_peer_takes_no_new_flow() {
    story(async {
        // An h2 server that never releases: its 65,535 bytes for the whole
        // connection are used up by one stalled stream.
        let turning = new_loop(Settings::default());
        let (tunnel, far) = client_of(&turning).await;
        let mut builder = h2::server::Builder::new();
        builder.initial_window_size(1 << 20);
        let mut connection = builder.handshake::<_, Bytes>(far).await.unwrap();
        let held = spawn_local(async move {
            let mut held = vec![];
            while let Some(Ok((asked, mut respond))) = connection.accept().await {
                let send = respond
                    .send_response(http::Response::new(()), false)
                    .unwrap();
                held.push((asked, send));
            }
        });
        let stream = tunnel.connect(&request()).await.unwrap();
        let (mut client, near_app) = app().await;
        let carry = stream.carry(near_app);
        client.write_all(&pattern(100_000, 2)).await.unwrap();
        while tunnel.has_room() {
            tokio::task::yield_now().await;
        }
        assert_eq!(carry.handle().bytes(), Some((65_535, 0)));
        let refused = tunnel.connect(&request()).await.map(|_| ()).unwrap_err();
        assert!(matches!(refused, ConnectError::NoRoom), "{refused:?}");
        // A reset still gets through.
        reset(client);
        assert!(matches!(carry.await.end, CarryEnd::ResetByApp));
        held.abort();
    });
}
