//! What a peer sends on a tunnel, once TLS has opened it, to endpoints in both
//! roles.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mtls_daemon::tunnel::fuzzing;

fuzz_target!(|input: &[u8]| {
    // Only this machine's sockets can fail.
    fuzzing::endpoint(input).expect("sockets of our own");
});
