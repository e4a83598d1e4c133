//! An authority that can make certificates which peers accept, or every
//! reason why it cannot.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyUsagePurpose,
    PublicKeyData, SanType, SerialNumber, SignatureAlgorithm,
};
use rustls::SignatureScheme;
use rustls::crypto::aws_lc_rs::sign::any_ecdsa_type;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::{CertifiedKey, SigningKey};
use thiserror::Error;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::super::bundle::{TrustBundle, TrustBundles};
use super::super::certificate::{Facts, shown};
use super::super::source::SourceError;
use super::super::svid::Issued;
use super::super::verify::{PeerFault, Presenter, verify_peer};
use crate::spiffe::{SpiffeId, TrustDomain};

/// An authority whose certificates peers accept: tried out when it loads.
pub struct Authority {
    issuer: Issuer<'static, AuthorityKey>,
    /// What stands between a leaf and its root: the authority itself and the
    /// chain above it; nothing, if it is the root.
    presented: Vec<CertificateDer<'static>>,
    /// The earliest end in the chain, the root included.
    good_until: SystemTime,
    svid_ttl: Duration,
}

/// Why an authority cannot issue, one sentence each.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AuthorityFault {
    #[error(
        "certificate {nth} ({subject}) is not that of an authority: basicConstraints lacks CA:TRUE"
    )]
    NotAnAuthority { nth: usize, subject: String },
    #[error(
        "certificate {nth} ({subject}) may not sign certificates: its keyUsage lacks keyCertSign"
    )]
    KeyUsage { nth: usize, subject: String },
    #[error(
        "certificate {nth} ({subject}) limits what it issues to other uses: its extendedKeyUsage lacks serverAuth or clientAuth"
    )]
    ExtendedKeyUsage { nth: usize, subject: String },
    #[error(
        "certificate {nth} ({subject}) allows {allowed} authorities below it (pathlen), and {below} stand there"
    )]
    PathLen {
        nth: usize,
        subject: String,
        allowed: u32,
        below: usize,
    },
    #[error("certificate {nth} ({subject}) ended at {}", shown(*not_after))]
    Expired {
        nth: usize,
        subject: String,
        not_after: SystemTime,
    },
    #[error("certificate {nth} ({subject}) begins at {}, later than now: compare the clocks", shown(*not_before))]
    NotYetValid {
        nth: usize,
        subject: String,
        not_before: SystemTime,
    },
    #[error("certificate {nth} cannot be read")]
    Unreadable { nth: usize },
    #[error(
        "certificate {nth} ({subject}) was not issued by the one after it: order them from the authority upwards"
    )]
    Order { nth: usize, subject: String },
    #[error("the private key does not belong to the first certificate ({subject})")]
    OtherKey { subject: String },
    #[error(
        "its name constraints do not allow spiffe:// names of {0}; constraints on URIs are not supported, so that any of them refuses"
    )]
    NameConstraints(TrustDomain),
    #[error("a certificate made with it does not verify: {0}")]
    Trial(PeerFault),
    #[error("a certificate cannot be made with it: {0}")]
    Issue(String),
}

/// All of them, at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorityFaults(pub Vec<AuthorityFault>);

/// New certificates begin a little earlier, for peers whose clocks are late.
const BACKDATE: Duration = Duration::from_secs(60);

