//! A workload's own certificate and key, checked before anything uses them.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;
use rustls::sign::{CertifiedKey, SigningKey};
use thiserror::Error;

use super::bundle::TrustBundles;
use super::certificate::{Facts, shown};
use super::revocation::Revocations;
use super::verify::{PeerFault, Presenter, Terms, verify_peer};
use crate::spiffe::{SanError, SpiffeId};

/// A workload's certificate chain and private key, verified to carry exactly
/// the SPIFFE ID that the workload is configured with. [`Svid::admit`] is the
/// only maker.
pub struct Svid {
    id: SpiffeId,
    key: Arc<CertifiedKey>,
    serial: String,
    issuer: String,
    obtained: SystemTime,
    not_before: SystemTime,
    not_after: SystemTime,
    good_until: SystemTime,
}

/// What a source hands over: not looked at yet.
pub struct Issued {
    /// Leaf first, then the intermediates.
    pub chain: Vec<CertificateDer<'static>>,
    pub key: Arc<dyn SigningKey>,
}

/// What is wrong with a certificate that was to become a workload's own.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SvidFault {
    #[error("there is no certificate")]
    NoCertificate,
    #[error("the certificate cannot be read")]
    Unreadable,
    #[error(
        "the certificate carries no SPIFFE ID: {error}; make one with: {}",
        openssl_line(wanted)
    )]
    San { error: SanError, wanted: SpiffeId },
    #[error("the certificate is for {got}, but the workload is configured as {wanted}")]
    OtherIdentity { wanted: SpiffeId, got: SpiffeId },
    #[error("the private key does not belong to the certificate")]
    OtherKey,
    #[error("the certificate is that of an authority (CA:TRUE), where a workload's own is needed")]
    Authority,
    #[error(
        "the certificate lacks the extended key usages serverAuth and clientAuth: a workload is at either end of its connections"
    )]
    ExtendedKeyUsage,
    #[error(
        "the key usage of the certificate lacks digitalSignature, or allows signing certificates"
    )]
    KeyUsage,
    #[error("the certificate ended at {}", shown(*.0))]
    Expired(SystemTime),
    #[error("the certificate begins at {}, later than now: compare the clocks", shown(*.0))]
    NotYetValid(SystemTime),
    #[error("peers would refuse the certificate: {0}")]
    Chain(PeerFault),
}

/// Everything that is wrong with it, at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SvidFaults(pub Vec<SvidFault>);

impl Svid {
    /// Takes a certificate in as `wanted`'s, or says everything that speaks
    /// against it. It must verify against its own trust domain's bundle, as
    /// its peers will do.
    pub fn admit(
        issued: Issued,
        wanted: &SpiffeId,
        bundles: &TrustBundles,
        revocations: &Revocations,
        now: SystemTime,
    ) -> Result<Self, SvidFaults> {
        let key = CertifiedKey::new(issued.chain, issued.key);
        let facts = check_pair(&key, wanted, now)?;
        let good_until = check_chain(&key, bundles, revocations, now)
            .map_err(|fault| SvidFaults(vec![SvidFault::Chain(fault)]))?;
        Ok(Self {
            id: wanted.clone(),
            key: Arc::new(key),
            serial: facts.serial,
            issuer: facts.issuer,
            obtained: now,
            not_before: facts.not_before,
            not_after: facts.not_after,
            good_until,
        })
    }

    /// Whether peers that hold `bundles`, and know of `revocations`, still
    /// accept it.
    pub fn check(
        &self,
        bundles: &TrustBundles,
        revocations: &Revocations,
        now: SystemTime,
    ) -> Result<(), SvidFault> {
        check_chain(&self.key, bundles, revocations, now)
            .map(drop)
            .map_err(SvidFault::Chain)
    }

    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// Chain, leaf first, and signer.
    pub fn key(&self) -> &Arc<CertifiedKey> {
        &self.key
    }

