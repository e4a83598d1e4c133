//! Certificates are renewed before they end, spread out; a failing authority
//! is asked again and again, and what ends without a successor is refused.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use mtls_daemon::identity::Revocations;

use crate::folder::Folder;
use crate::node::{Node, generation, write_bundle, write_ca};
use crate::pki::{Ca, DB, HOUR, WEB, in_};

const TTL: Duration = Duration::from_secs(4);

fn left(node: &Node, until: SystemTime) -> Duration {
    until.duration_since(node.clock.now()).unwrap_or_default()
}

#[tokio::test(start_paused = true)]
async fn thirty_renewals_and_never_a_gap() {
    let folder = Folder::new();
    let ca = Ca::root("root");
    write_ca(&folder, &ca, &[&ca]);
    let node = Node::with_disk_ca(folder, TTL);
    let mut web = node.enrol("web", WEB);
    let mut state = web.ready().await;
    let bundle = generation(&state, "example.org");
    for nth in 1..=30 {
        state = web.renewed(&state).await;
        let svid = state.svid.as_ref().unwrap();
        assert!(!left(&node, svid.good_until()).is_zero());
        assert_eq!(state.failure, None);
        assert_eq!(state.renewals.succeeded, 1 + nth);
        assert_eq!(
            generation(&state, "example.org"),
            bundle,
            "the roots are the same"
        );
    }
    assert_eq!(state.renewals.failed, 0);
    assert!(state.generation > 30);
}

#[tokio::test(start_paused = true)]
async fn at_half_life_and_spread_out() {
    let folder = Folder::new();
    let ca = Ca::root("root");
    write_ca(&folder, &ca, &[&ca]);
    let node = Node::with_disk_ca(folder, HOUR);
    let mut moments = HashSet::new();
    for n in 0..50 {
        let mut watched = node.enrol(&format!("w{n}"), &format!("spiffe://example.org/w{n}"));
        let state = watched.ready().await;
        let svid = state.svid.unwrap();
        let life = svid
            .good_until()
            .duration_since(svid.obtained())
            .unwrap()
            .as_secs_f64();
        let at = state
            .next_renewal
            .unwrap()
            .duration_since(svid.obtained())
            .unwrap();
        assert!((0.4..=0.6).contains(&(at.as_secs_f64() / life)), "{at:?}");
        moments.insert(at.as_secs() / 10);
    }
    assert!(
        moments.len() > 20,
        "50 renewals fall into {} of 72 slots",
        moments.len()
    );
}

