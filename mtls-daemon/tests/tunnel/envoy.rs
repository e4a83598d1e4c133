//! Envoy at the other end of a tunnel, as server and as client.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use mtls_daemon::tunnel::{CarryEnd, ConnectError, ConnectRequest, Settings, Tunnel, TunnelEnd};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;

use crate::support::*;

const MIB: usize = 1 << 20;

/// A running Envoy with one listener; gone when dropped.
struct Envoy {
    process: Child,
    admin: SocketAddr,
    listener: SocketAddr,
}

impl Drop for Envoy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Envoy {
    async fn start(name: &str, listener: Value, cluster: Value) -> Self {
        let config = json!({
            "admin": { "address": any_port() },
            "static_resources": { "listeners": [listener], "clusters": [cluster] },
        });
        let at = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("envoy-{name}"));
        let _ = std::fs::remove_file(&at);
        let process = Command::new(binary())
            .args(["--config-yaml", &config.to_string()])
            .arg("--admin-address-path")
            .arg(&at)
            .args(["--disable-hot-restart", "--concurrency", "1", "-l", "error"])
            .args(["--drain-time-s", "1", "--drain-strategy", "immediate"])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let mut envoy = Self {
            process,
            admin: SocketAddr::from(([127, 0, 0, 1], 0)),
            listener: SocketAddr::from(([127, 0, 0, 1], 0)),
        };
        // It writes the file once its administration listens.
        envoy.admin = until(|| async {
            let text = std::fs::read_to_string(&at).ok()?;
            text.trim().parse().ok()
        })
        .await;
        envoy.listener = until(|| async {
            let ready = envoy.ask("GET", "/ready").await.contains("LIVE");
            let text = envoy.ask("GET", "/listeners").await;
            let addr = text.lines().find_map(|l| l.strip_prefix("tunnel::"));
            addr.filter(|_| ready)?.trim().parse().ok()
        })
        .await;
        envoy
    }

    /// Its administration's answer.
    async fn ask(&self, method: &str, path: &str) -> String {
        let mut answer = String::new();
        let Ok(mut admin) = TcpStream::connect(self.admin).await else {
            return answer;
        };
        let request = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        if admin.write_all(request.as_bytes()).await.is_ok() {
            let _ = admin.read_to_string(&mut answer).await;
        }
        answer
    }

    /// A tunnel of ours to it.
    async fn tunnel(&self) -> Tunnel {
        let turning = new_loop(Settings::default());
        let socket = TcpStream::connect(self.listener).await.unwrap();
        client_on(&turning, socket).await
    }
}

fn binary() -> PathBuf {
    let told = std::env::var_os("MTLS_TEST_ENVOY").map(PathBuf::from);
    let home = || {
        let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
        let folders = cache.or(home)?.join("mtls-daemon").read_dir().ok()?;
        folders
            .filter_map(|folder| Some(folder.ok()?.path().join("envoy")))
            .find(|path| path.exists())
    };
    told.or_else(home).expect(
        "no envoy here: run `cargo xtask setup envoy`, or name the binary in MTLS_TEST_ENVOY",
    )
}

async fn until<T, F: Future<Output = Option<T>>>(mut ready: impl FnMut() -> F) -> T {
    loop {
        if let Some(found) = ready().await {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn any_port() -> Value {
    json!({ "socket_address": { "address": "127.0.0.1", "port_value": 0 } })
}

fn at(addr: SocketAddr) -> Value {
    json!({ "socket_address": {
        "address": addr.ip().to_string(), "port_value": addr.port(),
    } })
}

/// An Envoy that terminates CONNECT and dials `upstream`, whatever was asked.
async fn server(name: &str, upstream: SocketAddr, http2: Value) -> Envoy {
    let mut http2 = http2;
    http2["allow_connect"] = json!(true);
    let hcm = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "tunnel",
        "codec_type": "HTTP2",
        "http2_protocol_options": http2,
        "upgrade_configs": [{ "upgrade_type": "CONNECT" }],
        "http_filters": [{
            "name": "router",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
            },
        }],
        "route_config": { "virtual_hosts": [{
            "name": "all",
            "domains": ["*"],
            "routes": [{
                "match": { "connect_matcher": {} },
                "route": {
                    "cluster": "upstream",
                    "timeout": "0s",
                    "upgrade_configs": [{ "upgrade_type": "CONNECT", "connect_config": {} }],
                },
            }],
        }] },
    });
    let listener = json!({
        "name": "tunnel",
        "address": any_port(),
        "filter_chains": [{
            "filters": [{ "name": "hcm", "typed_config": hcm }],
            "transport_socket": { "name": "tls", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                "common_tls_context": {
                    "alpn_protocols": ["h2"],
                    "tls_params": { "tls_minimum_protocol_version": "TLSv1_3" },
                    "tls_certificates": [{
                        "certificate_chain": { "inline_string": TLS.cert_pem },
                        "private_key": { "inline_string": TLS.key_pem },
                    }],
                },
            } },
        }],
    });
    let cluster = json!({
        "name": "upstream",
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": { "cluster_name": "upstream", "endpoints": [{
            "lb_endpoints": [{ "endpoint": { "address": at(upstream) } }],
        }] },
    });
    Envoy::start(name, listener, cluster).await
}

