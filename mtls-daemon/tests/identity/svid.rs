//! A workload's own certificate is checked before anything uses it, and
//! everything that is wrong is said at once.

use std::time::{Duration, SystemTime};

use mtls_daemon::identity::{Revocations, Svid, SvidFault, TrustBundles};
use rcgen::{BasicConstraints, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose};

use crate::pki::{Ca, DB, HOUR, Leaf, WEB, id, in_, since};

fn faults(leaf: &Leaf, bundles: &TrustBundles) -> Vec<SvidFault> {
    match Svid::admit(
        leaf.issued(),
        &id(WEB),
        bundles,
        Revocations::none(),
        SystemTime::now(),
    ) {
        Ok(svid) => panic!("{svid:?} was taken"),
        Err(faults) => faults.0,
    }
}

#[test]
fn a_good_one() {
    let ca = Ca::root("root");
    let leaf = ca.intermediate("second").leaf(WEB);
    let now = SystemTime::now();
    let svid = Svid::admit(
        leaf.issued(),
        &id(WEB),
        &ca.bundles("example.org"),
        Revocations::none(),
        now,
    )
    .unwrap();
    assert_eq!(*svid.id(), id(WEB));
    assert_eq!(svid.key().cert, leaf.chain);
    assert_eq!(svid.obtained(), now);
    assert_eq!(svid.good_until(), svid.not_after());
    assert!(!format!("{svid:?}").contains("key"));
}

#[test]
fn never_another_identity() {
    let ca = Ca::root("root");
    let bundles = ca.bundles("example.org");
    for other in [
        DB,
        "spiffe://example.org/ns/default/sa/web2",
        "spiffe://example.org/ns/default/sa",
    ] {
        let expected = SvidFault::OtherIdentity {
            wanted: id(WEB),
            got: id(other),
        };
        assert_eq!(faults(&ca.leaf(other), &bundles), [expected]);
    }
}

#[test]
fn without_a_name_the_error_gives_the_line_to_use() {
    let ca = Ca::root("root");
    let leaf = ca.leaf_with(WEB, |params| params.subject_alt_names.clear());
    let found = faults(&leaf, &ca.bundles("example.org"));
    let text = found[0].to_string();
    assert!(
        text.contains("it carries no URI subject alternative name"),
        "{text}"
    );
    assert!(text.contains("openssl req -new"), "{text}");
    assert!(
        text.contains(&format!("subjectAltName=critical,URI:{WEB}")),
        "{text}"
    );
}

#[test]
fn the_key_belongs_to_the_certificate() {
    let ca = Ca::root("root");
    let mut leaf = ca.leaf(WEB);
    leaf.key = KeyPair::generate().unwrap();
    assert_eq!(
        faults(&leaf, &ca.bundles("example.org")),
        [SvidFault::OtherKey]
    );
}

#[test]
fn both_usages_and_dates() {
    let ca = Ca::root("root");
    let bundles = ca.bundles("example.org");
    for usages in [
        vec![],
        vec![ExtendedKeyUsagePurpose::ServerAuth],
        vec![ExtendedKeyUsagePurpose::ClientAuth],
    ] {
        let leaf = ca.leaf_with(WEB, |params| params.extended_key_usages = usages);
        assert_eq!(faults(&leaf, &bundles), [SvidFault::ExtendedKeyUsage]);
    }
    let ended = ca.leaf_with(WEB, |params| {
        params.not_after = since(Duration::from_secs(5));
    });
    assert!(matches!(
        faults(&ended, &bundles)[..],
        [SvidFault::Expired(_)]
    ));
    let coming = ca.leaf_with(WEB, |params| params.not_before = in_(HOUR));
    assert!(matches!(
        faults(&coming, &bundles)[..],
        [SvidFault::NotYetValid(_)]
    ));
}

#[test]
fn everything_at_once() {
    let ca = Ca::root("root");
    let mut leaf = ca.leaf_with(DB, |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.extended_key_usages = vec![];
        params.not_after = since(Duration::from_secs(5));
    });
    leaf.key = KeyPair::generate().unwrap();
    let found = faults(&leaf, &ca.bundles("example.org"));
    assert_eq!(found.len(), 6, "{found:?}");
}

#[test]
fn it_leads_to_a_root_of_its_own_domain() {
    let (ours, theirs) = (Ca::root("ours"), Ca::root("theirs"));
    let bundles =
        TrustBundles::from_iter([ours.bundle("example.org"), theirs.bundle("other.test")]);
    let text = faults(&theirs.leaf(WEB), &bundles)[0].to_string();
    assert_eq!(
        text,
        "peers would refuse the certificate: no root in the trust bundle of example.org issued the peer's certificate"
    );
    let text = faults(&ours.leaf(WEB), &TrustBundles::default())[0].to_string();
    assert!(
        text.contains("no trust bundle for the peer's trust domain example.org"),
        "{text}"
    );
}