impl Authority {
    /// `chain`: the authority's certificate, then those above it.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: Arc<dyn SigningKey>,
        bundle: &Arc<TrustBundle>,
        svid_ttl: Duration,
        now: SystemTime,
    ) -> Result<Self, AuthorityFaults> {
        let chain = without_root(chain);
        let mut faults = Vec::new();
        let links = look_through(&chain, now, &mut faults);
        let pair = CertifiedKey::new(chain, key);
        if let (Err(_), Some(first)) = (pair.keys_match(), links.first()) {
            let subject = first.subject.clone();
            faults.push(AuthorityFault::OtherKey { subject });
        }
        let Some(end) = links.iter().map(|link| link.not_after).min() else {
            return Err(AuthorityFaults(faults));
        };
        if !faults.is_empty() {
            return Err(AuthorityFaults(faults));
        }
        let is_root = links.first().is_some_and(|first| first.self_issued);
        Self::tried_out(pair, is_root, end, bundle, now)
            .map(|authority| Self {
                svid_ttl,
                ..authority
            })
            .map_err(|fault| AuthorityFaults(vec![fault]))
    }

    /// Makes a certificate and judges it as a peer would: what the looks at
    /// each certificate miss shows here.
    fn tried_out(
        pair: CertifiedKey,
        is_root: bool,
        end: SystemTime,
        bundle: &Arc<TrustBundle>,
        now: SystemTime,
    ) -> Result<Self, AuthorityFault> {
        let certificate = pair
            .cert
            .first()
            .ok_or(AuthorityFault::Unreadable { nth: 1 })?;
        let issuer = AuthorityKey::new(certificate, pair.key)
            .and_then(|key| Issuer::from_ca_cert_der(certificate, key))
            .map_err(|e| AuthorityFault::Issue(e.to_string()))?;
        let mut authority = Self {
            issuer,
            presented: if is_root { Vec::new() } else { pair.cert },
            good_until: end,
            svid_ttl: Duration::ZERO,
        };
        let trial = format!("spiffe://{}/mtls-daemon/trial", bundle.trust_domain())
            .parse()
            .map_err(|e| AuthorityFault::Issue(format!("{e}")))?;
        // As long-lived as it can be, so that its proof ends with the chain.
        let issued = authority
            .issue_until(&trial, now, end)
            .map_err(|e| AuthorityFault::Issue(e.to_string()))?;
        let bundles = TrustBundles::from_iter([Arc::clone(bundle)]);
        for presenter in [Presenter::Client, Presenter::Server] {
            let seen = verify_peer(&issued.chain, presenter, &bundles, now, Duration::ZERO)
                .map_err(|fault| AuthorityFault::of_trial(fault, bundle))?;
            authority.good_until = authority.good_until.min(seen.good_until);
        }
        Ok(authority)
    }

    /// A new key and a certificate for it. The key never leaves memory.
    pub fn issue(&self, workload: &SpiffeId, now: SystemTime) -> Result<Issued, SourceError> {
        if now > self.good_until {
            return Err(SourceError::AuthorityExpired(self.good_until));
        }
        self.issue_until(workload, now, (now + self.svid_ttl).min(self.good_until))
    }

    fn issue_until(
        &self,
        workload: &SpiffeId,
        now: SystemTime,
        until: SystemTime,
    ) -> Result<Issued, SourceError> {
        let failed = |e: rcgen::Error| SourceError::Issue(e.to_string());
        let (key, public) = new_key().map_err(SourceError::Issue)?;
        let mut params = CertificateParams::default();
        params.not_before = (now - BACKDATE).into();
        params.not_after = until.into();
        params.serial_number = Some(new_serial().map_err(SourceError::Issue)?);
        // The identity is in the alternative name alone, which is then critical.
        params.distinguished_name = DistinguishedName::new();
        let san = workload.as_str().try_into().map_err(failed)?;
        params.subject_alt_names = vec![SanType::URI(san)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        let leaf = params.signed_by(&public, &self.issuer).map_err(failed)?;
        let mut chain = Vec::with_capacity(1 + self.presented.len());
        chain.push(leaf.der().clone());
        chain.extend_from_slice(&self.presented);
        Ok(Issued { chain, key })
    }
}

impl AuthorityFault {
    fn of_trial(fault: PeerFault, bundle: &TrustBundle) -> Self {
        match fault {
            PeerFault::Chain(webpki::Error::NameConstraintViolation) => {
                Self::NameConstraints(bundle.trust_domain().clone())
            }
            other => Self::Trial(other),
        }
    }
}

