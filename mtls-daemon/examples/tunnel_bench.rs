//! What the tunnel alone costs: client -> loop -> tunnel -> loop -> server on
//! loopback, next to plain TCP in the same run. No kernel hooks, no network
//! namespaces, no policy; `cargo xtask bench` measures the whole daemon.
//!
//! `cargo run --release -p mtls-daemon --example tunnel_bench [seconds]`

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a measurement prints its figures, and stops where it fails"
)]

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use mtls_daemon::tls::Session;
use mtls_daemon::tunnel::{ConnectRequest, Loop, Settings};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;
use tokio::time::{Instant, timeout};

fn main() {
    let seconds = std::env::args().nth(1).map_or(2, |s| s.parse().unwrap());
    let time = Duration::from_secs(seconds);
    let (client, server) = tls();
    let (tell, told) = mpsc::channel();
    let told_server = tell.clone();
    spawn("server", move || serve(told_server));
    let upstream: SocketAddr = told.recv().unwrap();
    let told_far = tell.clone();
    spawn("far", move || far(told_far, server, upstream));
    let daemon = told.recv().unwrap();
    spawn("near", move || near(tell, client, daemon));
    let proxied = told.recv().unwrap();

    println!(
        "{:<22}{:>12}{:>12}{:>8}  CPU near+far",
        "", "plain", "tunnel", "ratio"
    );
    run(async {
        for (name, streams) in [("bulk x1, Gbit/s", 1), ("bulk x8, Gbit/s", 8)] {
            let plain = bulk(upstream, streams, time).await;
            let cpu = Cpu::now();
            let tunnel = bulk(proxied, streams, time).await;
            row(
                name,
                plain,
                tunnel,
                &cpu.per(tunnel * time.as_secs_f64() / 8.59, "s/GiB", 1.0),
            );
        }
        for (name, clients) in [("request-response x1", 1), ("request-response x64", 64)] {
            let plain = answers(upstream, clients, time).await;
            let cpu = Cpu::now();
            let tunnel = answers(proxied, clients, time).await;
            let cpu = cpu.per(tunnel.count as f64, "us each", 1e6);
            row(
                &format!("{name}, k/s"),
                plain.rate(time),
                tunnel.rate(time),
                &cpu,
            );
            row("  p50, us", plain.percentile(50), tunnel.percentile(50), "");
            row("  p99, us", plain.percentile(99), tunnel.percentile(99), "");
        }
        let plain = connections(upstream, 64, time).await;
        let cpu = Cpu::now();
        let tunnel = connections(proxied, 64, time).await;
        let cpu = cpu.per(tunnel.count as f64, "us each", 1e6);
        row(
            "connect-request x64",
            plain.rate(time),
            tunnel.rate(time),
            &cpu,
        );
        row("  p50, us", plain.percentile(50), tunnel.percentile(50), "");
    });
}

fn row(name: &str, plain: f64, tunnel: f64, note: &str) {
    println!(
        "{name:<22}{plain:>12.1}{tunnel:>12.1}{:>8.2}  {note}",
        tunnel / plain
    );
}

// What is measured.

/// Gbit/s into the server over so many connections.
async fn bulk(to: SocketAddr, streams: usize, time: Duration) -> f64 {
    let mut tasks = vec![];
    for _ in 0..streams {
        tasks.push(spawn_local(async move {
            let mut app = TcpStream::connect(to).await.unwrap();
            app.write_all(b"S").await.unwrap();
            let bytes = vec![7; 128 << 10];
            let _ = timeout(time, async {
                loop {
                    app.write_all(&bytes).await.unwrap();
                }
            })
            .await;
            app.shutdown().await.unwrap();
            // The server says how much arrived, and when the last of it did.
            app.read_u64().await.unwrap()
        }));
    }
    let start = Instant::now();
    let mut total = 0;
    for task in tasks {
        total += task.await.unwrap();
    }
    total as f64 * 8e-9 / start.elapsed().as_secs_f64()
}

struct Answers {
    count: usize,
    micros: Vec<f64>,
}

impl Answers {
    fn gather(all: Vec<Vec<f64>>) -> Self {
        let mut micros = all.concat();
        micros.sort_unstable_by(f64::total_cmp);
        Self {
            count: micros.len(),
            micros,
        }
    }

    fn rate(&self, time: Duration) -> f64 {
        self.count as f64 / time.as_secs_f64() / 1e3
    }

    fn percentile(&self, nth: usize) -> f64 {
        self.micros[self.count * nth / 100]
    }
}

/// 64 bytes there, one back, over and over.
async fn answers(to: SocketAddr, clients: usize, time: Duration) -> Answers {
    each(clients, || async move {
        let mut app = TcpStream::connect(to).await.unwrap();
        app.set_nodelay(true).unwrap();
        app.write_all(b"R").await.unwrap();
        let until = Instant::now() + time;
        let mut micros = vec![];
        loop {
            let start = Instant::now();
            if start >= until {
                return micros;
            }
            app.write_all(&[1; 64]).await.unwrap();
            app.read_u8().await.unwrap();
            micros.push(start.elapsed().as_secs_f64() * 1e6);
        }
    })
    .await
}

/// A new connection for each request.
async fn connections(to: SocketAddr, clients: usize, time: Duration) -> Answers {
    each(clients, || async move {
        let until = Instant::now() + time;
        let mut micros = vec![];
        loop {
            let start = Instant::now();
            if start >= until {
                return micros;
            }
            let mut app = TcpStream::connect(to).await.unwrap();
            app.set_nodelay(true).unwrap();
            let mut request = [1; 65];
            request[0] = b'R';
            app.write_all(&request).await.unwrap();
            app.read_u8().await.unwrap();
            micros.push(start.elapsed().as_secs_f64() * 1e6);
        }
    })
    .await
}

