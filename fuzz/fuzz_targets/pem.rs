//! Files of certificates and keys, as somebody else writes them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mtls_daemon::identity::TrustBundle;
use mtls_daemon::identity::pem;

fuzz_target!(|text: &[u8]| {
    if let Ok(certificates) = pem::certificates(text) {
        assert!(!certificates.is_empty());
        let domain = "example.org".parse().expect("it is one");
        let _ = TrustBundle::new(domain, &certificates);
    }
    if let Err(error) = pem::private_key(text) {
        // No line of a key file ends up in a message.
        let said = error.to_string();
        // Base64: a fuzzer finds our own sentences, too, and writes them in.
        let is_key = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/=".contains(byte);
        let lines = text
            .split(|byte| *byte == b'\n')
            .filter(|line| line.len() > 40 && line.iter().all(is_key));
        for line in lines.filter_map(|line| std::str::from_utf8(line).ok()) {
            assert!(!said.contains(line), "{said}");
        }
    }
});
