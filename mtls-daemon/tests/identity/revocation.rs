//! Withdrawn certificates: what lists say, and what it means when they do not.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mtls_daemon::config::{Crl, CrlDepth, CrlPolicy};
use mtls_daemon::identity::{
    Lists, PeerFault, PeerSvid, Presenter, Revocation, Revocations, Terms, TrustBundles,
    verify_peer,
};
use mtls_daemon::reason::Reason;
use rustls::pki_types::CertificateDer;

use crate::folder::Folder;
use crate::node::{Node, disk_ca_in, files_in, write_ca, write_files};
use crate::pki::{Ca, HOUR, WEB, bundle, trust_domain};

/// Judges `chain` by lists in PEM.
struct Judge<'a> {
    bundles: TrustBundles,
    texts: Vec<String>,
    policy: CrlPolicy,
    depth: CrlDepth,
    chain: &'a [CertificateDer<'static>],
}

impl<'a> Judge<'a> {
    fn new(root: &Ca, chain: &'a [CertificateDer<'static>]) -> Self {
        Self {
            bundles: root.bundles("example.org"),
            texts: Vec::new(),
            policy: CrlPolicy::Hard,
            depth: CrlDepth::Chain,
            chain,
        }
    }

    fn with(mut self, list: rcgen::CertificateRevocationList) -> Self {
        self.texts.push(list.pem().unwrap());
        self
    }

    fn soft(mut self) -> Self {
        self.policy = CrlPolicy::Soft;
        self
    }

    fn leaf_only(mut self) -> Self {
        self.depth = CrlDepth::Leaf;
        self
    }

    fn judge(&self) -> Result<PeerSvid, PeerFault> {
        let mut lists = Lists::default();
        for text in &self.texts {
            lists.add(text.as_bytes()).unwrap();
        }
        self.judge_by(Revocation::new(self.policy, self.depth, Arc::new(lists)))
    }

    fn judge_by(&self, revocation: Revocation) -> Result<PeerSvid, PeerFault> {
        let mut revocations = Revocations::default();
        revocations.put(trust_domain("example.org"), revocation);
        let terms = Terms {
            bundles: &self.bundles,
            revocations: &revocations,
            now: SystemTime::now(),
            skew: Duration::ZERO,
        };
        verify_peer(self.chain, Presenter::Client, &terms)
    }

    fn reason(&self) -> Option<Reason> {
        self.judge().err().map(|fault| fault.reason())
    }
}

#[test]
fn a_listed_certificate_is_refused_and_no_other() {
    let ca = Ca::root("root");
    let (good, bad) = (ca.leaf(WEB), ca.leaf(WEB));
    let list = || ca.crl(&[&bad.serial(), "0102"]);
    let judged = Judge::new(&ca, &good.chain).with(list()).judge().unwrap();
    assert_eq!(judged.revocation_unknown, None);
    let judge = Judge::new(&ca, &bad.chain).with(list());
    assert_eq!(judge.reason(), Some(Reason::Revoked));
    // Being soft is about lists that do not tell.
    assert_eq!(judge.soft().reason(), Some(Reason::Revoked));
}

#[test]
fn an_issuer_without_a_current_list_of_its_own_is_refused() {
    let (ca, other) = (Ca::root("root"), Ca::root("other"));
    let forged = Ca::root("root");
    let leaf = ca.leaf(WEB);
    let judge = || Judge::new(&ca, &leaf.chain);
    let cases = [
        ("no list", judge()),
        ("another issuer's", judge().with(other.crl(&[]))),
        ("a forged one", judge().with(forged.crl(&[]))),
        (
            "a stale one",
            judge().with(ca.crl_until(Duration::ZERO, &[])),
        ),
    ];
    for (what, judge) in cases {
        assert_eq!(judge.reason(), Some(Reason::RevocationUnknown), "{what}");
        let taken = judge
            .soft()
            .judge()
            .unwrap_or_else(|e| panic!("{what}: {e}"));
        assert!(taken.revocation_unknown.is_some(), "{what}");
    }
    let broken = Revocation::at_fault(CrlPolicy::Hard, CrlDepth::Chain, "it is damaged".into());
    let fault = judge().judge_by(broken).unwrap_err();
    assert_eq!(fault.reason(), Reason::RevocationUnknown);
    assert!(fault.to_string().contains("it is damaged"), "{fault}");
}

