//! Handshakes that come about.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mtls_daemon::identity::TrustBundles;
use mtls_daemon::tls::WorkloadTls;
use rustls::NamedGroup;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{default_provider, kx_group};

use crate::pki::{Ca, DB, WEB, id, in_, since};
use crate::{LIMIT, Talk, Us, attackers, judging, sockets};

#[tokio::test]
async fn both_ends_learn_who_the_other_is() {
    let ca = Ca::root("root");
    let (web, db) = (Us::new(&ca, WEB), Us::new(&ca, DB));
    let (dialling, dialled) = sockets().await;
    let (client, server) = tokio::join!(web.connect(dialling, DB), db.accept(dialled));
    let (client, server) = (client.unwrap(), server.unwrap());

    assert_eq!(client.peer.id, id(DB));
    assert_eq!(server.peer.id, id(WEB));
    for facts in [client.facts, server.facts] {
        assert_eq!(facts.group, Some(NamedGroup::X25519MLKEM768));
        assert!(!facts.resumed);
        assert!(facts.took < LIMIT);
    }
    let left = server
        .peer
        .good_until
        .duration_since(SystemTime::now())
        .unwrap();
    assert!(left > Duration::from_secs(3500) && left <= Duration::from_secs(3600));
    assert_eq!(server.peer.good_until, server.peer.not_after);
    assert_eq!(server.peer.serial, web.leaf.svid(WEB, &web.home).serial());
}

#[tokio::test]
async fn what_comes_back_carries_data() {
    let ca = Ca::root("root");
    let (web, db) = (Us::new(&ca, WEB), Us::new(&ca, DB));
    let (dialling, dialled) = sockets().await;
    let (client, server) = tokio::join!(web.connect(dialling, DB), db.accept(dialled));
    let (client, server) = (client.unwrap(), server.unwrap());
    let mut client = Talk::over(client.socket, client.session);
    let mut server = Talk::over(server.socket, server.session);
    client.say(b"hello", false);
    assert_eq!(server.hear().unwrap(), "hello");
    server.say(b"good day", true);
    assert_eq!(client.hear().unwrap(), "good day");
}

#[tokio::test]
async fn through_an_intermediate_to_another_trust_domain() {
    let (ours, theirs) = (Ca::root("ours"), Ca::root("theirs"));
    let bundles =
        || TrustBundles::from_iter([ours.bundle("example.org"), theirs.bundle("other.test")]);
    let web = Us::new(&ours, WEB).trusting(bundles());
    let far = "spiffe://other.test/db";
    let intermediate = theirs.intermediate("theirs, second");
    let db = Us {
        leaf: intermediate.leaf(far),
        id: far,
        home: theirs.bundles("other.test"),
        bundles: bundles(),
        judging: judging(),
    };
    let (dialling, dialled) = sockets().await;
    let (client, server) = tokio::join!(web.connect(dialling, far), db.accept(dialled));
    assert_eq!(client.unwrap().peer.id, id(far));
    assert_eq!(server.unwrap().peer.id, id(WEB));
}

#[tokio::test]
async fn a_proof_counts_until_the_first_end_in_its_chain() {
    let ca = Ca::root("root");
    let short = ca.intermediate_with("short", |params| {
        params.not_after = in_(Duration::from_secs(600));
    });
    let web = Us {
        leaf: short.leaf(WEB),
        ..Us::new(&ca, WEB)
    };
    let db = Us::new(&ca, DB);
    let (dialling, dialled) = sockets().await;
    let (_client, server) = tokio::join!(web.connect(dialling, DB), db.accept(dialled));
    let peer = server.unwrap().peer;
    assert!(peer.good_until < peer.not_after);
    let left = peer.good_until.duration_since(SystemTime::now()).unwrap();
    assert!(left <= Duration::from_secs(600));
}

#[tokio::test]
async fn a_peer_without_the_hybrid_group_falls_back() {
    let ca = Ca::root("root");
    let db = Us::new(&ca, DB);
    for (group, name) in [
        (kx_group::X25519, NamedGroup::X25519),
        (kx_group::SECP256R1, NamedGroup::secp256r1),
        (kx_group::SECP384R1, NamedGroup::secp384r1),
    ] {
        let provider = CryptoProvider {
            kx_groups: vec![group],
            ..default_provider()
        };
        let certificate = Some(ca.leaf(WEB).certified());
        let config = attackers::client_config_with(provider, rustls::ALL_VERSIONS, certificate);
        let (dialling, dialled) = sockets().await;
        let peer = tokio::spawn(attackers::client(config, dialling));
        let server = db.accept(dialled).await.unwrap();
        assert_eq!(server.facts.group, Some(name));
        drop(server);
        let _ = peer.await;
    }
}

#[tokio::test]
async fn settings_are_made_once_for_each_peer() {
    let ca = Ca::root("root");
    let web = Us::new(&ca, WEB);
    let tls = WorkloadTls::new(
        web.leaf.svid(WEB, &web.home),
        web.bundles.clone(),
        judging(),
    )
    .unwrap();
    let first = tls.client(&id(DB)).unwrap();
    assert!(Arc::ptr_eq(&first, &tls.client(&id(DB)).unwrap()));
    assert!(!Arc::ptr_eq(&first, &tls.client(&id(WEB)).unwrap()));
    assert!(Arc::ptr_eq(tls.server(), tls.server()));
}

#[tokio::test]
async fn clocks_may_differ_as_far_as_is_configured() {
    let ca = Ca::root("root");
    let mut db = Us::new(&ca, DB);
    db.judging.skew = Duration::from_secs(120);
    let late = ca.leaf_with(WEB, |params| {
        params.not_after = since(Duration::from_secs(60));
    });
    let early = ca.leaf_with(WEB, |params| {
        params.not_before = in_(Duration::from_secs(60));
    });
    for leaf in [late, early] {
        let (dialling, dialled) = sockets().await;
        let peer = tokio::spawn(attackers::client(
            attackers::client_config(Some(leaf.certified())),
            dialling,
        ));
        let server = db.accept(dialled).await.unwrap();
        assert!(server.peer.good_until > SystemTime::now());
        drop(server);
        let _ = peer.await;
    }
}
