//! The one judgement of a peer's certificate chain, the same for both ends
//! of a handshake: a pure function of the chain, the bundles and the time.

use std::time::{Duration, SystemTime};

use rustls::pki_types::{CertificateDer, UnixTime};
use thiserror::Error;
use webpki::{EndEntityCert, RevocationOptions, VerifiedPath};

use super::bundle::{TrustBundle, TrustBundles};
use super::certificate::{Facts, shown};
use super::revocation::{Revocation, Revocations};
use crate::clock::unix_time;
use crate::config::CrlPolicy;
use crate::reason::Reason;
use crate::spiffe::{SanError, SpiffeId, TrustDomain};

/// A peer that proved its identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerSvid {
    pub id: SpiffeId,
    /// Serial number of the leaf, in hexadecimal.
    pub serial: String,
    pub not_before: SystemTime,
    /// The leaf's own end.
    pub not_after: SystemTime,
    /// Until when this proof counts: the earliest end in the verified chain,
    /// its root included, plus the tolerated clock skew.
    pub good_until: SystemTime,
    /// Why no revocation list could say whether it was withdrawn, where it was
    /// taken nevertheless.
    pub revocation_unknown: Option<String>,
}

/// What a chain is judged by.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    pub bundles: &'a TrustBundles,
    pub revocations: &'a Revocations,
    pub now: SystemTime,
    /// Tolerated difference between clocks.
    pub skew: Duration,
}

/// Which end of the connection presented the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presenter {
    Client,
    Server,
}

/// What is wrong with a peer's chain. Always the peer's fault, or that of
/// whoever keeps the trust bundle.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PeerFault {
    #[error("the peer presented no certificate")]
    NoCertificate,
    #[error("the peer's certificate: {0}")]
    San(SanError),
    #[error("the peer is {got}, where {expected} was expected")]
    UnexpectedIdentity { expected: SpiffeId, got: SpiffeId },
    #[error("there is no trust bundle for the peer's trust domain {0}")]
    NoBundle(TrustDomain),
    #[error("no root in the trust bundle of {0} issued the peer's certificate")]
    UnknownIssuer(TrustDomain),
    #[error("a certificate of the peer's chain ended at {}", shown(*.0))]
    Expired(SystemTime),
    #[error("a certificate of the peer's chain begins at {}, later than now", shown(*.0))]
    NotYetValid(SystemTime),
    #[error("a certificate of the peer's chain is on a revocation list of {0}")]
    Revoked(TrustDomain),
    #[error("no revocation list of {0} says whether the peer's certificate still counts: {1}")]
    RevocationUnknown(TrustDomain, String),
    #[error("the peer's certificate does not carry the extended key usage {0}")]
    ExtendedKeyUsage(&'static str),
    #[error("the peer presented the certificate of an authority as its own")]
    LeafIsAuthority,
    #[error("the key usage of the peer's certificate does not allow digital signatures")]
    KeyUsage,
    #[error("the peer presented {0} certificates, more than the {MAX_CHAIN} that are looked at")]
    ChainTooLong(usize),
    #[error("the peer's chain does not verify: {0}")]
    Chain(webpki::Error),
}

/// A chain cannot verify with more than six intermediates; what a peer sends
/// beyond that, and some roots and cross-signed ones, only costs time.
const MAX_CHAIN: usize = 10;

impl PeerFault {
    pub fn reason(&self) -> Reason {
        match self {
            Self::NoCertificate => Reason::NoCert,
            Self::San(_) | Self::UnexpectedIdentity { .. } => Reason::BadSan,
            Self::NoBundle(_) => Reason::TrustDomain,
            Self::UnknownIssuer(_) => Reason::UnknownIssuer,
            Self::Expired(_) => Reason::Expired,
            Self::NotYetValid(_) => Reason::NotYetValid,
            Self::Revoked(_) => Reason::Revoked,
            Self::RevocationUnknown(..) => Reason::RevocationUnknown,
            Self::ExtendedKeyUsage(_) => Reason::BadEku,
            Self::LeafIsAuthority | Self::KeyUsage | Self::ChainTooLong(_) | Self::Chain(_) => {
                Reason::BadChain
            }
        }
    }
}