    /// Serial number of the leaf, in hexadecimal.
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// Name of the authority that signed the leaf.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// When the daemon took it in.
    pub fn obtained(&self) -> SystemTime {
        self.obtained
    }

    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// The leaf's own end.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Until when peers accept it: the earliest end in its chain, its root
    /// included.
    pub fn good_until(&self) -> SystemTime {
        self.good_until
    }
}

/// Everything that can be said of a certificate and its key by themselves.
pub(super) fn check_pair(
    pair: &CertifiedKey,
    wanted: &SpiffeId,
    now: SystemTime,
) -> Result<Facts, SvidFaults> {
    let leaf = pair
        .cert
        .first()
        .ok_or_else(|| SvidFaults(vec![SvidFault::NoCertificate]))?;
    let facts = Facts::of(leaf).ok_or_else(|| SvidFaults(vec![SvidFault::Unreadable]))?;
    let mut faults = Vec::new();
    match SpiffeId::from_certificate(leaf) {
        Ok(got) if got == *wanted => {}
        Ok(got) => faults.push(SvidFault::OtherIdentity {
            wanted: wanted.clone(),
            got,
        }),
        Err(error) => faults.push(SvidFault::San {
            error,
            wanted: wanted.clone(),
        }),
    }
    if pair.keys_match().is_err() {
        faults.push(SvidFault::OtherKey);
    }
    if facts.is_ca {
        faults.push(SvidFault::Authority);
    }
    if facts
        .key_usage
        .is_some_and(|usage| !usage.digital_signature || usage.key_cert_sign || usage.crl_sign)
    {
        faults.push(SvidFault::KeyUsage);
    }
    if !facts
        .extended_key_usage
        .is_some_and(|usage| usage.server_auth && usage.client_auth)
    {
        faults.push(SvidFault::ExtendedKeyUsage);
    }
    if now > facts.not_after {
        faults.push(SvidFault::Expired(facts.not_after));
    }
    if now < facts.not_before {
        faults.push(SvidFault::NotYetValid(facts.not_before));
    }
    if faults.is_empty() {
        Ok(facts)
    } else {
        Err(SvidFaults(faults))
    }
}

/// As peers will look at it, at either end; the earliest end in the chain.
///
/// A list that cannot tell is no fault of the certificate: whether peers can
/// is theirs to say.
fn check_chain(
    pair: &CertifiedKey,
    bundles: &TrustBundles,
    revocations: &Revocations,
    now: SystemTime,
) -> Result<SystemTime, PeerFault> {
    let judge_by = |presenter, revocations| {
        let terms = Terms {
            bundles,
            revocations,
            now,
            skew: Duration::ZERO,
        };
        verify_peer(&pair.cert, presenter, &terms)
    };
    let judge = |presenter| match judge_by(presenter, revocations) {
        Err(PeerFault::RevocationUnknown(..)) => judge_by(presenter, Revocations::none()),
        judged => judged,
    };
    let client = judge(Presenter::Client)?;
    let server = judge(Presenter::Server)?;
    Ok(client.good_until.min(server.good_until))
}

/// A command that makes a certificate which passes, for `wanted`.
/// `docs/identity.md` explains its parts.
pub fn openssl_line(wanted: &SpiffeId) -> String {
    format!(
        "openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -keyout tls.key \
         -subj / -addext subjectAltName=critical,URI:{wanted} \
         -addext basicConstraints=critical,CA:FALSE -addext keyUsage=critical,digitalSignature \
         -addext extendedKeyUsage=serverAuth,clientAuth | \
         openssl x509 -req -copy_extensions copy -CA ca.crt -CAkey ca.key -days 30 -out tls.crt"
    )
}

impl fmt::Display for SvidFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (nth, fault) in self.0.iter().enumerate() {
            if nth > 0 {
                f.write_str("; ")?;
            }
            fault.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for SvidFaults {}

/// Never shows the key.
impl fmt::Debug for Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Svid")
            .field("id", &self.id)
            .field("serial", &self.serial)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issued")
            .field("chain", &self.chain.len())
            .finish_non_exhaustive()
    }
}
