//! TLS records of a peer that holds the right keys.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mtls_daemon::tls::fuzz_records;

fuzz_target!(|input: &[u8]| fuzz_records(input));
