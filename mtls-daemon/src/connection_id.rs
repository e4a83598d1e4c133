//! The id of one connection, the same in the access logs of both daemons: the
//! trace id of the W3C traceparent that travels with the tunnel's CONNECT.

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use rustls::crypto::{SecureRandom, aws_lc_rs};
use thiserror::Error;

/// Sixteen bytes, not all zero, written as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId([u8; 16]);

/// Why a text is no traceparent or connection id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ConnectionIdError {
    #[error("a traceparent is version-traceid-parentid-flags, in lower-case hexadecimal")]
    Traceparent,
    #[error("a connection id is 32 lower-case hexadecimal digits, not all zero")]
    Id,
}

impl ConnectionId {
    /// A new id. Random, so that ids of different nodes do not meet.
    pub fn random() -> Self {
        static RANDOM: LazyLock<&'static dyn SecureRandom> =
            LazyLock::new(|| aws_lc_rs::default_provider().secure_random);
        let mut bytes = [0; 16];
        // An id is for correlation only: without entropy the connection is
        // still good, and an id of all ones is as unhelpful as it is visible.
        if RANDOM.fill(&mut bytes).is_err() || bytes == [0; 16] {
            bytes = [0xff; 16];
        }
        Self(bytes)
    }

    /// The id in a traceparent that a peer sent.
    pub fn from_traceparent(header: &str) -> Result<Self, ConnectionIdError> {
        let mut fields = header.split('-');
        let (Some(version), Some(trace), Some(parent), Some(flags)) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            return Err(ConnectionIdError::Traceparent);
        };
        // Version 00 has exactly four fields; later ones may add some.
        let surplus = fields.next().is_some();
        let well_formed = lower_hex(version, 2)
            && version != "ff"
            && lower_hex(parent, 16)
            && parent.bytes().any(|b| b != b'0')
            && lower_hex(flags, 2)
            && (version != "00" || !surplus);
        if !well_formed {
            return Err(ConnectionIdError::Traceparent);
        }
        trace.parse()
    }

    /// The header that carries this id to the peer. The parent id is the half
    /// of the id, for there is only one span; the flags say "sampled", as both
    /// daemons log it.
    pub fn traceparent(self) -> String {
        let parent = u64::from_be_bytes(self.half()).max(1);
        format!("00-{self}-{parent:016x}-01")
    }

    fn half(self) -> [u8; 8] {
        let mut half = [0; 8];
        half.copy_from_slice(&self.0[8..]);
        half
    }
}

fn lower_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

impl FromStr for ConnectionId {
    type Err = ConnectionIdError;

    fn from_str(text: &str) -> Result<Self, ConnectionIdError> {
        if !lower_hex(text, 32) {
            return Err(ConnectionIdError::Id);
        }
        match u128::from_str_radix(text, 16) {
            Ok(0) | Err(_) => Err(ConnectionIdError::Id),
            Ok(number) => Ok(Self(number.to_be_bytes())),
        }
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_example_of_the_specification_parses() {
        let header = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let id = ConnectionId::from_traceparent(header).unwrap();
        assert_eq!(id.to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
    }

    #[test]
    fn both_daemons_agree_on_the_id() {
        let id = ConnectionId::random();
        assert_eq!(ConnectionId::from_traceparent(&id.traceparent()), Ok(id));
        assert_ne!(id, ConnectionId::random());
    }

    #[test]
    fn what_is_no_traceparent_is_refused() {
        for header in [
            "",
            "00",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
        ] {
            assert!(ConnectionId::from_traceparent(header).is_err(), "{header}");
        }
        let later = "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more";
        assert!(ConnectionId::from_traceparent(later).is_ok());
    }

    proptest! {
        #[test]
        fn no_header_panics(header in "\\PC{0,80}") {
            let _ = ConnectionId::from_traceparent(&header);
        }
    }
}
