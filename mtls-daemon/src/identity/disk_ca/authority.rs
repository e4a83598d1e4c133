//! An authority that can make certificates which peers accept.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use rustls::SignatureScheme;
use rustls::pki_types::{AlgorithmIdentifier, CertificateDer, alg_id};
use rustls::sign::{CertifiedKey, SigningKey};
use x509_parser::prelude::{FromDer, ParsedExtension, X509Certificate};

use super::super::bundle::{TrustBundle, TrustBundles};
use super::super::key::new_key;
use super::super::revocation::Revocations;
use super::super::source::SourceError;
use super::super::svid::Issued;
use super::super::verify::{Presenter, Terms, verify_peer};
use super::inspect::{AuthorityFault, AuthorityFaults, look_through, without_root};
use super::leaf::{Leaf, signed};
use crate::spiffe::{SpiffeId, TrustDomain};

/// An authority whose certificates peers accept: tried out when it loads.
pub struct Authority {
    key: Arc<dyn SigningKey>,
    scheme: SignatureScheme,
    algorithm: AlgorithmIdentifier,
    /// Its subject, as it stands in its certificate.
    name: Vec<u8>,
    key_id: Option<Vec<u8>>,
    /// What stands between a leaf and its root: the authority itself and the
    /// chain above it; nothing, if it is the root.
    presented: Vec<CertificateDer<'static>>,
    /// The earliest end in the chain, the root included.
    good_until: SystemTime,
    svid_ttl: Duration,
}

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
        let certificate = pair.cert.first();
        let (name, key_id) = certificate
            .and_then(name_and_key_id)
            .ok_or(AuthorityFault::Unreadable { nth: 1 })?;
        let (scheme, algorithm) = SIGNATURES
            .into_iter()
            .find(|(scheme, _)| pair.key.choose_scheme(&[*scheme]).is_some())
            .ok_or(AuthorityFault::KeyKind)?;
        let mut authority = Self {
            key: pair.key,
            scheme,
            algorithm,
            name,
            key_id,
            presented: if is_root { Vec::new() } else { pair.cert },
            good_until: end,
            svid_ttl: Duration::ZERO,
        };
        // As long-lived as it can be, so that its proof ends with the chain.
        let trial = trial_id(bundle.trust_domain())?;
        let issued = authority
            .issue_until(&trial, now, end)
            .map_err(AuthorityFault::Issue)?;
        let bundles = TrustBundles::from_iter([Arc::clone(bundle)]);
        for presenter in [Presenter::Client, Presenter::Server] {
            let terms = Terms {
                bundles: &bundles,
                revocations: Revocations::none(),
                now,
                skew: Duration::ZERO,
            };
            let seen = verify_peer(&issued.chain, presenter, &terms)
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
        let failed = |what: &str| SourceError::Issue(what.to_owned());
        let key = new_key()?;
        let public_key = key
            .public_key()
            .ok_or_else(|| failed("a new key has no public half"))?;
        let leaf = Leaf {
            workload,
            public_key: &public_key,
            serial: new_serial()?,
            not_before: now - BACKDATE,
            not_after: until,
            issuer: &self.name,
            issuer_key_id: self.key_id.as_deref(),
        };
        let to_be_signed = leaf
            .to_be_signed(self.algorithm)
            .ok_or_else(|| failed("its dates are beyond the calendar"))?;
        let signature = self
            .key
            .choose_scheme(&[self.scheme])
            .and_then(|signer| signer.sign(&to_be_signed).ok())
            .ok_or_else(|| failed("the authority's key does not sign"))?;
        let mut chain = Vec::with_capacity(1 + self.presented.len());
        chain.push(signed(&to_be_signed, self.algorithm, &signature));
        chain.extend_from_slice(&self.presented);
        Ok(Issued { chain, key })
    }
}

/// Every kind of key that can sign certificates, and how. RSA in its older
/// padding, which every verifier knows.
const SIGNATURES: [(SignatureScheme, AlgorithmIdentifier); 5] = [
    (SignatureScheme::ECDSA_NISTP256_SHA256, alg_id::ECDSA_SHA256),
    (SignatureScheme::ECDSA_NISTP384_SHA384, alg_id::ECDSA_SHA384),
    (SignatureScheme::ECDSA_NISTP521_SHA512, alg_id::ECDSA_SHA512),
    (SignatureScheme::ED25519, alg_id::ED25519),
    (SignatureScheme::RSA_PKCS1_SHA256, alg_id::RSA_PKCS1_SHA256),
];

fn new_serial() -> Result<[u8; 16], SourceError> {
    let mut serial = [0; 16];
    if SystemRandom::new().fill(&mut serial).is_err() {
        let what = "the system gave no random bytes".to_owned();
        return Err(SourceError::Issue(what));
    }
    // Positive, and of full length (RFC 5280 4.1.2.2).
    serial[0] = serial[0] & 0x7f | 0x40;
    Ok(serial)
}

fn name_and_key_id(certificate: &CertificateDer<'_>) -> Option<(Vec<u8>, Option<Vec<u8>>)> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let key_id =
        certificate
            .extensions()
            .iter()
            .find_map(|extension| match extension.parsed_extension() {
                ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
                _ => None,
            });
    Some((certificate.subject().as_raw().to_vec(), key_id))
}

fn trial_id(trust_domain: &TrustDomain) -> Result<SpiffeId, AuthorityFault> {
    format!("spiffe://{trust_domain}/mtls-daemon/trial")
        .parse()
        .map_err(|e| AuthorityFault::Issue(SourceError::Issue(format!("{e}"))))
}
