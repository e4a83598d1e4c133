//! Certificates as peers present them: nothing panics, nothing but the one
//! chain that the bundle's root signed is believed, and what is printed of a
//! claim is safe to print.
#![no_main]

use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

use libfuzzer_sys::fuzz_target;
use mtls_daemon::identity::certificate::Facts;
use mtls_daemon::identity::{
    Presenter, Revocations, Terms, TrustBundle, TrustBundles, pem, verify_peer,
};
use mtls_daemon::spiffe::{Claimed, SpiffeId};
use rustls::pki_types::CertificateDer;

/// The leaf that the root in `ROOT` signed; its bytes are among the seeds.
const LEAF: &[u8] = include_bytes!("../seeds/certificate/leaf");
const ROOT: &[u8] = include_bytes!("../seeds/pem/root");

static BUNDLES: LazyLock<TrustBundles> = LazyLock::new(|| {
    let root = pem::certificates(ROOT).expect("the root is one");
    let domain = "example.org".parse().expect("it is one");
    let bundle = TrustBundle::new(domain, &root).expect("the root is an authority");
    TrustBundles::from_iter([Arc::new(bundle)])
});

/// While both the root and the leaf are valid.
const THEN: Duration = Duration::from_secs(1_800_000_000);

fuzz_target!(|bytes: &[u8]| {
    let claimed = Claimed::by_certificate(bytes).to_string();
    assert!(!claimed.chars().any(char::is_control));
    let id = SpiffeId::from_certificate(bytes);

    // The input as one certificate, and split in two.
    let whole = CertificateDer::from(bytes);
    let _ = Facts::of(&whole);
    let (first, second) = bytes.split_at(bytes.len() / 2);
    let chains = [
        vec![whole.clone()],
        vec![whole.clone(), CertificateDer::from(LEAF)],
        vec![CertificateDer::from(first), CertificateDer::from(second)],
        vec![CertificateDer::from(LEAF), whole],
    ];
    for chain in chains {
        for presenter in [Presenter::Client, Presenter::Server] {
            let now = SystemTime::UNIX_EPOCH + THEN;
            let judged = verify_peer(
                &chain,
                presenter,
                &Terms {
                    bundles: &BUNDLES,
                    revocations: Revocations::none(),
                    now,
                    skew: Duration::ZERO,
                },
            );
            if let Ok(peer) = judged {
                // Whoever forges a signature has found more than a bug here.
                assert_eq!(&chain[0][..], LEAF);
                assert_eq!(peer.id.as_str(), "spiffe://example.org/ns/shop/sa/web");
            }
        }
    }
    if bytes == LEAF {
        assert!(id.is_ok());
    }
});
