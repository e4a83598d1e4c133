//! Proofs of renewed certificates, as peers send them on a tunnel: nothing
//! panics, and nobody proves what they do not hold the key of.
#![no_main]

use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

use libfuzzer_sys::fuzz_target;
use mtls_daemon::clock::Clock;
use mtls_daemon::identity::{NewestRevocations, Presenter, TrustBundle, TrustBundles, pem};
use mtls_daemon::spiffe::SpiffeId;
use mtls_daemon::tls::Judging;
use mtls_daemon::tls::proof::{Binding, check};

const ROOT: &[u8] = include_bytes!("../seeds/pem/root");

struct End {
    binding: Binding,
    bundles: TrustBundles,
    judging: Judging,
    /// Whose certificate is among the seeds.
    peer: SpiffeId,
}

static END: LazyLock<End> = LazyLock::new(|| {
    let root = pem::certificates(ROOT).expect("the root is one");
    let domain = "example.org".parse().expect("it is one");
    let bundle = TrustBundle::new(domain, &root).expect("the root is an authority");
    // While both the root and the leaf are valid.
    let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    End {
        binding: Binding::known(),
        bundles: TrustBundles::from_iter([Arc::new(bundle)]),
        judging: Judging {
            clock: Clock::settable(then).0,
            skew: Duration::ZERO,
            revocations: NewestRevocations::none(),
        },
        peer: "spiffe://example.org/ns/shop/sa/web"
            .parse()
            .expect("it is one"),
    }
});

fuzz_target!(|proof: &[u8]| {
    for presenter in [Presenter::Client, Presenter::Server] {
        let end = &*END;
        let checked = check(
            proof,
            presenter,
            &end.binding,
            &end.peer,
            &end.bundles,
            &end.judging,
        );
        assert!(checked.is_err(), "{checked:?}");
    }
});
