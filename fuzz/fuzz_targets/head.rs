//! Header blocks, and what is taken for a request in them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mtls_daemon::tunnel::fuzzing;

fuzz_target!(|block: &[u8]| {
    if let Some(request) = fuzzing::head(block) {
        // What we understood is what we would say.
        let again = fuzzing::head(&fuzzing::encoded(&request));
        assert_eq!(again.as_ref(), Some(&request));
    }
});
