//! SPIFFE IDs: what parses is written back as it was, and is made of allowed
//! characters alone.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mtls_daemon::spiffe::{SpiffeId, TrustDomain};

fuzz_target!(|text: &str| {
    let domain = text.parse::<TrustDomain>();
    if let Ok(domain) = &domain {
        assert_eq!(domain.as_str(), text);
    }
    let Ok(id) = text.parse::<SpiffeId>() else {
        return;
    };
    assert!(domain.is_err(), "nothing is both");
    assert_eq!(id.as_str(), text);
    assert_eq!(format!("spiffe://{}{}", id.trust_domain(), id.path()), text);
    let allowed = |c: char| c.is_ascii_alphanumeric() || ".-_/:".contains(c);
    assert!(text.chars().all(allowed));
    assert!(!text["spiffe:".len()..].contains(':'));
    let mut segments = id.path().split('/').skip(1);
    assert!(segments.all(|segment| !matches!(segment, "" | "." | "..")));
});
