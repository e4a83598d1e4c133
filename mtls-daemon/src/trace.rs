//! The name that one connection has in the logs of both daemons: the trace id
//! of the W3C `traceparent` that the tunnel carries beside it.

use std::fmt;
use std::str::FromStr;

use rustls::crypto::SecureRandom;

/// Makes the ids of one worker's connections.
pub struct ConnectionIds(&'static dyn SecureRandom);

impl ConnectionIds {
    pub fn new(random: &'static dyn SecureRandom) -> Self {
        Self(random)
    }

    pub fn next(&self) -> ConnectionId {
        let mut id = [0; 16];
        // An id need not be secret, only unlikely twice; zero is not allowed.
        if self.0.fill(&mut id).is_err() || id == [0; 16] {
            id[15] = 1;
        }
        ConnectionId(id)
    }
}

/// Sixteen bytes, never all zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConnectionId([u8; 16]);

impl ConnectionId {
    /// As the `traceparent` header carries it; the first half of the id stands
    /// for the span.
    pub fn traceparent(self) -> String {
        format!("00-{self}-{}-01", &self.to_string()[..16])
    }

    /// From the 32 digits that it is shown as.
    pub fn from_digits(digits: &str) -> Result<Self, BadTraceparent> {
        if digits.len() != 32 || !digits.bytes().all(is_lower_hex) {
            return Err(BadTraceparent);
        }
        let value = u128::from_str_radix(digits, 16).map_err(|_overflow| BadTraceparent)?;
        if value == 0 {
            return Err(BadTraceparent);
        }
        Ok(Self(value.to_be_bytes()))
    }
}

/// The text is no version 00 `traceparent`.
#[derive(Debug, PartialEq, Eq)]
pub struct BadTraceparent;

impl FromStr for ConnectionId {
    type Err = BadTraceparent;

    fn from_str(traceparent: &str) -> Result<Self, BadTraceparent> {
        let mut fields = traceparent.split('-');
        let (version, trace) = (fields.next(), fields.next().ok_or(BadTraceparent)?);
        if version != Some("00") {
            return Err(BadTraceparent);
        }
        Self::from_digits(trace)
    }
}

fn is_lower_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
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

    #[test]
    fn what_one_daemon_sends_the_other_reads() {
        let sent = ConnectionId([7; 16]);
        assert_eq!(sent.traceparent().parse(), Ok(sent));
    }

    #[test]
    fn anything_else_is_refused() {
        let zero = format!("00-{}-{}-01", "0".repeat(32), "1".repeat(16));
        let upper = format!("00-{}-{}-01", "A".repeat(32), "1".repeat(16));
        for bad in [
            "",
            "00",
            "00-abc-def-01",
            zero.as_str(),
            upper.as_str(),
            "ff-x",
        ] {
            assert_eq!(bad.parse::<ConnectionId>(), Err(BadTraceparent), "{bad}");
        }
    }
}
