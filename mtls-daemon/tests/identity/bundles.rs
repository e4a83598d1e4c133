//! Trust bundles and their generations.

use std::sync::Arc;

use mtls_daemon::identity::{BundleError, TrustBundle, TrustBundles};

use crate::pki::{Ca, WEB, bundle, trust_domain};

#[test]
fn the_same_roots_keep_their_generation() {
    let (a, b) = (Ca::root("a"), Ca::root("b"));
    let mut bundles = TrustBundles::default();
    assert!(bundles.put(bundle("example.org", &[&a, &b])));
    let generation = |bundles: &TrustBundles| {
        bundles
            .get(&trust_domain("example.org"))
            .unwrap()
            .generation()
    };
    let first = generation(&bundles);
    assert!(!bundles.put(bundle("example.org", &[&a, &b])));
    assert!(
        !bundles.put(bundle("example.org", &[&b, &a, &b])),
        "order and repetition are nothing"
    );
    assert_eq!(generation(&bundles), first);
    assert!(bundles.put(bundle("example.org", &[&b])));
    assert!(generation(&bundles) > first);
}

#[test]
fn no_two_bundles_share_a_generation() {
    let ca = Ca::root("root");
    let one: Arc<TrustBundle> = ca.bundle("example.org");
    let other = ca.bundle("other.test");
    assert_ne!(one.generation(), other.generation());
    assert!(
        !one.same_roots(&other),
        "another trust domain is another bundle"
    );
}

#[test]
fn what_is_no_bundle() {
    let ca = Ca::root("root");
    let domain = trust_domain("example.org");
    assert_eq!(
        TrustBundle::new(domain.clone(), &[]).err(),
        Some(BundleError::Empty)
    );
    let leaf = ca.leaf(WEB).chain.remove(0);
    let error = TrustBundle::new(domain.clone(), &[ca.certificate.clone(), leaf])
        .err()
        .unwrap();
    assert!(
        error.to_string().starts_with("certificate 2 in it"),
        "{error}"
    );
    let error = TrustBundle::new(domain, &[vec![0x30, 0].into()])
        .err()
        .unwrap();
    assert_eq!(error, BundleError::Unreadable(1));
}

#[test]
fn the_roots_are_described() {
    let ca = Ca::root("the root");
    let bundle = ca.bundle("example.org");
    assert_eq!(bundle.roots().len(), 1);
    assert_eq!(bundle.roots()[0].subject, "CN=the root");
}
