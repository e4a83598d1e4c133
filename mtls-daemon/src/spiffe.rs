//! SPIFFE IDs, parsed strictly: what does not follow the specification to the
//! letter is no identity.
//!
//! <https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE-ID.md> and
//! X509-SVID.md beside it.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

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
    #[error("a SPIFFE ID starts with spiffe://, in lower case")]
    Scheme,
    #[error("a SPIFFE ID has at most {MAX_LEN} bytes")]
    TooLong,
    #[error("a trust domain has 1 to {MAX_TRUST_DOMAIN} characters")]
    TrustDomainLength,
    #[error("a trust domain has only a-z, 0-9, '.', '-' and '_' (no port, no user): {0:?}")]
    TrustDomainCharacter(char),
    #[error("a workload's SPIFFE ID has a path after its trust domain")]
    NoPath,
    #[error("a path has no empty segment, and does not end in a slash")]
    EmptySegment,
    #[error("a path has no segment '.' or '..'")]
    DotSegment,
    #[error(
        "a path has only a-z, A-Z, 0-9, '.', '-', '_' and '/' (no query, no fragment, no percent-encoding): {0:?}"
    )]
    PathCharacter(char),
}

/// Why a certificate carries no SPIFFE ID.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SanError {
    #[error("it is not an X.509 certificate")]
    NotACertificate,
    #[error("its subject alternative names are malformed")]
    Malformed,
    #[error("it carries no URI subject alternative name")]
    NoUri,
    #[error("it carries {0} URI subject alternative names, where an SVID has exactly one")]
    SeveralUris(usize),
    #[error("its URI subject alternative name is no SPIFFE ID: {0}")]
    NotSpiffe(#[from] SpiffeError),
}

const SCHEME: &str = "spiffe://";
const MAX_LEN: usize = 2048;
const MAX_TRUST_DOMAIN: usize = 255;

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
        TrustDomain(Arc::from(self.trust_domain_str()))
    }

    pub fn trust_domain_str(&self) -> &str {
        &self.uri[SCHEME.len()..SCHEME.len() + self.trust_domain]
    }

    /// The path, with its leading slash.
    pub fn path(&self) -> &str {
        &self.uri[SCHEME.len() + self.trust_domain..]
    }

    /// As Istio writes it: without the scheme, which all share.
    pub fn principal(&self) -> &str {
        &self.uri[SCHEME.len()..]
    }

    /// The Kubernetes namespace that it names, in the form that Istio gives it
    /// and no other: `/ns/NAMESPACE/sa/ACCOUNT`.
    pub fn namespace(&self) -> Option<&str> {
        let mut segments = self.path().split('/').skip(1);
        let mut next = || segments.next();
        match [next(), next(), next(), next(), next()] {
            [Some("ns"), Some(namespace), Some("sa"), Some(_), None] => Some(namespace),
            _ => None,
        }
    }

    /// The one SPIFFE ID that a certificate carries. Nothing else about the
    /// certificate is judged.
    pub fn from_certificate(der: &[u8]) -> Result<Self, SanError> {
        let uris = uris(der)?;
        match uris.as_slice() {
            [] => Err(SanError::NoUri),
            [uri] => Ok(uri.parse()?),
            several => Err(SanError::SeveralUris(several.len())),
        }
    }
}

/// All URI subject alternative names of a certificate, as they stand there.
fn uris(der: &[u8]) -> Result<Vec<String>, SanError> {
    let (rest, certificate) = X509Certificate::from_der(der).or(Err(SanError::NotACertificate))?;
    if !rest.is_empty() {
        return Err(SanError::NotACertificate);
    }
    let san = certificate
        .subject_alternative_name()
        .or(Err(SanError::Malformed))?;
    let mut uris = Vec::new();
    for name in san.iter().flat_map(|san| &san.value.general_names) {
        match name {
            GeneralName::URI(uri) => uris.push((*uri).to_owned()),
            // A name that does not parse may be a second URI in disguise.
            GeneralName::Invalid(..) => return Err(SanError::Malformed),
            _ => {}
        }
    }
    Ok(uris)
}

/// What an unverified certificate claims to be: for log lines only, never for
/// a decision or a metric label. Shortened, and safe to print.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimed(String);