/// Judges a chain, leaf first: it must lead to a root of the trust domain in
/// the leaf's own SPIFFE ID, and to no other, whatever other bundles hold.
pub fn verify_peer(
    chain: &[CertificateDer<'_>],
    presenter: Presenter,
    terms: &Terms<'_>,
) -> Result<PeerSvid, PeerFault> {
    let (leaf, intermediates) = chain.split_first().ok_or(PeerFault::NoCertificate)?;
    if chain.len() > MAX_CHAIN {
        return Err(PeerFault::ChainTooLong(chain.len()));
    }
    let id = SpiffeId::from_certificate(leaf).map_err(PeerFault::San)?;
    let trust_domain = id.trust_domain();
    let bundle = terms
        .bundles
        .get(&trust_domain)
        .ok_or_else(|| PeerFault::NoBundle(trust_domain.clone()))?;
    let facts = Facts::of(leaf).ok_or(PeerFault::Chain(webpki::Error::BadDer))?;
    check_leaf(&facts, presenter)?;
    let chain = Chain {
        leaf: EndEntityCert::try_from(leaf).map_err(PeerFault::Chain)?,
        intermediates,
        presenter,
        bundle,
    };
    let (above, revocation_unknown) = match terms.revocations.get(&trust_domain) {
        None => (chain.verify(None, terms)?, None),
        Some(revocation) => chain.verify_unrevoked(revocation, terms)?,
    };
    Ok(PeerSvid {
        id,
        serial: facts.serial,
        not_before: facts.not_before,
        not_after: facts.not_after,
        good_until: facts.not_after.min(above) + terms.skew,
        revocation_unknown,
    })
}

/// What `webpki` does not look at: X509-SVID 4.3 and 4.4, RFC 8446 4.4.2.2.
fn check_leaf(leaf: &Facts, presenter: Presenter) -> Result<(), PeerFault> {
    if leaf.is_ca {
        return Err(PeerFault::LeafIsAuthority);
    }
    if let Some(usage) = leaf.key_usage {
        if usage.key_cert_sign || usage.crl_sign {
            return Err(PeerFault::LeafIsAuthority);
        }
        if !usage.digital_signature {
            return Err(PeerFault::KeyUsage);
        }
    }
    // webpki takes a missing extension for "everything"; here it must be there.
    let (word, has) = match presenter {
        Presenter::Client => (
            "clientAuth",
            leaf.extended_key_usage
                .is_some_and(|usage| usage.client_auth),
        ),
        Presenter::Server => (
            "serverAuth",
            leaf.extended_key_usage
                .is_some_and(|usage| usage.server_auth),
        ),
    };
    if has {
        Ok(())
    } else {
        Err(PeerFault::ExtendedKeyUsage(word))
    }
}

/// A chain on its way to a root.
struct Chain<'a> {
    leaf: EndEntityCert<'a>,
    intermediates: &'a [CertificateDer<'a>],
    presenter: Presenter,
    bundle: &'a TrustBundle,
}

impl Chain<'_> {
    /// The earliest end in the chain that verified, above the leaf; and why
    /// no list told its status, if it is taken without.
    fn verify_unrevoked(
        &self,
        revocation: &Revocation,
        terms: &Terms<'_>,
    ) -> Result<(SystemTime, Option<String>), PeerFault> {
        let fault = match self.verify_by_lists(revocation, true, terms) {
            Ok(end) => return Ok((end, None)),
            Err(fault) => fault,
        };
        let PeerFault::RevocationUnknown(_, why) = &fault else {
            return Err(fault);
        };
        match revocation.policy() {
            CrlPolicy::Hard => Err(fault),
            // What the lists do say counts all the same.
            CrlPolicy::Soft => match self.verify_by_lists(revocation, false, terms) {
                Err(PeerFault::RevocationUnknown(..)) => self.verify(None, terms),
                judged => judged,
            }
            .map(|end| (end, Some(why.clone()))),
        }
    }

    fn verify_by_lists(
        &self,
        revocation: &Revocation,
        strictly: bool,
        terms: &Terms<'_>,
    ) -> Result<SystemTime, PeerFault> {
        let unknown = |why: &str| {
            PeerFault::RevocationUnknown(self.bundle.trust_domain().clone(), why.to_owned())
        };
        let mut judged = Err(unknown(revocation.fault().unwrap_or("there is none")));
        for nth in 0..revocation.choices() {
            let asked =
                revocation.asking(nth, strictly, |options| self.verify(Some(options), terms));
            judged = asked.unwrap_or(judged);
            // An issuer of the same name and another key has lists, and
            // signatures, that look like forgeries here.
            let perhaps_another = matches!(
                judged,
                Err(PeerFault::RevocationUnknown(..) | PeerFault::UnknownIssuer(_))
            );
            if !perhaps_another {
                break;
            }
        }
        judged
    }

    /// The earliest end in the chain that verified, above the leaf.
    fn verify(
        &self,
        revocation: Option<RevocationOptions<'_>>,
        terms: &Terms<'_>,
    ) -> Result<SystemTime, PeerFault> {
        let at = |now| self.verify_at(revocation, now);
        // Within the tolerated skew there must be one moment at which the whole
        // chain is valid.
        let first = match at(terms.now) {
            Ok(end) => return Ok(end),
            Err(fault) => fault,
        };
        let second = match &first {
            _ if terms.skew.is_zero() => None,
            PeerFault::Expired(_) => at(terms.now - terms.skew).ok(),
            PeerFault::NotYetValid(_) => at(terms.now + terms.skew).ok(),
            _ => None,
        };
        second.ok_or(first)
    }

    fn verify_at(
        &self,
        revocation: Option<RevocationOptions<'_>>,
        now: SystemTime,
    ) -> Result<SystemTime, PeerFault> {
        let usage = match self.presenter {
            Presenter::Client => webpki::KeyUsage::client_auth(),
            Presenter::Server => webpki::KeyUsage::server_auth(),
        };
        let unix = unix_time(now).ok_or(PeerFault::Chain(webpki::Error::BadDerTime))?;
        let bundle = self.bundle;
        let path = self
            .leaf
            .verify_for_usage(
                webpki::ALL_VERIFICATION_ALGS,
                bundle.anchors(),
                self.intermediates,
                unix,
                usage,
                revocation,
                Some(&|path: &VerifiedPath<'_>| check_root(path, bundle, unix)),
            )
            .map_err(|error| fault(error, bundle))?;
        let root = bundle.root_of(path.anchor()).map(|root| root.not_after);
        let between = path
            .intermediate_certificates()
            .map(|intermediate| Some(Facts::of(&intermediate.der())?.not_after));
        // An end that cannot be read is no end that can be kept to.
        let ends: Option<Vec<SystemTime>> = between.chain([root]).collect();
        ends.and_then(|ends| ends.into_iter().min())
            .ok_or(PeerFault::Chain(webpki::Error::BadDer))
    }
}

