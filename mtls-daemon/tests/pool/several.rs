//! A peer that is far away gets several tunnels, among which its connections
//! are spread; one nearby gets one.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use mtls_daemon::metrics::Acquire;
use mtls_daemon::tls::{self, WorkloadTls};
use mtls_daemon::tunnel::{ConnectRequest, Opening, Tunnel};
use tokio::net::TcpStream;
use tokio::task::{spawn_local, yield_now};

use crate::pki::{Ca, DB};
use crate::{LIMIT, PLACES, Stage, facts, judging, on_a_worker};

#[tokio::test]
async fn a_far_peer_gets_several_tunnels() {
    on_a_worker(async || {
        let mut stage = Stage::set(&Ca::root("root"), 1000).await;
        everybody_is_far(&mut stage);
        let mut riders = Vec::new();
        for tunnels in 1..=4 {
            while stage.idlest().await.flows() > 0 {
                yield_now().await;
            }
            stage.ensure_handshakes(tunnels).await;
            for _ in 0..2 {
                riders.push(stage.ride().await);
            }
        }
        for _ in 0..8 {
            riders.push(stage.ride().await);
        }
        assert_eq!((riders.len(), stage.idlest().await.flows()), (16, 4));
        stage.ensure_handshakes(4).await;
    })
    .await;
}

#[tokio::test]
async fn one_nearby_gets_one() {
    on_a_worker(async || {
        let stage = Stage::set(&Ca::root("root"), 1000).await;
        let mut riders = Vec::new();
        for _ in 0..16 {
            riders.push(stage.ride().await);
        }
        stage.dials_have_ended().await;
        assert_eq!((riders.len(), stage.idlest().await.flows()), (16, 16));
        stage.ensure_handshakes(1).await;
    })
    .await;
}

/// Nobody notices, and it is not tried again with each connection.
#[tokio::test]
async fn a_further_tunnel_that_fails() {
    on_a_worker(async || {
        let ca = Ca::root("root");
        let (mut stage, listener) = Stage::without_peer(&ca, 1000, facts("")).await;
        everybody_is_far(&mut stage);
        let at = listener.local_addr().unwrap();
        let bundles = ca.bundles("example.org");
        let db = WorkloadTls::new(ca.leaf(DB).svid(DB, &bundles), bundles, judging()).unwrap();
        let peer = stage.pool.tunnel_loop.clone();
        let dials = Rc::new(Cell::new(0));
        let counted = Rc::clone(&dials);
        spawn_local(async move {
            let (socket, _) = listener.accept().await.unwrap();
            let done = tls::accept(socket, db.server(), LIMIT).await.unwrap();
            let _first = peer.server(done.socket, done.session).unwrap();
            loop {
                drop(listener.accept().await.unwrap());
                counted.set(counted.get() + 1);
            }
        });

        let mut riders = Vec::new();
        while dials.get() == 0 {
            riders.push(stage.ride().await);
            yield_now().await;
        }
        stage.dials_have_ended().await;
        for _ in 0..16 {
            riders.push(stage.ride().await);
            yield_now().await;
        }
        // Behind whoever else has dialled meanwhile.
        let _last = TcpStream::connect(at).await.unwrap();
        while dials.get() < 2 {
            yield_now().await;
        }
        assert_eq!(dials.get(), 2);
    })
    .await;
}

/// On one machine they are not.
fn everybody_is_far(stage: &mut Stage) {
    Rc::get_mut(&mut stage.pool).unwrap().far = Duration::ZERO;
}

impl Stage {
    async fn idlest(&self) -> Tunnel {
        let got = self.pool.checkout(&self.web, &self.db).await.unwrap();
        got.tunnel
    }

    /// Those that have begun, and hold a place each.
    async fn dials_have_ended(&self) {
        yield_now().await;
        while self.pool.handshakes.available_permits() < PLACES {
            yield_now().await;
        }
    }

    /// A connection that stays.
    async fn ride(&self) -> Opening {
        let got = self.pool.checkout(&self.web, &self.db).await.unwrap();
        assert_ne!(got.acquired, Acquire::Wait);
        let request = ConnectRequest {
            authority: self.db.address,
            forwarded: None,
            traceparent: None,
            baggage: None,
        };
        got.tunnel.open(&request).unwrap()
    }
}