impl Claimed {
    const SHOWN: usize = 256;

    pub fn by_certificate(der: &[u8]) -> Self {
        let text = match uris(der) {
            Ok(uris) if uris.is_empty() => "no SPIFFE ID".to_owned(),
            Ok(uris) => uris.join(" and "),
            Err(e) => format!("nothing readable: {e}"),
        };
        Self(
            text.chars()
                .take(Self::SHOWN)
                .flat_map(char::escape_debug)
                .collect(),
        )
    }
}

impl FromStr for TrustDomain {
    type Err = SpiffeError;

    fn from_str(text: &str) -> Result<Self, SpiffeError> {
        if text.is_empty() || text.len() > MAX_TRUST_DOMAIN {
            return Err(SpiffeError::TrustDomainLength);
        }
        let allowed = |c: &char| matches!(c, 'a'..='z' | '0'..='9' | '.' | '-' | '_');
        match text.chars().find(|c| !allowed(c)) {
            Some(c) => Err(SpiffeError::TrustDomainCharacter(c)),
            None => Ok(Self(Arc::from(text))),
        }
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeError;

    fn from_str(text: &str) -> Result<Self, SpiffeError> {
        if text.len() > MAX_LEN {
            return Err(SpiffeError::TooLong);
        }
        let rest = text.strip_prefix(SCHEME).ok_or(SpiffeError::Scheme)?;
        let Some((trust_domain, path)) = rest.split_once('/') else {
            rest.parse::<TrustDomain>()?;
            return Err(SpiffeError::NoPath);
        };
        trust_domain.parse::<TrustDomain>()?;
        for segment in path.split('/') {
            check_segment(segment)?;
        }
        Ok(Self {
            uri: Arc::from(text),
            trust_domain: trust_domain.len(),
        })
    }
}

impl Serialize for SpiffeId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.uri)
    }
}

impl<'de> Deserialize<'de> for SpiffeId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

