//! Fields of a request, such as `forwarded` and `baggage`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mtls_daemon::tunnel::fuzzing;

fuzz_target!(|lines: &[u8]| {
    if let Some(request) = fuzzing::fields(lines) {
        // What we understood is what we would say.
        let again = fuzzing::head(&fuzzing::encoded(&request));
        assert_eq!(again.as_ref(), Some(&request));
    }
});
