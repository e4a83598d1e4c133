//! The pool over real sockets in one process: who shares a tunnel with whom,
//! and how many handshakes that takes. As root, for the sockets are made in
//! the workload's network namespace, which here is the test's own.

#![allow(
    clippy::large_futures,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test may be large, and fails by panicking"
)]

#[allow(
    dead_code,
    reason = "its peers serve here, too; what they do with TLS does not"
)]
#[path = "../tls/attackers.rs"]
mod attackers;
mod foreign;
#[path = "../support/pki.rs"]
mod pki;
mod renewed;
mod several;

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mtls_daemon::addr::TunnelAddr;
use mtls_daemon::clock::Clock;
use mtls_daemon::config;
use mtls_daemon::credentials::Credentials;
use mtls_daemon::directory::Endpoint;
use mtls_daemon::facts::{Facts, Newest};
use mtls_daemon::identity::{
    NewestRevocations, Renewals, Revocations, TrustBundles, WorkloadIdentity,
};
use mtls_daemon::metrics::{Acquire, Metrics};
use mtls_daemon::netns::Netns;
use mtls_daemon::pool::{FAR, Peers, Pool};
use mtls_daemon::reason::Reason;
use mtls_daemon::tls::{self, Judging, WorkloadTls};
use mtls_daemon::tunnel::{Loop, ProofNews, Settings};
use mtls_daemon::tunnels::Tunnels;
use mtls_daemon::workload::Workload;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{JoinSet, LocalSet, spawn_local};

use pki::{Ca, DB, WEB, id};

const LIMIT: Duration = Duration::from_secs(5);
/// For handshakes under way.
const PLACES: usize = 16;

fn judging() -> Judging {
    Judging {
        clock: Clock::system(),
        skew: Duration::ZERO,
        revocations: NewestRevocations::none(),
    }
}

fn facts(of_identity: &str) -> Arc<Facts> {
    let text = format!(
        "version = 1\n[identity]\ntrust_domain = \"example.org\"\n{of_identity}\n\
         [identity.disk-ca]\ncertificate = \"/ca.pem\"\nkey = \"/ca.key\"\n\
         [[workload]]\nname = \"web\"\nspiffe_id = \"{WEB}\"\nnetns = \"/run/netns/web\"\n\
         addresses = [\"10.0.1.4\"]\n"
    );
    let config = config::parse("test", &text).unwrap_or_else(|mistakes| panic!("{mistakes}"));
    Arc::new(Facts::new(&config, Arc::default(), &[]))
}

fn identity(ca: &Ca, generation: u64) -> WorkloadIdentity {
    let bundles = ca.bundles("example.org");
    WorkloadIdentity {
        id: id(WEB),
        source: "test",
        svid: Some(ca.leaf(WEB).svid(WEB, &bundles)),
        bundles,
        failure: None,
        next_renewal: None,
        renewals: Renewals::default(),
        generation,
    }
}

/// A client's pool, its workload, and a peer that counts its handshakes.
struct Stage {
    pool: Rc<Pool>,
    web: Arc<Workload>,
    identity: watch::Sender<WorkloadIdentity>,
    revocations: watch::Sender<Arc<Revocations>>,
    db: Endpoint,
    handshakes: Rc<Cell<usize>>,
    /// Proofs of renewed certificates that the peer has got.
    proofs: Rc<Cell<usize>>,
}

impl Stage {
    async fn set(ca: &Ca, streams: u32) -> Self {
        let (stage, listener) = Self::without_peer(ca, streams, facts("")).await;
        spawn_local(peer(
            listener,
            ca.leaf(DB),
            ca.bundles("example.org"),
            stage.pool.tunnel_loop.clone(),
            (Rc::clone(&stage.handshakes), Rc::clone(&stage.proofs)),
        ));
        stage
    }

