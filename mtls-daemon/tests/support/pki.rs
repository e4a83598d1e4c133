//! Authorities and certificates, good and bad.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "several test binaries use a part of it each"
)]

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mtls_daemon::config::{CrlDepth, CrlPolicy};
use mtls_daemon::identity::certificate::Facts;
use mtls_daemon::identity::{
    Issued, Lists, Revocation, Revocations, Svid, TrustBundle, TrustBundles,
};
use mtls_daemon::spiffe::{SpiffeId, TrustDomain};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationList,
    CertificateRevocationListParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
};
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::{CertifiedKey, SigningKey};

pub const WEB: &str = "spiffe://example.org/ns/default/sa/web";
pub const DB: &str = "spiffe://example.org/ns/default/sa/db";
pub const HOUR: Duration = Duration::from_secs(3600);

pub fn id(text: &str) -> SpiffeId {
    text.parse().unwrap()
}

/// The list of an authority of example.org that names these serial numbers.
pub fn revoking(ca: &Ca, serials: &[&str]) -> Arc<Revocations> {
    let mut lists = Lists::default();
    lists.add(ca.crl(serials).der()).unwrap();
    let mut all = Revocations::default();
    let revocation = Revocation::new(CrlPolicy::Hard, CrlDepth::Chain, Arc::new(lists));
    all.put(trust_domain("example.org"), revocation);
    Arc::new(all)
}

pub fn trust_domain(text: &str) -> TrustDomain {
    text.parse().unwrap()
}

/// An authority, and what its leaves present of the chain above them.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pub certificate: CertificateDer<'static>,
    pub pem: String,
    pub key_pem: String,
    presented: Vec<CertificateDer<'static>>,
}

pub struct Leaf {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: KeyPair,
}

impl Ca {
    pub fn root(name: &str) -> Self {
        Self::root_with(name, |_| ())
    }

    pub fn root_with(name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = authority(name);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self {
            certificate: certificate.der().clone(),
            pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            issuer: Issuer::new(params, key),
            presented: Vec::new(),
        }
    }

    pub fn intermediate(&self, name: &str) -> Self {
        self.intermediate_with(name, |_| ())
    }

    pub fn intermediate_with(
        &self,
        name: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Self {
        let mut params = authority(name);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let mut presented = vec![certificate.der().clone()];
        presented.extend_from_slice(&self.presented);
        Self {
            certificate: certificate.der().clone(),
            pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            issuer: Issuer::new(params, key),
            presented,
        }
    }

    pub fn leaf(&self, id: &str) -> Leaf {
        self.leaf_with(id, |_| ())
    }

    /// A leaf that everybody accepts, but for the `change`.
    pub fn leaf_with(&self, id: &str, change: impl FnOnce(&mut CertificateParams)) -> Leaf {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.subject_alt_names = vec![uri(id)];
        (params.not_before, params.not_after) = (since(HOUR), in_(HOUR));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        let mut chain = vec![leaf.der().clone()];
        chain.extend_from_slice(&self.presented);
        Leaf { chain, key }
    }

    /// A revocation list of these serial numbers, current for an hour.
    pub fn crl(&self, serials: &[&str]) -> CertificateRevocationList {
        self.crl_until(HOUR, serials)
    }

    /// One whose successor is due in `life`.
    pub fn crl_until(&self, life: Duration, serials: &[&str]) -> CertificateRevocationList {
        let params = CertificateRevocationListParams {
            this_update: since(HOUR),
            next_update: in_(life),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(|serial| revoked(serial)).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap()
    }

    /// A leaf that is used as an authority although it is none.
    pub fn misused(&self, leaf: Leaf) -> Self {
        let issuer = Issuer::from_ca_cert_der(&leaf.chain[0], leaf.key).unwrap();
        Self {
            certificate: leaf.chain[0].clone(),
            pem: String::new(),
            key_pem: String::new(),
            issuer,
            presented: leaf.chain,
        }
    }

    pub fn bundle(&self, domain: &str) -> Arc<TrustBundle> {
        bundle(domain, &[self])
    }

    pub fn bundles(&self, domain: &str) -> TrustBundles {
        TrustBundles::from_iter([self.bundle(domain)])
    }
}

fn revoked(serial: &str) -> RevokedCertParams {
    let bytes = serial.as_bytes().chunks(2);
    let bytes = bytes.map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap());
    RevokedCertParams {
        serial_number: SerialNumber::from(bytes.collect::<Vec<u8>>()),
        revocation_time: since(HOUR),
        reason_code: None,
        invalidity_date: None,
    }
}

pub fn bundle(domain: &str, roots: &[&Ca]) -> Arc<TrustBundle> {
    let roots: Vec<_> = roots.iter().map(|root| root.certificate.clone()).collect();
    Arc::new(TrustBundle::new(trust_domain(domain), &roots).unwrap())
}

impl Leaf {
    pub fn signing_key(&self) -> Arc<dyn SigningKey> {
        let der = PrivatePkcs8KeyDer::from(self.key.serialized_der());
        any_supported_type(&PrivateKeyDer::Pkcs8(der)).unwrap()
    }

