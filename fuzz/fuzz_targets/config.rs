//! The configuration and the files of policies: text of an operator, which is
//! refused with the place of the mistake, or taken.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mtls_daemon::config;

fuzz_target!(|text: &str| {
    if let Err(mistakes) = config::parse("fuzz.toml", text) {
        assert!(!mistakes.to_string().is_empty());
    }
});