/// An Envoy that puts every connection into a tunnel to `daemon`.
async fn client(name: &str, daemon: SocketAddr) -> Envoy {
    let proxy = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": "tunnel",
        "cluster": "daemon",
        "tunneling_config": {
            "hostname": "10.0.2.7:5432",
            "headers_to_add": [{
                "header": {
                    "key": "forwarded",
                    "value": "for=\"%DOWNSTREAM_REMOTE_ADDRESS%\"",
                },
            }],
        },
    });
    let listener = json!({
        "name": "tunnel",
        "address": any_port(),
        "filter_chains": [{ "filters": [{ "name": "proxy", "typed_config": proxy }] }],
    });
    let cluster = json!({
        "name": "daemon",
        "type": "STATIC",
        "connect_timeout": "1s",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": { "http2_protocol_options": {} },
            },
        },
        "transport_socket": { "name": "tls", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "sni": "peer.test",
            "common_tls_context": {
                "alpn_protocols": ["h2"],
                "tls_params": { "tls_maximum_protocol_version": "TLSv1_3" },
                "validation_context": { "trusted_ca": { "inline_string": TLS.cert_pem } },
            },
        } },
        "load_assignment": { "cluster_name": "daemon", "endpoints": [{
            "lb_endpoints": [{ "endpoint": { "address": at(daemon) } }],
        }] },
    });
    Envoy::start(name, listener, cluster).await
}

/// An application that sends back what it gets, half-closes included.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    spawn_local(async move {
        loop {
            let (mut app, _) = listener.accept().await.unwrap();
            spawn_local(async move {
                let (mut read, mut write) = app.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = write.shutdown().await;
            });
        }
    });
    addr
}

async fn echoed(mut app: TcpStream, seed: u64) {
    let bytes = pattern(4 * MIB, seed);
    let (mut read, mut write) = app.split();
    let mut got = vec![];
    tokio::join!(
        async {
            write.write_all(&bytes).await.unwrap();
            write.shutdown().await.unwrap();
        },
        async { read.read_to_end(&mut got).await.unwrap() }
    );
    assert!(got == bytes, "stream {seed} came back changed");
}

#[test]
fn an_envoy_that_terminates() {
    story(async {
        let small = json!({
            "initial_stream_window_size": 65_535,
            "initial_connection_window_size": 65_535,
        });
        for (name, http2) in [("terminates", json!({})), ("small-windows", small)] {
            let envoy = server(name, echo().await, http2).await;
            let tunnel = envoy.tunnel().await;
            // First all of them: once they move, a small window of Envoy's for
            // the whole connection may be used up at any moment.
            let mut streams = vec![];
            for _ in 0..8 {
                streams.push(tunnel.connect(&request()).await.unwrap());
            }
            let mut tasks = vec![];
            for (n, stream) in (0..).zip(streams) {
                let (client, near_app) = app().await;
                let carry = stream.carry(near_app);
                tasks.push(spawn_local(async move {
                    echoed(client, n).await;
                    let carried = carry.await;
                    assert!(matches!(carried.end, CarryEnd::Done), "{carried:?}");
                }));
            }
            for task in tasks {
                task.await.unwrap();
            }
            assert_eq!(tunnel.flows(), 0);
            // Draining is told by GOAWAY, and the flow that is there goes on.
            let stream = tunnel.connect(&request()).await.unwrap();
            let (client, near_app) = app().await;
            let carry = stream.carry(near_app);
            envoy.ask("POST", "/drain_listeners?graceful").await;
            echoed(client, 9).await;
            assert!(matches!(carry.await.end, CarryEnd::Done));
            tunnel.drain();
            let end = tunnel.closed().await;
            assert!(matches!(end, TunnelEnd::Drained), "{end:?}");
        }
    });
}

