//! What is asked of an agent, and what it answers:
//! spire.api.agent.delegatedidentity.v1.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use thiserror::Error;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::protobuf::{Damaged, Value, fields, put_bytes, put_integer};
use crate::config::Selector;
use crate::identity::bundle::{BundleError, TrustBundle};
use crate::identity::svid::Issued;
use crate::spiffe::{SpiffeId, TrustDomain};

/// SubscribeToX509SVIDsRequest by selectors.
pub(super) fn ask_by_selectors(selectors: &[Selector]) -> Vec<u8> {
    let mut request = Vec::new();
    for selector in selectors {
        let mut message = Vec::new();
        put_bytes(&mut message, 1, selector.kind.as_bytes());
        put_bytes(&mut message, 2, selector.value.as_bytes());
        put_bytes(&mut request, 1, &message);
    }
    request
}

/// The same by a process.
pub(super) fn ask_by_pid(pid: u32) -> Vec<u8> {
    let mut request = Vec::new();
    put_integer(&mut request, 2, u64::from(pid));
    request
}

/// SubscribeToX509SVIDsResponse: everything that the workload may have now.
#[derive(Debug)]
pub(super) struct Offer<'a> {
    pub(super) svids: Vec<Offered<'a>>,
    pub(super) federates_with: Vec<TrustDomain>,
}

/// X509SVIDWithKey; its key is where the message has it.
#[derive(Default)]
pub(super) struct Offered<'a> {
    pub(super) id: String,
    chain: Vec<&'a [u8]>,
    key: &'a [u8],
}

/// Why none of what is offered can be taken.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(super) enum OfferFault {
    #[error("it has no entry for the workload")]
    Nothing,
    #[error("it offers {}, and not the workload's identity", .0.join(" and "))]
    Others(Vec<String>),
    #[error("the private key that it offers is of no kind that can be used")]
    Key,
}

impl<'a> Offer<'a> {
    pub(super) fn parse(message: &'a [u8]) -> Result<Self, Damaged> {
        let (mut svids, mut federates_with) = (Vec::new(), Vec::new());
        for field in fields(message) {
            let field = field?;
            match (field.number, field.value) {
                (1, Value::Bytes(svid)) => svids.push(Offered::parse(svid)?),
                (2, Value::Bytes(name)) => federates_with.push(trust_domain(name)?),
                _ => {}
            }
        }
        Ok(Self {
            svids,
            federates_with,
        })
    }

    /// The one that is exactly `wanted`'s. Whether it is what it says is
    /// judged when the workload takes it.
    pub(super) fn choose(&self, wanted: &SpiffeId) -> Result<Issued, OfferFault> {
        if self.svids.is_empty() {
            return Err(OfferFault::Nothing);
        }
        let found = self.svids.iter().find(|svid| svid.id == wanted.as_str());
        let Some(svid) = found else {
            let others = self.svids.iter().map(|svid| svid.id.clone()).collect();
            return Err(OfferFault::Others(others));
        };
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(svid.key));
        let chain = svid.chain.iter();
        Ok(Issued {
            chain: chain
                .map(|der| CertificateDer::from(der.to_vec()))
                .collect(),
            key: any_supported_type(&key).or(Err(OfferFault::Key))?,
        })
    }
}

impl<'a> Offered<'a> {
    fn parse(message: &'a [u8]) -> Result<Self, Damaged> {
        let mut offered = Self::default();
        for field in fields(message) {
            let field = field?;
            match (field.number, field.value) {
                (1, Value::Bytes(svid)) => offered.parse_svid(svid)?,
                (2, Value::Bytes(key)) => offered.key = key,
                _ => {}
            }
        }
        Ok(offered)
    }

    /// types.X509SVID
    fn parse_svid(&mut self, message: &'a [u8]) -> Result<(), Damaged> {
        for field in fields(message) {
            let field = field?;
            match (field.number, field.value) {
                (1, Value::Bytes(certificate)) => self.chain.push(certificate),
                (2, Value::Bytes(id)) => self.id = spiffe_id(id)?,
                _ => {}
            }
        }
        Ok(())
    }
}

/// types.SPIFFEID, as one text.
fn spiffe_id(message: &[u8]) -> Result<String, Damaged> {
    let (mut trust_domain, mut path) = ("", "");
    for field in fields(message) {
        let field = field?;
        match (field.number, field.value) {
            (1, Value::Bytes(text)) => trust_domain = utf8(text)?,
            (2, Value::Bytes(text)) => path = utf8(text)?,
            _ => {}
        }
    }
    Ok(format!("spiffe://{trust_domain}{path}"))
}

/// SubscribeToX509BundlesResponse: the bundles of all trust domains that the
/// agent knows. What is wrong with one is said, and leaves the others alone.
pub(super) fn bundles(
    message: &[u8],
) -> Result<BTreeMap<TrustDomain, Result<Arc<TrustBundle>, BundleError>>, Damaged> {
    let mut bundles = BTreeMap::new();
    for field in fields(message) {
        let field = field?;
        let (1, Value::Bytes(entry)) = (field.number, field.value) else {
            continue;
        };
        let (mut name, mut ders) = (&b""[..], &b""[..]);
        for field in fields(entry) {
            let field = field?;
            match (field.number, field.value) {
                (1, Value::Bytes(text)) => name = text,
                (2, Value::Bytes(bytes)) => ders = bytes,
                _ => {}
            }
        }
        let name = trust_domain(name)?;
        let bundle = certificates(ders)
            .and_then(|roots| TrustBundle::new(name.clone(), &roots).map(Arc::new));
        bundles.insert(name, bundle);
    }
    Ok(bundles)
}