    pub fn issued(&self) -> Issued {
        Issued {
            chain: self.chain.clone(),
            key: self.signing_key(),
        }
    }

    /// Unchecked, for peers that are up to no good.
    pub fn certified(&self) -> Arc<CertifiedKey> {
        Arc::new(CertifiedKey::new(self.chain.clone(), self.signing_key()))
    }

    pub fn svid(&self, id: &str, bundles: &TrustBundles) -> Arc<Svid> {
        let id = id.parse().unwrap();
        Arc::new(
            Svid::admit(
                self.issued(),
                &id,
                bundles,
                Revocations::none(),
                SystemTime::now(),
            )
            .unwrap(),
        )
    }

    /// In hexadecimal.
    pub fn serial(&self) -> String {
        Facts::of(&self.chain[0]).unwrap().serial
    }

    pub fn chain_pem(&self) -> String {
        self.chain.iter().map(pem).collect()
    }

    pub fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }
}

pub fn pem(der: &CertificateDer<'_>) -> String {
    use std::fmt::Write as _;
    use std::io::Write as _;
    // openssl-style base64, by hand: no other test needs an encoder.
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = Vec::new();
    for three in der.chunks(3) {
        let mut bits = 0_u32;
        for n in 0..3 {
            bits = bits << 8 | u32::from(*three.get(n).unwrap_or(&0));
        }
        for n in 0..4 {
            let digit = ALPHABET[(bits >> (18 - 6 * n) & 63) as usize];
            text.write_all(&[if n <= three.len() { digit } else { b'=' }])
                .unwrap();
        }
    }
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in text.chunks(64) {
        writeln!(pem, "{}", std::str::from_utf8(line).unwrap()).unwrap();
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    (params.not_before, params.not_after) = (since(HOUR), in_(24 * HOUR));
    params
}

pub fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

/// A date in the past, in the type that `rcgen` wants.
pub fn since<T: From<SystemTime>>(ago: Duration) -> T {
    (SystemTime::now() - ago).into()
}

/// A date in the future.
pub fn in_<T: From<SystemTime>>(later: Duration) -> T {
    (SystemTime::now() + later).into()
}

/// Name constraints on URIs, which the certificate maker does not offer:
/// only those of `host` are permitted.
pub fn only_uris_of(host: &str) -> CustomExtension {
    let tagged = |tag: u8, content: &[u8]| {
        let mut der = vec![tag, u8::try_from(content.len()).unwrap()];
        der.extend_from_slice(content);
        der
    };
    let base = tagged(0x86, host.as_bytes());
    let constraints = tagged(0x30, &tagged(0xa0, &tagged(0x30, &base)));
    let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 30], constraints);
    extension.set_criticality(true);
    extension
}
