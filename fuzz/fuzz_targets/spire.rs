//! What a SPIRE agent answers: framing, messages, certificates in them.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use mtls_daemon::identity::spire::fuzzing;
use mtls_daemon::spiffe::SpiffeId;

static WEB: LazyLock<SpiffeId> =
    LazyLock::new(|| "spiffe://example.org/web".parse().expect("it is one"));

fuzz_target!(|input: &[u8]| fuzzing::answer(input, &WEB));
