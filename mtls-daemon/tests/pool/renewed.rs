//! Our certificate is renewed while tunnels are open: those that the peer lets
//! prove it go on taking connections.

use std::cell::Cell;
use std::rc::Rc;

use mtls_daemon::metrics::Acquire;
use mtls_daemon::reason::Reason;
use mtls_daemon::tls::{self, WorkloadTls};
use mtls_daemon::tunnel::{Cut, ProofNews, TunnelEnd};
use tokio::time::timeout;

use crate::pki::{Ca, DB, bundle, revoking};
use crate::{LIMIT, Stage, facts, judging, on_a_worker};

#[tokio::test]
async fn a_tunnel_that_proved_the_newest_certificate_takes_new_connections() {
    on_a_worker(async || {
        let ca = Ca::root("root");
        let stage = Stage::set(&ca, 1000).await;
        stage.pool.checkout(&stage.web, &stage.db).await.unwrap();
        for renewal in 1..=3 {
            stage.renew(&ca);
            until(&stage.proofs, renewal).await;
            let again = stage.pool.checkout(&stage.web, &stage.db).await.unwrap();
            assert_eq!(again.acquired, Acquire::Hit);
        }
        stage.ensure_handshakes(1).await;
    })
    .await;
}

#[tokio::test]
async fn one_that_was_judged_by_other_roots_takes_none() {
    on_a_worker(async || {
        let ca = Ca::root("root");
        let stage = Stage::set(&ca, 1000).await;
        stage.pool.checkout(&stage.web, &stage.db).await.unwrap();
        stage.identity.send_modify(|now| {
            now.bundles = [bundle("example.org", &[&ca, &Ca::root("new")])]
                .into_iter()
                .collect();
            now.generation += 1;
        });
        let judged_anew = stage.pool.checkout(&stage.web, &stage.db).await.unwrap();
        assert_eq!(judged_anew.acquired, Acquire::Miss);
        stage.ensure_handshakes(2).await;
    })
    .await;
}

#[tokio::test]
async fn one_that_did_not_yet_takes_none() {
    on_a_worker(async || {
        let ca = Ca::root("root");
        let stage = Stage::set(&ca, 1000).await;
        stage.pool.checkout(&stage.web, &stage.db).await.unwrap();
        stage.renew(&ca);
        let renewed = stage.pool.checkout(&stage.web, &stage.db).await.unwrap();
        assert_eq!(renewed.acquired, Acquire::Miss);
        let again = stage.pool.checkout(&stage.web, &stage.db).await.unwrap();
        assert_eq!(again.acquired, Acquire::Hit);
        stage.ensure_handshakes(2).await;
    })
    .await;
}

/// Between the handshake and the first words of the peer, which say that it
/// takes proofs.
#[tokio::test]
async fn a_renewal_before_the_peers_first_words_is_proved_after_them() {
    on_a_worker(async || {
        let ca = Ca::root("root");
        let (stage, listener) = Stage::without_peer(&ca, 1000, facts("")).await;
        let bundles = ca.bundles("example.org");
        let db = WorkloadTls::new(ca.leaf(DB).svid(DB, &bundles), bundles, judging()).unwrap();
        let accepting = async {
            let (socket, _) = listener.accept().await.unwrap();
            tls::accept(socket, db.server(), LIMIT).await.unwrap()
        };
        let (checked_out, done) =
            tokio::join!(stage.pool.checkout(&stage.web, &stage.db), accepting);
        let tunnel = checked_out.unwrap().tunnel;
        stage.renew(&ca);
        // Whoever watches over it has had its turn.
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert!(!tunnel.takes_proofs());
        let turning = &stage.pool.tunnel_loop;
        let (far, _incoming) = turning.server(done.socket, done.session).unwrap();
        assert_eq!(far.proof_news().await, ProofNews::Takes);
        let ProofNews::Proved(_) = far.proof_news().await else {
            panic!("it took proofs twice");
        };
    })
    .await;
}

/// The list and the new certificate are heard of together, in whichever order.
#[tokio::test]
async fn a_renewal_does_not_hide_that_the_certificate_before_was_revoked() {
    on_a_worker(async || {
        let ca = Ca::root("root");
        for _ in 0..20 {
            let stage = Stage::set(&ca, 1000).await;
            let open = stage.pool.checkout(&stage.web, &stage.db).await.unwrap();
            while !open.tunnel.takes_proofs() {
                tokio::task::yield_now().await;
            }
            let own = stage.identity.borrow().svid.clone().unwrap();
            let lists = revoking(&ca, &[own.serial()]);
            stage.revocations.send_replace(lists);
            stage.renew(&ca);
            let end = timeout(LIMIT, open.tunnel.closed()).await.unwrap();
            assert!(matches!(end, TunnelEnd::Cut(Cut(Reason::Revoked))), "{end}");
        }
    })
    .await;
}

async fn until(counter: &Rc<Cell<usize>>, count: usize) {
    while counter.get() < count {
        tokio::task::yield_now().await;
    }
}