/// One certificate after the other, with nothing between them.
fn certificates(mut ders: &[u8]) -> Result<Vec<CertificateDer<'_>>, BundleError> {
    let mut certificates = Vec::new();
    while !ders.is_empty() {
        let unreadable = BundleError::Unreadable(certificates.len() + 1);
        let (rest, _) = X509Certificate::from_der(ders).or(Err(unreadable))?;
        let (this, rest) = ders.split_at(ders.len() - rest.len());
        certificates.push(CertificateDer::from(this));
        ders = rest;
    }
    Ok(certificates)
}

/// With or without its scheme.
fn trust_domain(text: &[u8]) -> Result<TrustDomain, Damaged> {
    let text = utf8(text)?;
    let name = text.strip_prefix("spiffe://").unwrap_or(text);
    name.parse().or(Err(Damaged))
}

fn utf8(text: &[u8]) -> Result<&str, Damaged> {
    std::str::from_utf8(text).or(Err(Damaged))
}

/// Without the key.
impl std::fmt::Debug for Offered<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Offered")
            .field("id", &self.id)
            .field("chain", &self.chain.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn offered(trust_domain: &str, path: &str, chain: &[&[u8]], key: &[u8]) -> Vec<u8> {
        let (mut id, mut svid, mut with_key) = (Vec::new(), Vec::new(), Vec::new());
        put_bytes(&mut id, 1, trust_domain.as_bytes());
        put_bytes(&mut id, 2, path.as_bytes());
        for certificate in chain {
            put_bytes(&mut svid, 1, certificate);
        }
        put_bytes(&mut svid, 2, &id);
        put_integer(&mut svid, 3, 1_700_000_000);
        put_bytes(&mut svid, 4, b"hint");
        put_bytes(&mut with_key, 1, &svid);
        put_bytes(&mut with_key, 2, key);
        with_key
    }

    fn root() -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn requests_read_as_the_published_messages_say() {
        let selector = Selector {
            kind: "unix".into(),
            value: "uid:7".into(),
        };
        assert_eq!(
            ask_by_selectors(&[selector]),
            b"\x0a\x0d\x0a\x04unix\x12\x05uid:7"
        );
        assert_eq!(ask_by_pid(300), [0x10, 0xac, 0x02]);
    }

    #[test]
    fn exactly_the_wanted_identity_is_chosen() {
        let key = KeyPair::generate().unwrap();
        let mut message = Vec::new();
        for path in ["/web2", "/we", "/web"] {
            let chain: [&[u8]; 2] = [path.as_bytes(), b"above"];
            let one = offered("example.org", path, &chain, key.serialized_der());
            put_bytes(&mut message, 1, &one);
        }
        put_bytes(&mut message, 2, b"spiffe://partner.example");
        let offer = Offer::parse(&message).unwrap();
        assert_eq!(offer.federates_with[0].as_str(), "partner.example");
        let issued = offer
            .choose(&"spiffe://example.org/web".parse().unwrap())
            .unwrap();
        let chain: Vec<&[u8]> = issued.chain.iter().map(AsRef::as_ref).collect();
        assert_eq!(chain, [&b"/web"[..], b"above"]);
        let fault = offer
            .choose(&"spiffe://example.org/w".parse().unwrap())
            .unwrap_err();
        assert_eq!(
            fault.to_string(),
            "it offers spiffe://example.org/web2 and spiffe://example.org/we and spiffe://example.org/web, and not the workload's identity"
        );
        let nothing = Offer::parse(&[]).unwrap();
        let fault = nothing.choose(&"spiffe://example.org/web".parse().unwrap());
        assert_eq!(fault.unwrap_err(), OfferFault::Nothing);
    }

    #[test]
    fn a_key_of_no_known_kind_is_a_fault() {
        let mut message = Vec::new();
        put_bytes(&mut message, 1, &offered("a", "/b", &[b"c"], b"no key"));
        let offer = Offer::parse(&message).unwrap();
        let fault = offer.choose(&"spiffe://a/b".parse().unwrap()).unwrap_err();
        assert_eq!(fault, OfferFault::Key);
    }

    #[test]
    fn bundles_of_several_roots_and_domains() {
        let (one, two) = (root(), root());
        let mut message = Vec::new();
        for (name, ders) in [
            ("spiffe://example.org", [one.clone(), two.clone()].concat()),
            ("spiffe://partner.example", one.clone()),
            ("spiffe://broken.example", b"nothing".to_vec()),
            ("spiffe://empty.example", Vec::new()),
        ] {
            let mut entry = Vec::new();
            put_bytes(&mut entry, 1, name.as_bytes());
            put_bytes(&mut entry, 2, &ders);
            put_bytes(&mut message, 1, &entry);
        }
        let bundles = bundles(&message).unwrap();
        let of = |name: &str| &bundles[&name.parse::<TrustDomain>().unwrap()];
        assert_eq!(of("example.org").as_ref().unwrap().roots().len(), 2);
        assert_eq!(of("partner.example").as_ref().unwrap().roots().len(), 1);
        assert!(of("broken.example").is_err() && of("empty.example").is_err());
    }
}
