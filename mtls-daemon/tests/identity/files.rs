//! Certificates that something else writes, replaced in each of the ways in
//! which programs and people do it.

use std::os::unix::fs::symlink;
use std::time::Duration;

use crate::folder::Folder;
use crate::node::{Node, files_in, generation, write_files};
use crate::pki::{Ca, DB, Leaf, WEB, in_, since};

fn node() -> Node {
    Node::new(Folder::new(), None, Vec::new())
}

fn serial(leaf: &Leaf, ca: &Ca) -> String {
    leaf.svid(WEB, &ca.bundles("example.org"))
        .serial()
        .to_owned()
}

#[tokio::test(start_paused = true)]
async fn they_are_taken_and_followed() {
    let (node, ca) = (node(), Ca::root("root"));
    let first = ca.leaf(WEB);
    write_files(&node.folder, &first, &ca);
    let mut web = node.enrol_from("web", WEB, Some(files_in(&node.folder)));
    let state = web.ready().await;
    assert_eq!(state.svid.as_ref().unwrap().serial(), serial(&first, &ca));
    assert_eq!(state.next_renewal, None, "nobody is asked");

    let second = ca.intermediate("second").leaf(WEB);
    write_files(&node.folder, &second, &ca);
    let next = web.renewed(&state).await;
    assert_eq!(
        generation(&next, "example.org"),
        generation(&state, "example.org")
    );
    assert_eq!(next.svid.unwrap().key().cert.len(), 2);
}