    /// And where the peer shall listen.
    async fn without_peer(ca: &Ca, streams: u32, facts: Arc<Facts>) -> (Self, TcpListener) {
        let tunnel_loop = Loop::new(Settings {
            max_streams: streams,
            ..Settings::default()
        })
        .unwrap();
        let turning = tunnel_loop.clone();
        spawn_local(async move { turning.run().await });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let (_facts, newest) = watch::channel(facts);
        let newest = Newest::new(newest, mpsc::channel(1).0);
        let (sender, receiver) = watch::channel(identity(ca, 1));
        let (revocations, lists) = watch::channel(pki::revoking(ca, &[]));
        let judging = Judging {
            revocations: lists.into(),
            ..judging()
        };
        let pool = Rc::new(Pool {
            tunnel_loop,
            tunnels: Rc::new(Tunnels::new(
                newest.clone(),
                judging.clone(),
                Metrics::new(SystemTime::now()).thread(),
            )),
            facts: newest,
            credentials: Rc::new(Credentials::new(judging)),
            metrics: Metrics::new(SystemTime::now()).thread(),
            handshakes: Semaphore::new(PLACES),
            peers: Peers::default(),
            far: FAR,
        });
        let web = Arc::new(Workload {
            name: "web".into(),
            id: id(WEB),
            addresses: vec!["127.0.0.1".parse().unwrap()],
            netns: Netns::host().unwrap(),
            identity: receiver,
            connections: 0.into(),
        });
        let db = Endpoint {
            address: SocketAddr::from(([127, 0, 0, 1], 5432)),
            id: id(DB),
            tunnel: TunnelAddr(at),
        };
        let stage = Self {
            pool,
            web,
            identity: sender,
            revocations,
            db,
            handshakes: Rc::default(),
            proofs: Rc::default(),
        };
        (stage, listener)
    }

    /// Ours has another certificate from now on, and the same bundles.
    fn renew(&self, ca: &Ca) {
        self.identity.send_modify(|now| {
            *now = WorkloadIdentity {
                bundles: now.bundles.clone(),
                ..identity(ca, now.generation + 1)
            };
        });
    }

    /// In TLS 1.3 the dialled end is done after the dialling one.
    async fn ensure_handshakes(&self, expected: usize) {
        while self.handshakes.get() < expected {
            tokio::task::yield_now().await;
        }
        assert_eq!(self.handshakes.get(), expected);
    }
}

/// A daemon that takes every request and never ends it.
async fn peer(
    listener: TcpListener,
    leaf: pki::Leaf,
    bundles: TrustBundles,
    tunnel_loop: Loop,
    (handshakes, proofs): (Rc<Cell<usize>>, Rc<Cell<usize>>),
) {
    let tls = WorkloadTls::new(leaf.svid(DB, &bundles), bundles, judging()).unwrap();
    loop {
        let (socket, _) = listener.accept().await.unwrap();
        let Ok(done) = tls::accept(socket, tls.server(), LIMIT).await else {
            continue;
        };
        handshakes.set(handshakes.get() + 1);
        let (tunnel, mut incoming) = tunnel_loop.server(done.socket, done.session).unwrap();
        let (proving, proofs) = (tunnel.clone(), Rc::clone(&proofs));
        spawn_local(async move {
            loop {
                if let ProofNews::Proved(_) = proving.proof_news().await {
                    proofs.set(proofs.get() + 1);
                }
            }
        });
        spawn_local(async move {
            let mut held = vec![];
            while let Some(request) = incoming.next().await {
                held.push(request.accept());
            }
            drop(tunnel);
        });
    }
}

async fn on_a_worker(story: impl AsyncFnOnce()) {
    tokio::time::timeout(Duration::from_secs(30), LocalSet::new().run_until(story()))
        .await
        .unwrap();
}

#[tokio::test]
async fn however_many_ask_at_once_one_dials() {
    on_a_worker(async || {
        let ca = Ca::root("root");
        let stage = Stage::set(&ca, 1000).await;
        let mut asking = JoinSet::new();
        for _ in 0..64 {
            let (pool, web, db) = (
                Rc::clone(&stage.pool),
                Arc::clone(&stage.web),
                stage.db.clone(),
            );
            asking.spawn_local(async move { pool.checkout(&web, &db).await.unwrap().acquired });
        }
        let acquired = asking.join_all().await;
        let misses = acquired.iter().filter(|how| **how == Acquire::Miss).count();
        assert_eq!((acquired.len(), misses), (64, 1));
        stage.ensure_handshakes(1).await;
    })
    .await;
}