#[test]
fn a_stale_list_that_names_it_refuses_even_softly() {
    let ca = Ca::root("root");
    let leaf = ca.leaf(WEB);
    let judge = Judge::new(&ca, &leaf.chain)
        .with(ca.crl_until(Duration::ZERO, &[&leaf.serial()]))
        .soft();
    assert_eq!(judge.reason(), Some(Reason::Revoked));
}

#[test]
fn intermediates_are_asked_about_unless_the_leaf_alone_is() {
    let root = Ca::root("root");
    let between = root.intermediate("between");
    let leaf = between.leaf(WEB);
    let serial = mtls_daemon::identity::certificate::Facts::of(&between.certificate)
        .unwrap()
        .serial;
    let judge = || Judge::new(&root, &leaf.chain).with(between.crl(&[]));
    assert_eq!(judge().reason(), Some(Reason::RevocationUnknown));
    assert_eq!(judge().leaf_only().reason(), None);
    assert_eq!(judge().with(root.crl(&[])).reason(), None);
    let revoked = || judge().with(root.crl(&[&serial]));
    assert_eq!(revoked().reason(), Some(Reason::Revoked));
    assert_eq!(revoked().leaf_only().reason(), None);
}

#[test]
fn an_authority_made_anew_under_its_name_has_its_own_list() {
    let (old, new) = (Ca::root("root"), Ca::root("root"));
    for issuer in [&old, &new] {
        let (good, bad) = (issuer.leaf(WEB), issuer.leaf(WEB));
        let bad_serial = bad.serial();
        for order in [[&old, &new], [&new, &old]] {
            let judge = |leaf| {
                let mut judge = Judge::new(&old, leaf);
                judge.bundles = TrustBundles::from_iter([bundle("example.org", &[&old, &new])]);
                order
                    .iter()
                    .fold(judge, |judge, ca| judge.with(ca.crl(&[&bad_serial])))
                    .reason()
            };
            assert_eq!(judge(&good.chain), None);
            assert_eq!(judge(&bad.chain), Some(Reason::Revoked));
        }
    }
}

