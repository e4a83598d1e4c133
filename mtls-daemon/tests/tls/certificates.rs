//! Certificates that must not pass, presented to our server and to our
//! client.

use std::time::Duration;

use mtls_daemon::identity::TrustBundles;
use mtls_daemon::reason::Reason;
use rcgen::{BasicConstraints, CustomExtension, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose};

use crate::pki::{Ca, DB, HOUR, WEB, bundle, in_, only_uris_of, since, uri};
use crate::{Us, judged_as_client, judged_as_server, refused_by_both};

#[tokio::test]
async fn names_that_are_no_spiffe_id() {
    let ca = Ca::root("root");
    let us = Us::new(&ca, WEB);
    for name in [
        "spiffe://EXAMPLE.org/ns/default/sa/db",
        "SPIFFE://example.org/ns/default/sa/db",
        "spiffe://example.org/ns/../ns/default/sa/db",
        "spiffe://example.org/ns/./default/sa/db",
        "spiffe://example.org/ns/default/sa/d%62",
        "spiffe://example.org//ns/default/sa/db",
        "spiffe://example.org/ns/default/sa/db/",
        "spiffe://example.org/ns/default/sa/db\0",
        "spiffe://example.org\0.evil/ns/default/sa/db",
        "spiffe://example.org:443/ns/default/sa/db",
        "spiffe://root@example.org/ns/default/sa/db",
        "spiffe://example.org/ns/default/sa/db?x",
        "spiffe://example.org/ns/default/sa/db#x",
        "spiffe://example.org",
        "https://example.org/ns/default/sa/db",
    ] {
        refused_by_both(&us, &ca.leaf(name), Reason::BadSan).await;
    }
}

#[tokio::test]
async fn not_exactly_one_uri() {
    let ca = Ca::root("root");
    let us = Us::new(&ca, WEB);
    let none = ca.leaf_with(DB, |params| params.subject_alt_names.clear());
    let only_dns = ca.leaf_with(DB, |params| {
        params.subject_alt_names = vec![rcgen::SanType::DnsName("db".try_into().unwrap())];
    });
    let two = ca.leaf_with(DB, |params| params.subject_alt_names.push(uri(WEB)));
    let same_twice = ca.leaf_with(DB, |params| params.subject_alt_names.push(uri(DB)));
    let with_web_page = ca.leaf_with(DB, |params| {
        params.subject_alt_names.push(uri("https://example.org/"));
    });
    for leaf in [none, only_dns, two, same_twice, with_web_page] {
        refused_by_both(&us, &leaf, Reason::BadSan).await;
    }
}

/// A second URI that is not even text does not hide behind the first.
#[tokio::test]
async fn a_name_that_cannot_be_read() {
    let ca = Ca::root("root");
    let us = Us::new(&ca, WEB);
    let mut names = vec![0x86, u8::try_from(DB.len()).unwrap()];
    names.extend_from_slice(DB.as_bytes());
    names.extend_from_slice(&[0x86, 2, 0xff, 0xfe]);
    let mut extension = vec![0x30, u8::try_from(names.len()).unwrap()];
    extension.extend_from_slice(&names);
    let leaf = ca.leaf_with(DB, |params| {
        params.subject_alt_names.clear();
        params.custom_extensions = vec![CustomExtension::from_oid_content(
            &[2, 5, 29, 17],
            extension,
        )];
    });
    refused_by_both(&us, &leaf, Reason::BadSan).await;
}

/// Other kinds of names beside the one URI are allowed.
#[tokio::test]
async fn a_dns_name_beside_is_no_fault() {
    let ca = Ca::root("root");
    let us = Us::new(&ca, WEB);
    let leaf = ca.leaf_with(DB, |params| {
        params
            .subject_alt_names
            .push(rcgen::SanType::DnsName("db".try_into().unwrap()));
    });
    let error = judged_as_server(&us, &leaf, WEB).await;
    // Only the identity is another: the certificate itself passed.
    assert!(
        error
            .to_string()
            .contains("where spiffe://example.org/ns/default/sa/web was expected"),
        "{error}"
    );
}

#[tokio::test]
async fn another_identity_than_the_expected_one() {
    let ca = Ca::root("root");
    let us = Us::new(&ca, WEB);
    for near in [
        "spiffe://example.org/ns/default/sa/db2",
        "spiffe://example.org/ns/default/sa",
        "spiffe://example.org/ns/default/sa/DB",
        "spiffe://example.org/ns/default/sa/db/x",
        WEB,
    ] {
        let error = judged_as_server(&us, &ca.leaf(near), DB).await;
        assert_eq!(error.reason(), Reason::BadSan, "{near}");
        assert_eq!(error.presented.unwrap().claimed.to_string(), near);
    }
}