#[tokio::test]
async fn another_expected_identity_is_another_tunnel_and_is_refused() {
    on_a_worker(async || {
        let ca = Ca::root("root");
        let stage = Stage::set(&ca, 1000).await;
        stage.pool.checkout(&stage.web, &stage.db).await.unwrap();
        let other = Endpoint {
            id: id("spiffe://example.org/ns/default/sa/other"),
            ..stage.db.clone()
        };
        let refused = stage.pool.checkout(&stage.web, &other).await.err().unwrap();
        assert_eq!(refused.reason, Reason::BadSan);
    })
    .await;
}

/// Everything else being equal: the namespace, the peer, the roots.
#[tokio::test]
async fn no_connection_rides_a_tunnel_of_another_identity_or_address() {
    on_a_worker(async || {
        let ca = Ca::root("root");
        let stage = Stage::set(&ca, 1000).await;
        let bundles = stage.identity.borrow().bundles.clone();
        let other = "spiffe://example.org/ns/default/sa/other";
        let (_sender, other_identity) = watch::channel(WorkloadIdentity {
            id: id(other),
            svid: Some(ca.leaf(other).svid(other, &bundles)),
            bundles,
            ..identity(&ca, 50)
        });
        let like_web = |id, address: &str, identity| {
            Arc::new(Workload {
                name: "other".into(),
                id,
                addresses: vec![address.parse().unwrap()],
                netns: Netns::host().unwrap(),
                identity,
                connections: 0.into(),
            })
        };
        let elsewhere = like_web(id(WEB), "127.0.0.2", stage.web.identity.clone());
        let somebody = like_web(id(other), "127.0.0.1", other_identity);
        for (handshakes, workload) in [(1, &stage.web), (2, &elsewhere), (3, &somebody)] {
            for how in [Acquire::Miss, Acquire::Hit] {
                let tunnel = stage.pool.checkout(workload, &stage.db).await.unwrap();
                assert_eq!(tunnel.acquired, how, "{}", workload.id);
            }
            stage.ensure_handshakes(handshakes).await;
        }
    })
    .await;
}

#[tokio::test]
async fn without_a_certificate_nothing_is_dialled() {
    on_a_worker(async || {
        let ca = Ca::root("root");
        let stage = Stage::set(&ca, 1000).await;
        let none = WorkloadIdentity {
            svid: None,
            failure: Some("the authority is away".into()),
            ..identity(&ca, 2)
        };
        stage.identity.send_replace(none);
        let refused = stage
            .pool
            .checkout(&stage.web, &stage.db)
            .await
            .err()
            .unwrap();
        assert_eq!(
            (refused.reason, refused.detail.as_str()),
            (Reason::NoCert, "the authority is away")
        );
        assert_eq!(stage.handshakes.get(), 0);
    })
    .await;
}

#[tokio::test]
async fn a_failed_dial_fails_all_who_waited_for_it() {
    on_a_worker(async || {
        let ca = Ca::root("root");
        let stage = Stage::set(&ca, 1000).await;
        // Bound and not listening: the kernel refuses.
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let nobody = taken.local_addr().unwrap();
        drop(taken);
        let db = Endpoint {
            tunnel: TunnelAddr(nobody),
            ..stage.db.clone()
        };
        let (one, two) = tokio::join!(
            stage.pool.checkout(&stage.web, &db),
            stage.pool.checkout(&stage.web, &db)
        );
        assert_eq!(one.err().unwrap().reason, Reason::PeerUnreachable);
        assert_eq!(two.err().unwrap().reason, Reason::PeerUnreachable);
    })
    .await;
}

#[tokio::test]
async fn draining_takes_nothing_new() {
    on_a_worker(async || {
        let ca = Ca::root("root");
        let stage = Stage::set(&ca, 1000).await;
        stage.pool.checkout(&stage.web, &stage.db).await.unwrap();
        stage.pool.tunnels.drain();
        let refused = stage
            .pool
            .checkout(&stage.web, &stage.db)
            .await
            .err()
            .unwrap();
        assert_eq!(refused.reason, Reason::Draining);
        stage.pool.tunnels.none().await;
    })
    .await;
}