fn check_segment(segment: &str) -> Result<(), SpiffeError> {
    let allowed = |c: &char| matches!(c, 'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '-' | '_');
    match segment {
        "" => Err(SpiffeError::EmptySegment),
        "." | ".." => Err(SpiffeError::DotSegment),
        _ => match segment.chars().find(|c| !allowed(c)) {
            Some(c) => Err(SpiffeError::PathCharacter(c)),
            None => Ok(()),
        },
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

impl fmt::Display for Claimed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn refused(text: &str) -> SpiffeError {
        text.parse::<SpiffeId>().unwrap_err()
    }

    #[test]
    fn the_parts_of_an_id() {
        let id: SpiffeId = "spiffe://example.org/ns/default/sa/web".parse().unwrap();
        assert_eq!(id.trust_domain().as_str(), "example.org");
        assert_eq!(id.path(), "/ns/default/sa/web");
        assert_eq!(id.to_string(), "spiffe://example.org/ns/default/sa/web");
    }

    #[test]
    fn what_is_no_id() {
        use SpiffeError as E;
        let cases = [
            ("", E::Scheme),
            ("https://example.org/web", E::Scheme),
            ("SPIFFE://example.org/web", E::Scheme),
            ("spiffe:/example.org/web", E::Scheme),
            ("spiffe:///web", E::TrustDomainLength),
            ("spiffe://", E::TrustDomainLength),
            ("spiffe://Example.org/web", E::TrustDomainCharacter('E')),
            ("spiffe://example.org:443/web", E::TrustDomainCharacter(':')),
            ("spiffe://me@example.org/web", E::TrustDomainCharacter('@')),
            ("spiffe://exam%70le.org/web", E::TrustDomainCharacter('%')),
            ("spiffe://[::1]/web", E::TrustDomainCharacter('[')),
            ("spiffe://exämple.org/web", E::TrustDomainCharacter('ä')),
            (
                "spiffe://example.org\0.evil/web",
                E::TrustDomainCharacter('\0'),
            ),
            ("spiffe://example.org?a=b", E::TrustDomainCharacter('?')),
            ("spiffe://example.org", E::NoPath),
            ("spiffe://example.org/", E::EmptySegment),
            ("spiffe://example.org/web/", E::EmptySegment),
            ("spiffe://example.org//web", E::EmptySegment),
            ("spiffe://example.org/./web", E::DotSegment),
            ("spiffe://example.org/ns/../web", E::DotSegment),
            ("spiffe://example.org/w%65b", E::PathCharacter('%')),
            ("spiffe://example.org/web?x=1", E::PathCharacter('?')),
            ("spiffe://example.org/web#x", E::PathCharacter('#')),
            ("spiffe://example.org/web\0", E::PathCharacter('\0')),
            ("spiffe://example.org/we b", E::PathCharacter(' ')),
            ("spiffe://example.org/wéb", E::PathCharacter('é')),
        ];
        for (text, error) in cases {
            assert_eq!(refused(text), error, "{text:?}");
        }
    }

    #[test]
    fn lengths() {
        let longest_domain = "d".repeat(255);
        assert!(
            format!("spiffe://{longest_domain}/web")
                .parse::<SpiffeId>()
                .is_ok()
        );
        assert_eq!(
            refused(&format!("spiffe://{longest_domain}d/web")),
            SpiffeError::TrustDomainLength
        );
        let longest_path = "p".repeat(MAX_LEN - "spiffe://d/".len());
        assert!(
            format!("spiffe://d/{longest_path}")
                .parse::<SpiffeId>()
                .is_ok()
        );
        assert_eq!(
            refused(&format!("spiffe://d/{longest_path}p")),
            SpiffeError::TooLong
        );
    }

    proptest! {
        #[test]
        fn any_well_formed_id_parses_into_its_parts(
            domain in "[a-z0-9._-]{1,255}",
            path in "(/[a-zA-Z0-9_-][a-zA-Z0-9._-]{0,20}){1,8}",
        ) {
            let id: SpiffeId = format!("spiffe://{domain}{path}").parse().unwrap();
            prop_assert_eq!(id.trust_domain_str(), domain);
            prop_assert_eq!(id.path(), path);
        }

        /// Whatever parses is written back as it was, and consists of allowed
        /// characters only: two different texts are never one identity.
        #[test]
        fn parsing_never_changes_or_forgives(text in "(spiffe://)?\\PC{0,40}(/\\PC{0,20}){0,3}") {
            if let Ok(id) = text.parse::<SpiffeId>() {
                prop_assert_eq!(id.as_str(), &text);
                prop_assert!(text.is_ascii());
                prop_assert!(!text.contains(['%', '?', '#', '@', ' ', '\0']));
                prop_assert!(!id.path().split('/').skip(1).any(|s| matches!(s, "" | "." | "..")));
                let glued = format!("spiffe://{}{}", id.trust_domain(), id.path());
                prop_assert_eq!(glued, text);
            }
        }

        /// One foreign character anywhere spoils an ID.
        #[test]
        fn one_foreign_character_spoils_it(at in 0_usize..38, c in "[^a-zA-Z0-9._/-]") {
            let mut text = "spiffe://example.org/ns/default/sa/web".to_owned();
            text.insert_str(at, &c);
            prop_assert!(text.parse::<SpiffeId>().is_err(), "{}", text);
        }

        #[test]
        fn arbitrary_bytes_are_no_certificate(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(SpiffeId::from_certificate(&bytes).is_err());
            let claimed = Claimed::by_certificate(&bytes).to_string();
            prop_assert!(claimed.chars().all(|c| !c.is_control()));
        }
    }

    #[test]
    fn a_namespace_is_where_istio_puts_it() {
        let of = |id: &str| {
            let id: SpiffeId = id.parse().unwrap();
            id.namespace().map(str::to_owned)
        };
        let shop = Some("shop".to_owned());
        assert_eq!(of("spiffe://example.org/ns/shop/sa/web"), shop);
        for other in [
            "spiffe://example.org/web",
            "spiffe://example.org/ns/shop",
            "spiffe://example.org/ns/shop/sa/web/more",
            "spiffe://example.org/x/ns/shop/sa/web",
            "spiffe://example.org/NS/shop/sa/web",
        ] {
            assert_eq!(of(other), None, "{other}");
        }
    }
}