/// As the kubelet does it: `..data` points to a folder, and is renamed over.
#[tokio::test(start_paused = true)]
async fn a_mounted_secret_is_swapped() {
    let (node, ca) = (node(), Ca::root("root"));
    let mount = |name: &str, leaf: &Leaf| {
        node.folder
            .write(&format!("{name}/tls.crt"), leaf.chain_pem());
        node.folder
            .write(&format!("{name}/tls.key"), leaf.key_pem());
        node.folder.write(&format!("{name}/ca.crt"), &ca.pem);
        symlink(name, node.folder.file("..data_tmp")).unwrap();
        std::fs::rename(node.folder.file("..data_tmp"), node.folder.file("..data")).unwrap();
    };
    mount("..2026_01", &ca.leaf(WEB));
    for name in ["tls.crt", "tls.key", "ca.crt"] {
        symlink(format!("..data/{name}"), node.folder.file(name)).unwrap();
    }
    let mut web = node.enrol_from("web", WEB, Some(files_in(&node.folder)));
    let mut state = web.ready().await;
    for nth in 2..6 {
        let leaf = ca.leaf(WEB);
        mount(&format!("..2026_0{nth}"), &leaf);
        state = web.renewed(&state).await;
        assert_eq!(state.svid.as_ref().unwrap().serial(), serial(&leaf, &ca));
        assert_eq!(state.failure, None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_half_written_pair_is_never_served() {
    let (node, ca) = (node(), Ca::root("root"));
    write_files(&node.folder, &ca.leaf(WEB), &ca);
    let mut web = node.enrol_from("web", WEB, Some(files_in(&node.folder)));
    let state = web.ready().await;

    // The certificate first, the key never: the old pair stays, and it is said.
    let next = ca.leaf(WEB);
    node.folder.write("tls.crt", next.chain_pem());
    let failure = web.failing().await;
    assert!(
        failure.contains("tls.crt: the private key does not belong to the certificate"),
        "{failure}"
    );
    let held = web.now().svid.unwrap();
    assert_eq!(held.serial(), state.svid.as_ref().unwrap().serial());

    node.folder.write("tls.key", next.key_pem());
    let whole = web.until("whole", |state| state.failure.is_none()).await;
    assert_eq!(whole.svid.unwrap().serial(), serial(&next, &ca));
}

/// A writer that is done within a second raises no alarm.
#[tokio::test(start_paused = true)]
async fn a_writer_gets_a_moment() {
    let (node, ca) = (node(), Ca::root("root"));
    write_files(&node.folder, &ca.leaf(WEB), &ca);
    let mut web = node.enrol_from("web", WEB, Some(files_in(&node.folder)));
    let state = web.ready().await;
    let next = ca.leaf(WEB);
    let text = next.chain_pem();
    node.folder.write("tls.crt", &text[..text.len() / 2]);
    // Long enough to be seen half-way, too short to be a failure.
    tokio::time::sleep(Duration::from_millis(2400)).await;
    node.folder.write("tls.crt", &text);
    node.folder.write("tls.key", next.key_pem());
    let renewed = web.renewed(&state).await;
    assert_eq!(renewed.failure, None);
    assert_eq!(renewed.renewals.failed, 0);
}

#[tokio::test(start_paused = true)]
async fn touched_or_rewritten_alike_is_no_change() {
    let (node, ca) = (node(), Ca::root("root"));
    let leaf = ca.leaf(WEB);
    write_files(&node.folder, &leaf, &ca);
    let mut web = node.enrol_from("web", WEB, Some(files_in(&node.folder)));
    let state = web.ready().await;
    for _ in 0..5 {
        write_files(&node.folder, &leaf, &ca);
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    assert_eq!(web.now().generation, state.generation);
}

/// A new bundle counts at once, also beside a certificate that it no longer
/// covers: the root was withdrawn for a reason.
#[tokio::test(start_paused = true)]
async fn a_withdrawn_root_is_withdrawn() {
    let (node, old, new) = (node(), Ca::root("old"), Ca::root("new"));
    write_files(&node.folder, &old.leaf(WEB), &old);
    let mut web = node.enrol_from("web", WEB, Some(files_in(&node.folder)));
    let state = web.ready().await;
    node.folder.write("ca.crt", &new.pem);
    let failure = web.failing().await;
    assert!(
        failure.contains("peers would refuse the certificate"),
        "{failure}"
    );
    let now = web.now();
    assert_eq!(
        now.bundles.iter().next().unwrap().roots()[0].subject,
        "CN=new"
    );
    assert_eq!(
        now.svid.unwrap().serial(),
        state.svid.as_ref().unwrap().serial(),
        "other nodes may lag behind"
    );

    write_files(&node.folder, &new.leaf(WEB), &new);
    let well = web.until("well", |state| state.failure.is_none()).await;
    assert!(generation(&well, "example.org") > generation(&state, "example.org"));
}

#[tokio::test(start_paused = true)]
async fn the_certificate_of_another_is_refused() {
    let (node, ca) = (node(), Ca::root("root"));
    write_files(&node.folder, &ca.leaf(DB), &ca);
    let mut web = node.enrol_from("web", WEB, Some(files_in(&node.folder)));
    let failure = web.failing().await;
    assert!(
        failure.contains(&format!(
            "the certificate is for {DB}, but the workload is configured as {WEB}"
        )),
        "{failure}"
    );
    assert!(web.now().svid.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_certificate_without_a_name_says_what_to_do() {
    let (node, ca) = (node(), Ca::root("root"));
    let nameless = ca.leaf_with(WEB, |params| params.subject_alt_names.clear());
    write_files(&node.folder, &nameless, &ca);
    let mut web = node.enrol_from("web", WEB, Some(files_in(&node.folder)));
    let failure = web.failing().await;
    assert!(failure.contains("openssl req -new"), "{failure}");
}

#[tokio::test(start_paused = true)]
async fn ending_without_a_successor() {
    let (node, ca) = (node(), Ca::root("root"));
    let leaf = ca.leaf_with(WEB, |params| {
        params.not_before = since(Duration::ZERO);
        params.not_after = in_(Duration::from_secs(1000));
    });
    write_files(&node.folder, &leaf, &ca);
    let mut web = node.enrol_from("web", WEB, Some(files_in(&node.folder)));
    web.ready().await;

    let began = tokio::time::Instant::now();
    let failure = web.failing().await;
    assert!(
        failure.contains("its source has not brought a successor"),
        "{failure}"
    );
    let waited = began.elapsed().as_secs();
    assert!((790..=810).contains(&waited), "warned after {waited} s");
    assert!(web.now().svid.is_some(), "it is still good");

    let ended = web.until("refused", |state| state.svid.is_none()).await;
    assert!(ended.failure.unwrap().contains("ended at"));
    let waited = began.elapsed().as_secs();
    assert!((990..=1010).contains(&waited), "refused after {waited} s");
}

/// A certificate from tomorrow is taken tomorrow, without a word from anyone.
#[tokio::test(start_paused = true)]
async fn not_valid_yet() {
    let (node, ca) = (node(), Ca::root("root"));
    let early = ca.leaf_with(WEB, |params| {
        params.not_before = in_(Duration::from_secs(600));
        params.not_after = in_(Duration::from_secs(7200));
    });
    write_files(&node.folder, &early, &ca);
    let mut web = node.enrol_from("web", WEB, Some(files_in(&node.folder)));
    let failure = web.failing().await;
    assert!(
        failure.contains("later than now: compare the clocks"),
        "{failure}"
    );
    let state = web.ready().await;
    assert_eq!(state.failure, None);
}