#[tokio::test]
async fn trust_domains_are_compared_whole() {
    let ca = Ca::root("root");
    let us = Us::new(&ca, WEB);
    for near in [
        "spiffe://example.org.evil/ns/default/sa/db",
        "spiffe://evil.example.org/ns/default/sa/db",
        "spiffe://example.or/ns/default/sa/db",
        "spiffe://xample.org/ns/default/sa/db",
    ] {
        refused_by_both(&us, &ca.leaf(near), Reason::TrustDomain).await;
    }
}

/// An authority that we federate with vouches for its own domain, not for
/// ours: nor does ours for theirs.
#[tokio::test]
async fn no_authority_vouches_for_another_domain() {
    let (ours, theirs) = (Ca::root("ours"), Ca::root("theirs"));
    let us = Us::new(&ours, WEB).trusting(TrustBundles::from_iter([
        ours.bundle("example.org"),
        theirs.bundle("other.test"),
    ]));
    refused_by_both(&us, &theirs.leaf(DB), Reason::UnknownIssuer).await;
    refused_by_both(
        &us,
        &ours.leaf("spiffe://other.test/db"),
        Reason::UnknownIssuer,
    )
    .await;
    let intermediate = theirs.intermediate("ours");
    refused_by_both(&us, &intermediate.leaf(DB), Reason::UnknownIssuer).await;
}

#[tokio::test]
async fn unknown_authorities() {
    let ca = Ca::root("root");
    let us = Us::new(&ca, WEB);
    refused_by_both(&us, &Ca::root("another").leaf(DB), Reason::UnknownIssuer).await;
    // Of the same name, with another key: such as one that was made anew.
    refused_by_both(&us, &Ca::root("root").leaf(DB), Reason::UnknownIssuer).await;
    // With its root among what it presents.
    let other = Ca::root("another");
    let mut leaf = other.leaf(DB);
    leaf.chain.push(other.certificate.clone());
    refused_by_both(&us, &leaf, Reason::UnknownIssuer).await;
}

#[tokio::test]
async fn a_removed_root() {
    let (old, new) = (Ca::root("old"), Ca::root("new"));
    let both = TrustBundles::from_iter([bundle("example.org", &[&old, &new])]);
    let rotating = Us::new(&new, WEB).trusting(both);
    let error = judged_as_server(&rotating, &old.leaf(WEB), DB).await;
    assert_eq!(
        error.reason(),
        Reason::BadSan,
        "the old root still counts: {error}"
    );
    let rotated = Us::new(&new, WEB);
    refused_by_both(&rotated, &old.leaf(DB), Reason::UnknownIssuer).await;
}

#[tokio::test]
async fn dates() {
    let ca = Ca::root("root");
    let us = Us::new(&ca, WEB);
    let expired = ca.leaf_with(DB, |params| {
        params.not_after = since(Duration::from_secs(2));
    });
    refused_by_both(&us, &expired, Reason::Expired).await;
    let future = ca.leaf_with(DB, |params| params.not_before = in_(HOUR));
    refused_by_both(&us, &future, Reason::NotYetValid).await;

    let ended = ca.intermediate_with("ended", |params| {
        params.not_after = since(Duration::from_secs(2));
    });
    refused_by_both(&us, &ended.leaf(DB), Reason::Expired).await;
    let coming = ca.intermediate_with("coming", |params| params.not_before = in_(HOUR));
    refused_by_both(&us, &coming.leaf(DB), Reason::NotYetValid).await;

    // A root ends too, though it lies in the bundle.
    let ended = Ca::root_with("ended", |params| {
        params.not_after = since(Duration::from_secs(2));
    });
    let us = Us::new(&ca, WEB).trusting(TrustBundles::from_iter([bundle(
        "example.org",
        &[&ca, &ended],
    )]));
    refused_by_both(&us, &ended.leaf(DB), Reason::Expired).await;
}

#[tokio::test]
async fn beyond_the_tolerated_skew() {
    let ca = Ca::root("root");
    let mut us = Us::new(&ca, WEB);
    us.judging.skew = Duration::from_secs(30);
    let late = ca.leaf_with(DB, |params| {
        params.not_after = since(Duration::from_secs(60));
    });
    refused_by_both(&us, &late, Reason::Expired).await;
    let early = ca.leaf_with(DB, |params| {
        params.not_before = in_(Duration::from_secs(60));
    });
    refused_by_both(&us, &early, Reason::NotYetValid).await;
}

