//! What the hooks report, and the packets that are made from it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mtls_daemon::kernel::fuzz_record;

fuzz_target!(|record: &[u8]| {
    let _ = fuzz_record(record);
});