/// `webpki` takes a root's name and key and nothing else. An ended root and
/// one with too short a path length are refused like any other authority.
fn check_root(
    path: &VerifiedPath<'_>,
    bundle: &TrustBundle,
    now: UnixTime,
) -> Result<(), webpki::Error> {
    let root = bundle
        .root_of(path.anchor())
        .ok_or(webpki::Error::UnknownIssuer)?;
    let between = path.intermediate_certificates().count();
    if root.path_len.is_some_and(|most| between > most as usize) {
        return Err(webpki::Error::PathLenConstraintViolated);
    }
    if let Some(not_before) = unix_time(root.not_before).filter(|begin| now < *begin) {
        return Err(webpki::Error::CertNotValidYet {
            time: now,
            not_before,
        });
    }
    match unix_time(root.not_after) {
        Some(not_after) if now <= not_after => Ok(()),
        Some(not_after) => Err(webpki::Error::CertExpired {
            time: now,
            not_after,
        }),
        None => Err(webpki::Error::InvalidCertValidity),
    }
}

fn fault(error: webpki::Error, bundle: &TrustBundle) -> PeerFault {
    let system = |time: UnixTime| SystemTime::UNIX_EPOCH + Duration::from_secs(time.as_secs());
    let unknown = |why| PeerFault::RevocationUnknown(bundle.trust_domain().clone(), why);
    match error {
        webpki::Error::CertExpired { not_after, .. } => PeerFault::Expired(system(not_after)),
        webpki::Error::CertNotValidYet { not_before, .. } => {
            PeerFault::NotYetValid(system(not_before))
        }
        // A root of the same name that did not sign the chain is another
        // authority, such as one that was made anew.
        webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey => {
            PeerFault::UnknownIssuer(bundle.trust_domain().clone())
        }
        webpki::Error::CertRevoked => PeerFault::Revoked(bundle.trust_domain().clone()),
        webpki::Error::UnknownRevocationStatus => unknown("its issuer has no list here".to_owned()),
        webpki::Error::CrlExpired { next_update, .. } => unknown(format!(
            "the list of its issuer is stale, the next one was due at {}",
            shown(system(next_update))
        )),
        webpki::Error::InvalidCrlSignatureForPublicKey
        | webpki::Error::IssuerNotCrlSigner
        | webpki::Error::UnsupportedCrlSignatureAlgorithmContext(_)
        | webpki::Error::UnsupportedCrlSignatureAlgorithmForPublicKeyContext(_) => {
            unknown("its issuer has not signed the list that bears its name".to_owned())
        }
        webpki::Error::CaUsedAsEndEntity => PeerFault::LeafIsAuthority,
        webpki::Error::EmptyEkuExtension | webpki::Error::RequiredEkuNotFoundContext(_) => {
            PeerFault::ExtendedKeyUsage("for this direction, through the whole chain")
        }
        other => PeerFault::Chain(other),
    }
}
