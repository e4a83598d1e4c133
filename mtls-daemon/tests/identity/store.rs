//! Who gets which identity and which bundles.

use std::time::Duration;

use mtls_daemon::identity::{
    IdentityStore, Presenter, Revocations, Terms, Timings, TrustBundles, verify_peer,
};
use mtls_daemon::reason::Reason;

use crate::folder::Folder;
use crate::node::{
    Node, disk_ca_in, federated, files_in, generation, workload, write_ca, write_files,
};
use crate::pki::{Ca, DB, HOUR, WEB, trust_domain};

#[tokio::test(start_paused = true)]
async fn each_workload_its_own() {
    let folder = Folder::new();
    let ca = Ca::root("root");
    write_ca(&folder, &ca, &[&ca]);
    let node = Node::with_disk_ca(folder, HOUR);
    let (mut web, mut db) = (node.enrol("web", WEB), node.enrol("db", DB));
    let (web, db) = (web.ready().await, db.ready().await);
    assert_eq!(web.svid.as_ref().unwrap().id().as_str(), WEB);
    assert_eq!(db.svid.as_ref().unwrap().id().as_str(), DB);
    assert_eq!(web.source, "disk-ca");
    assert!(node.store.subscribe("web").is_some());
    assert!(node.store.subscribe("other").is_none());
}

#[tokio::test(start_paused = true)]
async fn enrolled_twice_withdrawn_and_changed() {
    let folder = Folder::new();
    let ca = Ca::root("root");
    write_ca(&folder, &ca, &[&ca]);
    let node = Node::with_disk_ca(folder, HOUR);
    let mut web = node.enrol("web", WEB);
    let first = web.ready().await;
    let again = node.enrol("web", WEB);
    assert_eq!(
        again.now().svid.unwrap().serial(),
        first.svid.unwrap().serial()
    );

    // The same name with another identity is another workload.
    let mut changed = node.enrol("web", DB);
    assert_eq!(changed.ready().await.id.as_str(), DB);
    assert!(web.0.has_changed().is_err(), "the former one is over");

    node.store.withdraw("web");
    tokio::task::yield_now().await;
    assert!(node.store.subscribe("web").is_none());
    assert!(changed.0.has_changed().is_err());
}

#[tokio::test]
async fn nothing_issues() {
    let node = Node::new(Folder::new(), None, Vec::new());
    let error = node.store.enrol(&workload("web", WEB, None)).err().unwrap();
    assert_eq!(
        error.to_string(),
        "workload web: neither it nor the node names a source of certificates"
    );
}

