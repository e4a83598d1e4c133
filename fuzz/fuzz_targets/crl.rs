//! Revocation lists, as somebody else writes them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mtls_daemon::config::{CrlDepth, CrlPolicy};
use mtls_daemon::identity::{Lists, Revocation};

fuzz_target!(|text: &[u8]| {
    let mut lists = Lists::default();
    if lists.add(text).is_ok() {
        let lists = Revocation::new(CrlPolicy::Hard, CrlDepth::Chain, lists.into());
        assert!(!lists.lists().is_empty());
        assert!(lists.fault().is_none());
    }
});