#[test]
fn an_envoy_whose_upstream_fails() {
    story(async {
        // Nobody listens there.
        let (gone, _) = tcp().await;
        let envoy = server("refuses", gone.local_addr().unwrap(), json!({})).await;
        drop(gone);
        let tunnel = envoy.tunnel().await;
        let refused = tunnel.connect(&request()).await.map(|_| ()).unwrap_err();
        assert!(
            matches!(refused, ConnectError::Refused { status: 503 }),
            "{refused:?}"
        );
        // One that answers a part and resets.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let envoy = server("resets", addr, json!({})).await;
        let tunnel = envoy.tunnel().await;
        let stream = tunnel.connect(&request()).await.unwrap();
        let (mut client, near_app) = app().await;
        let carry = stream.carry(near_app);
        client.write_all(b"ask").await.unwrap();
        let (mut upstream, _) = listener.accept().await.unwrap();
        upstream.read_exact(&mut [0; 3]).await.unwrap();
        upstream.write_all(b"a part").await.unwrap();
        let mut got = [0; 6];
        client.read_exact(&mut got).await.unwrap();
        reset(upstream);
        assert_eq!(read_error(&mut client).await, ErrorKind::ConnectionReset);
        let end = carry.await.end;
        assert!(matches!(end, CarryEnd::ResetByPeer(_)), "{end:?}");
        // And an Envoy that dies resets them all.
        let stream = tunnel.connect(&request()).await.unwrap();
        let (mut client, near_app) = app().await;
        let carry = stream.carry(near_app);
        drop(envoy);
        assert_eq!(read_error(&mut client).await, ErrorKind::ConnectionReset);
        let end = carry.await.end;
        assert!(matches!(end, CarryEnd::TunnelLost(_)), "{end:?}");
    });
}

#[test]
fn an_envoy_that_asks() {
    story(async {
        let daemon = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let envoy = client("asks", daemon.local_addr().unwrap()).await;
        let turning = new_loop(Settings::default());
        let far = turning.clone();
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        spawn_local(async move {
            loop {
                let (socket, _) = daemon.accept().await.unwrap();
                let (tunnel, mut incoming) = server_on(&far, socket).await;
                let tell = tell.clone();
                spawn_local(async move {
                    while let Some(asked) = incoming.next().await {
                        tell.send((asked, tunnel.clone())).ok().unwrap();
                    }
                });
            }
        });

        let upstream = echo().await;
        let mut tasks = vec![];
        for n in 0..8 {
            let app = TcpStream::connect(envoy.listener).await.unwrap();
            let from = app.local_addr().unwrap();
            let (asked, _tunnel) = told.recv().await.unwrap();
            let wanted = ConnectRequest {
                forwarded: Some(from),
                ..request()
            };
            assert_eq!(asked.head(), &wanted);
            let far_app = daemons_end(TcpStream::connect(upstream).await.unwrap());
            let carry = asked.accept().carry(far_app);
            tasks.push(spawn_local(echoed(app, n)));
            tasks.push(spawn_local(async move {
                let carried = carry.await;
                assert!(matches!(carried.end, CarryEnd::Done), "{carried:?}");
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }

        // Refused, the application behind Envoy is let go.
        let mut app = TcpStream::connect(envoy.listener).await.unwrap();
        let (asked, _tunnel) = told.recv().await.unwrap();
        asked.refuse(503);
        assert!(matches!(app.read(&mut [0]).await, Ok(0) | Err(_)));

        // A reset of the application here.
        let mut app = TcpStream::connect(envoy.listener).await.unwrap();
        let (asked, _tunnel) = told.recv().await.unwrap();
        let (server, far_app) = self::app().await;
        let carry = asked.accept().carry(far_app);
        reset(server);
        assert!(matches!(carry.await.end, CarryEnd::ResetByApp));
        assert!(matches!(app.read(&mut [0]).await, Ok(0) | Err(_)));

        // A reset of the application there.
        let app = TcpStream::connect(envoy.listener).await.unwrap();
        let (asked, tunnel) = told.recv().await.unwrap();
        let (mut server, far_app) = self::app().await;
        let carry = asked.accept().carry(far_app);
        reset(app);
        assert_eq!(read_error(&mut server).await, ErrorKind::ConnectionReset);
        let end = carry.await.end;
        assert!(matches!(end, CarryEnd::ResetByPeer(_)), "{end:?}");

        // Drained, the tunnel ends; the next connection gets another one.
        tunnel.drain();
        let end = tunnel.closed().await;
        assert!(
            matches!(end, TunnelEnd::Drained | TunnelEnd::ClosedByPeer),
            "{end:?}"
        );
        let app = TcpStream::connect(envoy.listener).await.unwrap();
        let (asked, _tunnel) = told.recv().await.unwrap();
        let far_app = daemons_end(TcpStream::connect(upstream).await.unwrap());
        let carry = asked.accept().carry(far_app);
        echoed(app, 77).await;
        assert!(matches!(carry.await.end, CarryEnd::Done));
        assert_eq!(turning.stats().tunnel_violations.get(), 0);
        assert_eq!(turning.stats().stream_violations.get(), 0);
    });
}