#[test]
fn files_are_pem_or_der_and_nothing_else() {
    let ca = Ca::root("root");
    let list = ca.crl(&["0102", "03"]);
    let (pem, der) = (list.pem().unwrap(), list.der().to_vec());
    let both = pem.clone() + &Ca::root("other").crl(&[]).pem().unwrap();
    for (text, entries) in [
        (pem.as_bytes(), vec![2]),
        (&der, vec![2]),
        (both.as_bytes(), vec![2, 0]),
    ] {
        let mut lists = Lists::default();
        lists.add(text).unwrap();
        let all = Revocation::new(CrlPolicy::Hard, CrlDepth::Chain, Arc::new(lists));
        let found: Vec<usize> = all.lists().iter().map(|list| list.entries).collect();
        assert_eq!(found, entries);
    }
    let truncated = &der[..der.len() - 3];
    let cases: [(&[u8], &str); 5] = [
        (b"", "holds no revocation list"),
        (ca.pem.as_bytes(), "holds no revocation list"),
        (&pem.as_bytes()[..pem.len() / 2], "damaged"),
        (truncated, "revocation list 1 in it cannot be used"),
        (b"0\x82", "revocation list 1 in it cannot be used"),
    ];
    for (text, expected) in cases {
        let error = Lists::default().add(text).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

fn node(folder: Folder, source: mtls_daemon::config::Source, policy: CrlPolicy) -> Node {
    let files = vec![folder.file("crl.pem")];
    Node::with_crls(
        folder,
        source,
        vec![Crl {
            trust_domain: trust_domain("example.org"),
            files,
            urls: Vec::new(),
            server_ca: None,
            poll: HOUR,
            policy,
            depth: CrlDepth::Chain,
        }],
    )
}

#[tokio::test(start_paused = true)]
async fn an_own_certificate_that_is_revoked_is_replaced_at_once() {
    let folder = Folder::new();
    let ca = Ca::root("root");
    write_ca(&folder, &ca, &[&ca]);
    folder.write("crl.pem", ca.crl(&[]).pem().unwrap());
    let source = disk_ca_in(&folder, HOUR);
    let node = node(folder, source, CrlPolicy::Hard);
    let mut web = node.enrol("web", WEB);
    let first = web.ready().await;
    let serial = first.svid.as_ref().unwrap().serial().to_owned();
    let began = tokio::time::Instant::now();
    node.folder
        .write("crl.pem", ca.crl(&[&serial]).pem().unwrap());
    let second = web.renewed(&first).await;
    assert_eq!(second.failure, None);
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn an_own_certificate_from_files_comes_back_when_the_list_was_wrong() {
    let folder = Folder::new();
    let ca = Ca::root("root");
    let leaf = ca.leaf(WEB);
    write_files(&folder, &leaf, &ca);
    folder.write("crl.pem", ca.crl(&[]).pem().unwrap());
    let source = files_in(&folder);
    let node = node(folder, source, CrlPolicy::Hard);
    let mut web = node.enrol("web", WEB);
    web.ready().await;
    node.folder
        .write("crl.pem", ca.crl(&[&leaf.serial()]).pem().unwrap());
    let gone = web.until("revoked", |state| state.svid.is_none()).await;
    let failure = gone.failure.unwrap();
    assert!(failure.contains("revocation list"), "{failure}");
    node.folder.write("crl.pem", ca.crl(&["01"]).pem().unwrap());
    assert_eq!(web.ready().await.failure, None);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_or_is_stale_does_not_count() {
    let folder = Folder::new();
    let ca = Ca::root("root");
    write_ca(&folder, &ca, &[&ca]);
    let (source, crl) = (disk_ca_in(&folder, HOUR), folder.file("crl.pem"));
    let node = node(folder, source, CrlPolicy::Hard);
    let mut newest = node.store.revocations();
    let domain = trust_domain("example.org");
    let fault = |newest: &mtls_daemon::identity::NewestRevocations| {
        let all = newest.get();
        all.get(&domain).unwrap().fault().map(str::to_owned)
    };
    // Not read yet, and then not there.
    assert!(fault(&newest).unwrap().contains("first time"));
    newest.changed().await;
    assert!(fault(&newest).unwrap().contains("crl.pem: No such file"));

    node.folder.write("crl.pem", ca.crl(&[]).pem().unwrap());
    newest.changed().await;
    assert_eq!(fault(&newest), None);
    // Half of it, and nobody comes to finish.
    let pem = ca.crl(&["01"]).pem().unwrap();
    node.folder.write("crl.pem", &pem[..pem.len() / 2]);
    newest.changed().await;
    assert!(fault(&newest).unwrap().contains("damaged"));
    // A swap in one step.
    node.folder
        .write("crl.new", ca.crl_until(HOUR, &["02"]).pem().unwrap());
    std::fs::rename(node.folder.file("crl.new"), crl).unwrap();
    newest.changed().await;
    assert_eq!(fault(&newest), None);
    // A link to a folder that is swapped, as Kubernetes mounts files.
    let (link, file) = (node.folder.file("..data"), node.folder.file("crl.pem"));
    for (version, serials) in [("v1", &["03", "04"][..]), ("v2", &["05"])] {
        let folder = node.folder.file(version);
        std::fs::create_dir(&folder).unwrap();
        let pem = ca.crl_until(HOUR, serials).pem().unwrap();
        std::fs::write(folder.join("crl.pem"), pem).unwrap();
        let new = node.folder.file("..new");
        std::os::unix::fs::symlink(version, &new).unwrap();
        std::fs::rename(new, &link).unwrap();
        if version == "v1" {
            let new = node.folder.file("crl.new");
            std::os::unix::fs::symlink("..data/crl.pem", &new).unwrap();
            std::fs::rename(new, &file).unwrap();
        }
        newest.changed().await;
        let entries = newest.get().get(&domain).unwrap().lists()[0].entries;
        assert_eq!((fault(&newest), entries), (None, serials.len()));
    }
    // Whoever rides on it hears when its time is over.
    let end = newest.get().get(&domain).unwrap().lists()[0].next_update;
    newest.changed().await;
    assert!(node.clock.now() >= end);
}