async fn each<F: Future<Output = Vec<f64>> + 'static>(
    clients: usize,
    client: impl Fn() -> F,
) -> Answers {
    let tasks: Vec<_> = (0..clients).map(|_| spawn_local(client())).collect();
    let mut all = vec![];
    for task in tasks {
        all.push(task.await.unwrap());
    }
    Answers::gather(all)
}

// Who takes part: a thread each.

/// Takes bulk, and answers requests.
async fn serve(tell: mpsc::Sender<SocketAddr>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    tell.send(listener.local_addr().unwrap()).unwrap();
    loop {
        let (mut app, _) = listener.accept().await.unwrap();
        app.set_nodelay(true).unwrap();
        spawn_local(async move {
            if app.read_u8().await.ok()? == b'S' {
                let mut bytes = vec![0; 256 << 10];
                let mut total = 0;
                loop {
                    match app.read(&mut bytes).await.ok()? {
                        0 => break,
                        n => total += n as u64,
                    }
                }
                return app.write_u64(total).await.ok();
            }
            let mut request = [0; 64];
            loop {
                app.read_exact(&mut request).await.ok()?;
                app.write_u8(1).await.ok()?;
            }
        });
    }
}

/// The daemon at the client: every connection into one tunnel.
async fn near(tell: mpsc::Sender<SocketAddr>, tls: Arc<ClientConfig>, daemon: SocketAddr) {
    let turning = running_loop();
    let socket = TcpStream::connect(daemon).await.unwrap();
    let name = ServerName::try_from("peer.test").unwrap();
    let (socket, session) = Session::connect(tls, name, socket).await.unwrap();
    let tunnel = turning.client(socket.into_std().unwrap(), session).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    inherited(&listener);
    tell.send(listener.local_addr().unwrap()).unwrap();
    let request = ConnectRequest {
        authority: SocketAddr::from(([10, 0, 2, 7], 5432)),
        forwarded: None,
        traceparent: None,
        baggage: None,
    };
    loop {
        let (app, _) = listener.accept().await.unwrap();
        let opening = tunnel.open(&request).unwrap();
        spawn_local(async move {
            let stream = opening.answer().await.unwrap();
            stream.carry(app.into_std().unwrap()).await
        });
    }
}

/// The daemon at the server: dials for every stream.
async fn far(tell: mpsc::Sender<SocketAddr>, tls: Arc<ServerConfig>, upstream: SocketAddr) {
    let turning = running_loop();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    tell.send(listener.local_addr().unwrap()).unwrap();
    let (socket, _) = listener.accept().await.unwrap();
    let (socket, session) = Session::accept(tls, socket).await.unwrap();
    let (_tunnel, mut incoming) = turning.server(socket.into_std().unwrap(), session).unwrap();
    while let Some(asked) = incoming.next().await {
        spawn_local(async move {
            let app = TcpStream::connect(upstream).await.unwrap();
            let app = app.into_std().unwrap();
            let options = socket2::SockRef::from(&app);
            options.set_linger(Some(Duration::ZERO)).unwrap();
            options.set_tcp_nodelay(true).unwrap();
            asked.accept().carry(app).await
        });
    }
}

fn running_loop() -> Loop {
    let turning = Loop::new(Settings::default()).unwrap();
    let running = turning.clone();
    spawn_local(async move { running.run().await });
    turning
}

/// What accepted sockets get from their listener.
fn inherited(listener: &TcpListener) {
    let options = socket2::SockRef::from(listener);
    options.set_linger(Some(Duration::ZERO)).unwrap();
    options.set_tcp_nodelay(true).unwrap();
}

fn spawn<F: Future>(name: &str, part: impl FnOnce() -> F + Send + 'static) {
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(|| {
            run(async { part().await });
        })
        .unwrap();
}

fn run<T>(part: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, part)
}

fn tls() -> (Arc<ClientConfig>, Arc<ServerConfig>) {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["peer.test".to_owned()]).unwrap();
    let cert = CertificateDer::from(params.self_signed(&key).unwrap().der().to_vec());
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let mut roots = RootCertStore::empty();
    roots.add(cert.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut client = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert], key)
        .unwrap();
    client.enable_secret_extraction = true;
    server.enable_secret_extraction = true;
    (Arc::new(client), Arc::new(server))
}

/// The time that both daemons' threads have used, user and system.
struct Cpu {
    user: f64,
    system: f64,
}

impl Cpu {
    fn now() -> Self {
        let mut cpu = Self {
            user: 0.0,
            system: 0.0,
        };
        for task in std::fs::read_dir("/proc/self/task").unwrap() {
            let Ok(stat) = std::fs::read_to_string(task.unwrap().path().join("stat")) else {
                continue;
            };
            let (name, rest) = stat.rsplit_once(')').unwrap();
            if name.ends_with("(near") || name.ends_with("(far") {
                let ticks: Vec<f64> = rest
                    .split_ascii_whitespace()
                    .map(|field| field.parse().unwrap_or(0.0))
                    .collect();
                cpu.user += ticks[11] / 100.0;
                cpu.system += ticks[12] / 100.0;
            }
        }
        cpu
    }

    /// What was used since, for each of `n`.
    fn per(&self, n: f64, unit: &str, scale: f64) -> String {
        let now = Self::now();
        let user = (now.user - self.user) * scale / n;
        let system = (now.system - self.system) * scale / n;
        format!("{user:.2} user + {system:.2} system {unit}")
    }
}
