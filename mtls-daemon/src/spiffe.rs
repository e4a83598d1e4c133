//! SPIFFE IDs, parsed strictly: what does not follow the specification to the
//! letter is no identity.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

/// The part of a SPIFFE ID that names the authority, e.g. `example.org`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(Arc<str>);

/// A workload's identity, e.g. `spiffe://example.org/ns/default/sa/web`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    uri: Arc<str>,
    /// Length of the trust domain within `uri`.
    trust_domain: usize,
}

/// Why a text is no SPIFFE ID.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SpiffeError {
    #[error("a SPIFFE ID starts with spiffe://")]
    Scheme,
    #[error("a trust domain has 1 to 255 characters of a-z, 0-9, '.', '-' and '_'")]
    TrustDomain,
    #[error("a SPIFFE ID of a workload has a path after its trust domain")]
    NoPath,
    #[error(
        "a path segment has at least one character of a-z, A-Z, 0-9, '.', '-' and '_', and is neither '.' nor '..'"
    )]
    Segment,
    #[error("a SPIFFE ID has at most 2048 bytes")]
    TooLong,
}

const SCHEME: &str = "spiffe://";
const MAX_LEN: usize = 2048;

impl TrustDomain {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl SpiffeId {
    pub fn as_str(&self) -> &str {
        &self.uri
    }

    pub fn trust_domain(&self) -> TrustDomain {
        TrustDomain(Arc::from(
            &self.uri[SCHEME.len()..SCHEME.len() + self.trust_domain],
        ))
    }

    /// The path, with its leading slash.
    pub fn path(&self) -> &str {
        &self.uri[SCHEME.len() + self.trust_domain..]
    }
}

impl FromStr for TrustDomain {
    type Err = SpiffeError;

    fn from_str(text: &str) -> Result<Self, SpiffeError> {
        let allowed = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_');
        if text.is_empty() || text.len() > 255 || !text.bytes().all(allowed) {
            return Err(SpiffeError::TrustDomain);
        }
        Ok(Self(Arc::from(text)))
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeError;

    fn from_str(text: &str) -> Result<Self, SpiffeError> {
        if text.len() > MAX_LEN {
            return Err(SpiffeError::TooLong);
        }
        let rest = text.strip_prefix(SCHEME).ok_or(SpiffeError::Scheme)?;
        let (trust_domain, path) = rest.split_once('/').ok_or(SpiffeError::NoPath)?;
        trust_domain.parse::<TrustDomain>()?;
        for segment in path.split('/') {
            let allowed =
                |b: u8| matches!(b, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_');
            if segment.is_empty()
                || segment == "."
                || segment == ".."
                || !segment.bytes().all(allowed)
            {
                return Err(SpiffeError::Segment);
            }
        }
        Ok(Self {
            uri: Arc::from(text),
            trust_domain: trust_domain.len(),
        })
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}