#[tokio::test]
async fn extended_key_usage() {
    let ca = Ca::root("root");
    let us = Us::new(&ca, WEB);
    let only = |usages: &[ExtendedKeyUsagePurpose]| {
        ca.leaf_with(DB, |params| params.extended_key_usages = usages.to_vec())
    };
    let server = only(&[ExtendedKeyUsagePurpose::ServerAuth]);
    assert_eq!(
        judged_as_client(&us, &server).await.reason(),
        Reason::BadEku
    );
    let client = only(&[ExtendedKeyUsagePurpose::ClientAuth]);
    assert_eq!(
        judged_as_server(&us, &client, DB).await.reason(),
        Reason::BadEku
    );
    for neither in [
        only(&[]),
        only(&[ExtendedKeyUsagePurpose::CodeSigning]),
        only(&[ExtendedKeyUsagePurpose::Any]),
    ] {
        refused_by_both(&us, &neither, Reason::BadEku).await;
    }
    let narrow = ca.intermediate_with("narrow", |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::EmailProtection];
    });
    refused_by_both(&us, &narrow.leaf(DB), Reason::BadEku).await;
}

#[tokio::test]
async fn path_lengths() {
    let ca = Ca::root("root");
    let us = Us::new(&ca, WEB);
    let last = ca.intermediate_with("last", |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    });
    refused_by_both(
        &us,
        &last.intermediate("one too many").leaf(DB),
        Reason::BadChain,
    )
    .await;

    let only_leaves = Ca::root_with("only leaves", |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    });
    let us = Us::new(&only_leaves, WEB);
    let sub = only_leaves.intermediate("one too many");
    refused_by_both(&us, &sub.leaf(DB), Reason::BadChain).await;
}

#[tokio::test]
async fn authorities_and_leaves_are_different_things() {
    let ca = Ca::root("root");
    let us = Us::new(&ca, WEB);
    let authority = ca.leaf_with(DB, |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    });
    refused_by_both(&us, &authority, Reason::BadChain).await;
    let signer = ca.leaf_with(DB, |params| {
        params.key_usages.push(KeyUsagePurpose::KeyCertSign);
    });
    refused_by_both(&us, &signer, Reason::BadChain).await;
    let cannot_sign = ca.leaf_with(DB, |params| {
        params.key_usages = vec![KeyUsagePurpose::KeyEncipherment];
    });
    refused_by_both(&us, &cannot_sign, Reason::BadChain).await;

    // A workload that makes certificates with its own.
    let named = ca.leaf_with(WEB, |params| {
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, "web");
    });
    let usurper = ca.misused(named);
    refused_by_both(&us, &usurper.leaf(DB), Reason::BadChain).await;
}

#[tokio::test]
async fn name_constraints() {
    let ca = Ca::root("root");
    let us = Us::new(&ca, WEB);
    let bound = ca.intermediate_with("bound", |params| {
        params.custom_extensions = vec![only_uris_of("other.test")];
    });
    refused_by_both(&us, &bound.leaf(DB), Reason::BadChain).await;
    // Not even those that would permit it: see docs/identity.md.
    let bound = ca.intermediate_with("bound", |params| {
        params.custom_extensions = vec![only_uris_of("example.org")];
    });
    refused_by_both(&us, &bound.leaf(DB), Reason::BadChain).await;
}

#[tokio::test]
async fn giant_chains() {
    let ca = Ca::root("root");
    let us = Us::new(&ca, WEB);
    let stuffed = |count| {
        let mut leaf = ca.leaf(DB);
        let stuffing = Ca::root("stuffing").certificate;
        leaf.chain.extend(std::iter::repeat_n(stuffing, count));
        leaf
    };
    // More certificates than are looked at.
    refused_by_both(&us, &stuffed(10), Reason::BadChain).await;
    // More bytes than the TLS library takes.
    refused_by_both(&us, &stuffed(300), Reason::BadChain).await;
}

#[tokio::test]
async fn a_certificate_without_its_key() {
    let ca = Ca::root("root");
    let us = Us::new(&ca, WEB);
    let mut stolen = ca.leaf(DB);
    stolen.key = rcgen::KeyPair::generate().unwrap();
    refused_by_both(&us, &stolen, Reason::BadChain).await;
}
