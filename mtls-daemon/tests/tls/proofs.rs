//! Renewed certificates, proved on a connection that is open.

use std::sync::Arc;

use mtls_daemon::config::{CrlDepth, CrlPolicy};
use mtls_daemon::identity::{PeerFault, Presenter, Revocation, Revocations, TrustBundles};
use mtls_daemon::reason::Reason;
use mtls_daemon::tls::proof::{Binding, ProofFault, check, prove};
use proptest::prelude::*;
use rustls::sign::CertifiedKey;

use crate::pki::{Ca, DB, HOUR, Leaf, WEB, id, in_, since};
use crate::{Us, judging, sockets};

/// The two ends of one connection: the client's binding and the server's.
async fn connection(ca: &Ca) -> (Binding, Binding) {
    let (web, db) = (Us::new(ca, WEB), Us::new(ca, DB));
    let (dialling, dialled) = sockets().await;
    let (client, server) = tokio::join!(web.connect(dialling, DB), db.accept(dialled));
    (client.unwrap().binding, server.unwrap().binding)
}

/// WEB is the client and proves; the server checks.
fn checked(proof: &[u8], binding: &Binding, bundles: &TrustBundles) -> Result<String, ProofFault> {
    let web = id(WEB);
    check(proof, Presenter::Client, binding, &web, bundles, &judging())
        .map(|(peer, chain)| format!("{} {}", peer.serial, chain.len()))
}

fn proof_of(key: &Arc<CertifiedKey>, binding: &Binding) -> Vec<u8> {
    prove(key, Presenter::Client, binding).unwrap()
}

fn reason(leaf: &Leaf, bindings: &(Binding, Binding), bundles: &TrustBundles) -> Reason {
    let proof = proof_of(&leaf.certified(), &bindings.0);
    checked(&proof, &bindings.1, bundles).unwrap_err().reason()
}

#[tokio::test]
async fn either_end_proves_a_newer_certificate_to_the_other() {
    let ca = Ca::root("root");
    let (client, server) = connection(&ca).await;
    let bundles = ca.bundles("example.org");
    let renewed = ca.leaf(WEB);
    let proof = proof_of(&renewed.certified(), &client);
    let expected = format!("{} 1", renewed.serial());
    assert_eq!(checked(&proof, &server, &bundles).unwrap(), expected);

    let renewed = ca.intermediate("between").leaf(DB);
    let proof = prove(&renewed.certified(), Presenter::Server, &server).unwrap();
    let (peer, chain) = check(
        &proof,
        Presenter::Server,
        &client,
        &id(DB),
        &bundles,
        &judging(),
    )
    .unwrap();
    assert_eq!((peer.serial, chain.len()), (renewed.serial(), 2));
}

#[tokio::test]
async fn a_proof_counts_on_its_own_connection_and_from_its_own_end() {
    let ca = Ca::root("root");
    let (client, server) = connection(&ca).await;
    let (_, another) = connection(&ca).await;
    let bundles = ca.bundles("example.org");
    let key = ca.leaf(WEB).certified();
    let proof = proof_of(&key, &client);
    assert!(checked(&proof, &server, &bundles).is_ok());
    let carried = checked(&proof, &another, &bundles);
    assert!(matches!(carried, Err(ProofFault::Signature)), "{carried:?}");
    let reflected = prove(&key, Presenter::Server, &client).unwrap();
    let reflected = checked(&reflected, &server, &bundles);
    assert!(
        matches!(reflected, Err(ProofFault::Signature)),
        "{reflected:?}"
    );
}

#[tokio::test]
async fn the_renewed_certificate_is_judged_like_the_first() {
    let (ca, stranger) = (Ca::root("root"), Ca::root("root"));
    let both = connection(&ca).await;
    let bundles = ca.bundles("example.org");
    let over = ca.leaf_with(WEB, |params| {
        (params.not_before, params.not_after) = (since(2 * HOUR), since(HOUR));
    });
    let early = ca.leaf_with(WEB, |params| {
        (params.not_before, params.not_after) = (in_(HOUR), in_(2 * HOUR));
    });
    for (leaf, expected) in [
        (stranger.leaf(WEB), Reason::UnknownIssuer),
        (ca.leaf(DB), Reason::BadSan),
        (ca.leaf("spiffe://other.test/web"), Reason::TrustDomain),
        (over, Reason::Expired),
        (early, Reason::NotYetValid),
    ] {
        assert_eq!(reason(&leaf, &both, &bundles), expected);
    }
}

#[tokio::test]
async fn a_certificate_without_its_key_is_not_proved() {
    let ca = Ca::root("root");
    let (client, server) = connection(&ca).await;
    let (good, bad) = (ca.leaf(WEB), ca.leaf(WEB));
    let stolen = Arc::new(CertifiedKey::new(good.chain.clone(), bad.signing_key()));
    let judged = checked(
        &proof_of(&stolen, &client),
        &server,
        &ca.bundles("example.org"),
    );
    assert!(matches!(judged, Err(ProofFault::Signature)), "{judged:?}");
}

#[tokio::test]
async fn whatever_bytes_come_only_the_true_ones_count() {
    let ca = Ca::root("root");
    let (client, server) = connection(&ca).await;
    let bundles = ca.bundles("example.org");
    let proof = proof_of(&ca.leaf(WEB).certified(), &client);
    assert!(checked(&proof, &server, &bundles).is_ok());
    for length in 0..proof.len() {
        assert!(checked(&proof[..length], &server, &bundles).is_err());
    }
    let mut longer = proof.clone();
    longer.push(0);
    assert!(matches!(
        checked(&longer, &server, &bundles),
        Err(ProofFault::Malformed)
    ));
    proptest!(ProptestConfig::with_cases(2_000), |(at in 0..proof.len(), bits in 1_u8..)| {
        let mut changed = proof.clone();
        changed[at] ^= bits;
        prop_assert!(checked(&changed, &server, &bundles).is_err());
    });
    proptest!(|(noise: Vec<u8>)| {
        prop_assert!(checked(&noise, &server, &bundles).is_err());
    });
}

#[tokio::test]
async fn a_revoked_certificate_is_not_taken() {
    let ca = Ca::root("root");
    let (client, server) = connection(&ca).await;
    let mut revocations = Revocations::default();
    let none = Revocation::at_fault(CrlPolicy::Hard, CrlDepth::Chain, "it is not there".into());
    revocations.put("example.org".parse().unwrap(), none);
    let mut judging = judging();
    judging.revocations = revocations.into();
    let proof = proof_of(&ca.leaf(WEB).certified(), &client);
    let bundles = ca.bundles("example.org");
    let judged = check(
        &proof,
        Presenter::Client,
        &server,
        &id(WEB),
        &bundles,
        &judging,
    );
    let fault = judged.unwrap_err();
    assert!(
        matches!(fault, ProofFault::Peer(PeerFault::RevocationUnknown(..))),
        "{fault}"
    );
}
