//! Lines on standard output, one event each.

use std::io::{self, Write};

use mtls_tests::script::Event;
use nix::errno::Errno;

/// Prints an event. Nobody listens any more? Then nobody misses it.
pub(crate) fn say(event: &Event) {
    if let Ok(line) = serde_json::to_string(event) {
        let _ = writeln!(io::stdout().lock(), "{line}");
    }
}

/// The kernel's word for an error, such as ECONNREFUSED; END for an end of
/// the stream in the wrong place.
pub(crate) fn error_name(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => format!("{:?}", Errno::from_raw(number)),
        None if error.kind() == io::ErrorKind::UnexpectedEof => "END".into(),
        None => error.to_string(),
    }
}