/// A self-signed certificate at the end of a chain is of no use to anyone:
/// who trusts it has it. Alone, it is the authority itself.
fn without_root(mut chain: Vec<CertificateDer<'static>>) -> Vec<CertificateDer<'static>> {
    while chain.len() > 1
        && chain
            .last()
            .and_then(|der| Facts::of(der))
            .is_some_and(|facts| facts.self_issued)
    {
        chain.pop();
    }
    chain
}

/// Looks at each certificate by itself and at its place in the chain.
fn look_through(
    chain: &[CertificateDer<'_>],
    now: SystemTime,
    faults: &mut Vec<AuthorityFault>,
) -> Vec<Facts> {
    let mut links = Vec::with_capacity(chain.len());
    for (nth, der) in (1..).zip(chain) {
        let Some(facts) = Facts::of(der) else {
            faults.push(AuthorityFault::Unreadable { nth });
            continue;
        };
        look_at(nth, &facts, now, faults);
        links.push(facts);
    }
    for (nth, pair) in (1..).zip(chain.windows(2)) {
        if !issued_by(&pair[0], &pair[1]) {
            let subject = Facts::of(&pair[0])
                .map(|facts| facts.subject)
                .unwrap_or_default();
            faults.push(AuthorityFault::Order { nth, subject });
        }
    }
    links
}

fn look_at(nth: usize, facts: &Facts, now: SystemTime, faults: &mut Vec<AuthorityFault>) {
    let subject = || facts.subject.clone();
    if !facts.is_ca {
        faults.push(AuthorityFault::NotAnAuthority {
            nth,
            subject: subject(),
        });
    }
    if facts.key_usage.is_some_and(|usage| !usage.key_cert_sign) {
        faults.push(AuthorityFault::KeyUsage {
            nth,
            subject: subject(),
        });
    }
    if facts
        .extended_key_usage
        .is_some_and(|usage| !(usage.server_auth && usage.client_auth))
    {
        faults.push(AuthorityFault::ExtendedKeyUsage {
            nth,
            subject: subject(),
        });
    }
    let below = nth - 1;
    if let Some(allowed) = facts.path_len.filter(|allowed| below > *allowed as usize) {
        faults.push(AuthorityFault::PathLen {
            nth,
            subject: subject(),
            allowed,
            below,
        });
    }
    if now > facts.not_after {
        let not_after = facts.not_after;
        faults.push(AuthorityFault::Expired {
            nth,
            subject: subject(),
            not_after,
        });
    }
    if now < facts.not_before {
        let not_before = facts.not_before;
        faults.push(AuthorityFault::NotYetValid {
            nth,
            subject: subject(),
            not_before,
        });
    }
}

/// By name; the trial verifies the signatures.
fn issued_by(below: &CertificateDer<'_>, above: &CertificateDer<'_>) -> bool {
    let (Ok((_, below)), Ok((_, above))) = (
        X509Certificate::from_der(below),
        X509Certificate::from_der(above),
    ) else {
        return false;
    };
    below.issuer().as_raw() == above.subject().as_raw()
}

fn new_key() -> Result<(Arc<dyn SigningKey>, LeafKey), String> {
    let failed = |_| "no key could be generated".to_owned();
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map_err(failed)?;
    let public = LeafKey(pair.public_key().as_ref().to_vec());
    // The one hand-over between the two libraries; wiped when dropped.
    let document = pair.to_pkcs8v1().map_err(failed)?;
    let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(document.as_ref()));
    let key = any_ecdsa_type(&der).map_err(|e| e.to_string())?;
    Ok((key, public))
}

fn new_serial() -> Result<SerialNumber, String> {
    let mut serial = [0; 16];
    SystemRandom::new()
        .fill(&mut serial)
        .map_err(|_unspecified| "the system gave no random bytes".to_owned())?;
    // Positive, and of full length (RFC 5280 4.1.2.2).
    serial[0] = serial[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&serial))
}

/// Public half of a new workload key: an uncompressed P-256 point.
struct LeafKey(Vec<u8>);

impl PublicKeyData for LeafKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

/// The authority's key, of whatever kind, behind `rcgen`'s interface.
struct AuthorityKey {
    key: Arc<dyn SigningKey>,
    scheme: SignatureScheme,
    algorithm: &'static SignatureAlgorithm,
    public: Vec<u8>,
}

impl AuthorityKey {
    /// Every kind that can sign certificates, and how.
    const KINDS: [(SignatureScheme, &SignatureAlgorithm); 5] = [
        (
            SignatureScheme::ECDSA_NISTP256_SHA256,
            &rcgen::PKCS_ECDSA_P256_SHA256,
        ),
        (
            SignatureScheme::ECDSA_NISTP384_SHA384,
            &rcgen::PKCS_ECDSA_P384_SHA384,
        ),
        (
            SignatureScheme::ECDSA_NISTP521_SHA512,
            &rcgen::PKCS_ECDSA_P521_SHA512,
        ),
        (SignatureScheme::ED25519, &rcgen::PKCS_ED25519),
        (SignatureScheme::RSA_PKCS1_SHA256, &rcgen::PKCS_RSA_SHA256),
    ];

    fn new(
        certificate: &CertificateDer<'_>,
        key: Arc<dyn SigningKey>,
    ) -> Result<Self, rcgen::Error> {
        let (scheme, algorithm) = Self::KINDS
            .into_iter()
            .find(|(scheme, _)| key.choose_scheme(&[*scheme]).is_some())
            .ok_or(rcgen::Error::UnsupportedSignatureAlgorithm)?;
        let (_, parsed) = X509Certificate::from_der(certificate)
            .or(Err(rcgen::Error::CouldNotParseCertificate))?;
        let public = parsed.public_key().subject_public_key.data.to_vec();
        Ok(Self {
            key,
            scheme,
            algorithm,
            public,
        })
    }
}

impl PublicKeyData for AuthorityKey {
    fn der_bytes(&self) -> &[u8] {
        &self.public
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.algorithm
    }
}

impl rcgen::SigningKey for AuthorityKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.key
            .choose_scheme(&[self.scheme])
            .and_then(|signer| signer.sign(message).ok())
            .ok_or(rcgen::Error::RemoteKeyError)
    }
}

impl fmt::Display for AuthorityFaults {
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

impl std::error::Error for AuthorityFaults {}