#[tokio::test(start_paused = true)]
async fn an_authority_that_ends_refuses_and_its_successor_recovers() {
    let folder = Folder::new();
    let old = Ca::root_with("old", |params| {
        params.not_after = in_(Duration::from_secs(60));
    });
    write_ca(&folder, &old, &[&old]);
    let node = Node::with_disk_ca(folder, TTL);
    let mut web = node.enrol("web", WEB);
    web.ready().await;

    let ended = web.until("refused", |state| state.svid.is_none()).await;
    let failure = ended.failure.unwrap();
    assert!(failure.contains("ended at"), "{failure}");
    assert_eq!(ended.next_renewal, None);
    let failure = web
        .until("a failed attempt", |state| state.renewals.failed > 3)
        .await
        .failure
        .unwrap();
    assert!(
        failure.contains("the authority's own certificate ended at"),
        "{failure}"
    );

    let new = Ca::root("new");
    write_ca(&node.folder, &new, &[&old, &new]);
    let recovered = web.ready().await;
    assert_eq!(recovered.failure, None);
    assert!(recovered.next_renewal.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_new_authority_is_taken_up_at_once_and_the_old_root_dropped() {
    let folder = Folder::new();
    let (old, new) = (Ca::root("old"), Ca::root("new"));
    write_ca(&folder, &old, &[&old]);
    let node = Node::with_disk_ca(folder, HOUR);
    let (mut web, mut db) = (node.enrol("web", WEB), node.enrol("db", DB));
    let (first, other) = (web.ready().await, db.ready().await);
    assert_eq!(
        generation(&first, "example.org"),
        generation(&other, "example.org")
    );

    // Trust the new root everywhere first.
    write_bundle(&node.folder, &[&old, &new]);
    let both = web.until("both roots", |state| {
        generation(state, "example.org") > generation(&first, "example.org")
    });
    let both = both.await;
    assert_eq!(both.bundles.iter().next().unwrap().roots().len(), 2);
    // Then issue with it.
    write_ca(&node.folder, &new, &[&old, &new]);
    let issued = web.until("issued by the new one", |state| {
        let issuer = state.svid.as_ref().map(|svid| {
            svid.check(
                &new.bundles("example.org"),
                Revocations::none(),
                node.clock.now(),
            )
        });
        issuer == Some(Ok(()))
    });
    let issued = issued.await;
    assert_eq!(issued.failure, None);
    assert_eq!(
        generation(&issued, "example.org"),
        generation(&both, "example.org")
    );
    // Then drop the old one.
    write_bundle(&node.folder, &[&new]);
    let last = web.until("the new root alone", |state| {
        state.bundles.iter().next().unwrap().roots().len() == 1
    });
    assert_eq!(last.await.failure, None);
    let _ = db
        .until("the neighbour too", |state| {
            state.bundles.iter().next().unwrap().roots().len() == 1
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_broken_authority_file_changes_nothing_but_is_said() {
    let folder = Folder::new();
    let ca = Ca::root("root");
    write_ca(&folder, &ca, &[&ca]);
    let node = Node::with_disk_ca(folder, TTL);
    let mut web = node.enrol("web", WEB);
    let mut state = web.ready().await;
    node.folder.write(
        "ca.key",
        "-----BEGIN PRIVATE KEY-----\nno\n-----END PRIVATE KEY-----\n",
    );
    let failure = web.failing().await;
    assert!(failure.contains("ca.key"), "{failure}");
    // It goes on with what it holds, renewals included, and does not fall silent.
    for _ in 0..5 {
        state = web.renewed(&state).await;
        assert!(state.svid.is_some());
    }
    assert!(web.now().failure.unwrap().contains("ca.key"));
    write_ca(&node.folder, &ca, &[&ca]);
    web.until("well again", |state| state.failure.is_none())
        .await;
}

#[tokio::test(start_paused = true)]
async fn files_that_come_later() {
    let folder = Folder::new();
    let node = Node::with_disk_ca(folder, HOUR);
    let mut web = node.enrol("web", WEB);
    let failure = web.failing().await;
    assert!(
        failure.contains("ca.crt: No such file or directory"),
        "{failure}"
    );
    assert!(
        failure.contains("ca.key: No such file or directory"),
        "{failure}"
    );
    let ca = Ca::root("root");
    write_ca(&node.folder, &ca, &[&ca]);
    assert_eq!(web.ready().await.failure, None);
}

#[tokio::test(start_paused = true)]
async fn the_clock_steps() {
    let folder = Folder::new();
    let ca = Ca::root("root");
    write_ca(&folder, &ca, &[&ca]);
    let node = Node::with_disk_ca(folder, HOUR);
    let mut web = node.enrol("web", WEB);
    let first = web.ready().await;
    // Past the end of what is held: it is renewed without waiting.
    node.hand.set(node.clock.now() + 2 * HOUR);
    let began = tokio::time::Instant::now();
    let renewed = web.renewed(&first).await;
    assert!(began.elapsed() < Duration::from_secs(5));
    assert!(!left(&node, renewed.svid.as_ref().unwrap().good_until()).is_zero());
    // Back to where it was: what was issued there has not begun.
    node.hand.set(node.clock.now() - 2 * HOUR);
    let began = tokio::time::Instant::now();
    let renewed = web.renewed(&renewed).await;
    assert!(began.elapsed() < Duration::from_secs(5));
    assert!(renewed.svid.unwrap().not_before() <= node.clock.now());
}