#[tokio::test(start_paused = true)]
async fn bundles_of_other_trust_domains() {
    let folder = Folder::new();
    let (ours, theirs, impostor) = (Ca::root("ours"), Ca::root("theirs"), Ca::root("impostor"));
    write_ca(&folder, &ours, &[&ours]);
    let source = disk_ca_in(&folder, HOUR);
    let federation = vec![
        federated("other.test", folder.write("theirs.pem", &theirs.pem)),
        // Refused when the configuration is read; here it must still not count.
        federated("example.org", folder.write("impostor.pem", &impostor.pem)),
    ];
    let node = Node::new(folder, Some(source), federation);
    let mut web = node.enrol("web", WEB);
    let state = web
        .until("both domains", |state| {
            state.svid.is_some() && generation(state, "other.test").is_some()
        })
        .await;
    let own = state.bundles.get(&trust_domain("example.org")).unwrap();
    assert_eq!(own.roots().len(), 1);
    assert_eq!(own.roots()[0].subject, "CN=ours");

    // A broken file leaves the bundle as it was, and says so.
    node.folder.write("theirs.pem", "nothing");
    let mut waited = 0;
    while node.store.federation().failures.is_empty() {
        tokio::time::sleep(Duration::from_secs(1)).await;
        waited += 1;
        assert!(waited < 60);
    }
    let failure = &node.store.federation().failures[&trust_domain("other.test")];
    assert!(
        failure.contains("theirs.pem: it holds no certificate"),
        "{failure}"
    );
    assert_eq!(
        generation(&web.now(), "other.test"),
        generation(&state, "other.test")
    );

    // Their new root is another generation; ours stays.
    node.folder.write("theirs.pem", &Ca::root("their next").pem);
    let next = web
        .until("their next root", |next| {
            generation(next, "other.test") > generation(&state, "other.test")
        })
        .await;
    assert_eq!(
        generation(&next, "example.org"),
        generation(&state, "example.org")
    );
    assert_eq!(next.svid.unwrap().serial(), state.svid.unwrap().serial());

    // No longer federated.
    let mut config = node.config.clone();
    config.federated.clear();
    node.store.reload(&config);
    web.until("other.test is gone", |state| {
        generation(state, "other.test").is_none()
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_reload_is_no_gap_for_what_stays() {
    let folder = Folder::new();
    let (ours, theirs) = (Ca::root("ours"), Ca::root("theirs"));
    write_files(&folder, &ours.leaf(WEB), &ours);
    let theirs_file = folder.write("theirs.pem", &theirs.pem);
    let node = Node::new(folder, None, vec![federated("other.test", theirs_file)]);
    let mut web = node.enrol_from("web", WEB, Some(files_in(&node.folder)));
    let state = web
        .until("ready", |state| {
            state.svid.is_some() && generation(state, "other.test").is_some()
        })
        .await;
    let mut config = node.config.clone();
    config.federated.push(federated(
        "third.test",
        node.folder.write("third.pem", &Ca::root("third").pem),
    ));
    node.store.reload(&config);
    let both = web
        .until("third.test", |now| {
            assert_eq!(
                generation(now, "other.test"),
                generation(&state, "other.test")
            );
            generation(now, "third.test").is_some()
        })
        .await;
    assert_eq!(both.svid.unwrap().serial(), state.svid.unwrap().serial());
}

/// A workload of another trust domain, with a source of its own, can verify
/// the node's other workloads.
#[tokio::test(start_paused = true)]
async fn a_guest_knows_the_nodes_roots() {
    let folder = Folder::new();
    let (ours, theirs) = (Ca::root("ours"), Ca::root("theirs"));
    write_ca(&folder, &ours, &[&ours]);
    let node = Node::with_disk_ca(folder, HOUR);
    let guests = Folder::new();
    let guest_id = "spiffe://other.test/guest";
    write_files(&guests, &theirs.leaf(guest_id), &theirs);
    let mut guest = node.enrol_from("guest", guest_id, Some(files_in(&guests)));
    let state = guest
        .until("both bundles", |state| {
            state.svid.is_some() && generation(state, "example.org").is_some()
        })
        .await;
    assert_eq!(state.source, "files");
    assert!(generation(&state, "other.test").is_some());
    let mut web = node.enrol("web", WEB);
    let web = web.ready().await;
    assert!(
        generation(&web, "other.test").is_none(),
        "a guest's roots are the guest's alone"
    );
}

/// The authority of one workload's source is none for the peers of another,
/// also where both are of one trust domain.
#[tokio::test(start_paused = true)]
async fn the_authority_of_another_source_vouches_for_nobody() {
    let (folder, others) = (Folder::new(), Folder::new());
    let (ours, theirs) = (Ca::root("ours"), Ca::root("theirs"));
    write_ca(&folder, &ours, &[&ours]);
    write_files(&others, &theirs.leaf(DB), &theirs);
    let node = Node::with_disk_ca(folder, HOUR);
    let mut db = node.enrol_from("db", DB, Some(files_in(&others)));
    let (web, db) = (node.enrol("web", WEB).ready().await, db.ready().await);
    let leaf = theirs.leaf(DB);
    let judged = |bundles: &TrustBundles| {
        let terms = Terms {
            bundles,
            revocations: Revocations::none(),
            now: node.clock.now(),
            skew: Duration::ZERO,
        };
        verify_peer(&leaf.chain, Presenter::Server, &terms)
    };
    let refused = judged(&web.bundles).unwrap_err();
    assert_eq!(refused.reason(), Reason::UnknownIssuer);
    assert!(judged(&db.bundles).is_ok());
}

#[test]
fn receivers_go_to_other_threads() {
    fn assert_send_and_sync<T: Send + Sync>() {}
    assert_send_and_sync::<IdentityStore>();
    assert_send_and_sync::<mtls_daemon::identity::WorkloadIdentity>();
    assert!(Timings::default().backoff_cap.as_secs() == 60);
}
