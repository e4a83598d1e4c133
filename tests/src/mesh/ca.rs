//! Certificate authorities on disk, and leaves from them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer,
    DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair,
    KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
};

use crate::error::{Doing, Error, Result};

const DAY: Duration = Duration::from_secs(86_400);

/// A root authority of a trust domain, with its files.
pub struct Ca {
    trust_domain: String,
    folder: PathBuf,
    issuer: CertifiedIssuer<'static, KeyPair>,
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// The files of a workload's certificate.
#[derive(Clone, Debug)]
pub struct Leaf {
    pub certificate: PathBuf,
    pub key: PathBuf,
    pub bundle: PathBuf,
}

impl Ca {
    /// Makes an authority, `name` unique in the folder.
    pub fn create(folder: &Path, name: &str, trust_domain: &str) -> Result<Self> {
        Self::make(folder, name, trust_domain, CertificateParams::default())
    }

    /// One that ends before long.
    pub fn create_for(
        folder: &Path,
        name: &str,
        trust_domain: &str,
        life: Duration,
    ) -> Result<Self> {
        let mut params = CertificateParams::default();
        params.not_after = (SystemTime::now() + life).into();
        Self::make(folder, name, trust_domain, params)
    }

    fn make(
        folder: &Path,
        name: &str,
        trust_domain: &str,
        mut params: CertificateParams,
    ) -> Result<Self> {
        params.distinguished_name = named(&format!("{name} of {trust_domain}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.subject_alt_names = vec![uri(&format!("spiffe://{trust_domain}"))?];
        let key = KeyPair::generate().map_err(unissued)?;
        let issuer = CertifiedIssuer::self_signed(params, key).map_err(unissued)?;
        let certificate = folder.join(format!("{name}.pem"));
        let key = folder.join(format!("{name}-key.pem"));
        write(&certificate, &issuer.pem(), 0o644)?;
        write(&key, &issuer.key().serialize_pem(), 0o600)?;
        Ok(Self {
            trust_domain: trust_domain.to_owned(),
            folder: folder.to_owned(),
            issuer,
            certificate,
            key,
        })
    }

    /// The identity of a workload by that name.
    pub fn identity(&self, workload: &str) -> String {
        format!("spiffe://{}/{workload}", self.trust_domain)
    }

    /// Writes the list of what it has withdrawn, by serial numbers in
    /// hexadecimal.
    pub fn revoke(&self, list: &Path, serials: &[&str]) -> Result {
        let now = SystemTime::now();
        let revoked = serials.iter().map(|serial| {
            Ok(RevokedCertParams {
                serial_number: SerialNumber::from(bytes(serial)?),
                revocation_time: now.into(),
                reason_code: None,
                invalidity_date: None,
            })
        });
        let params = CertificateRevocationListParams {
            this_update: (now - DAY).into(),
            next_update: (now + DAY).into(),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect::<Result<_>>()?,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let made = params.signed_by(&self.issuer).map_err(unissued)?;
        // In one step, as who keeps lists does.
        let new = list.with_extension("new");
        write(&new, &made.pem().map_err(unissued)?, 0o644)?;
        fs::rename(&new, list).doing(|| format!("replacing {}", list.display()))
    }

    /// A certificate for any identity, of this trust domain or another.
    pub fn leaf(&self, name: &str, identity: &str) -> Result<Leaf> {
        self.issue(name, vec![uri(identity)?])
    }

    /// A certificate for a server at an address, and at a host's name.
    pub fn server(&self, name: &str, address: std::net::IpAddr, host: &str) -> Result<Leaf> {
        self.issue(name, vec![SanType::IpAddress(address), dns(host)?])
    }

    /// The same with a name of the host too, for programs that know no other.
    pub fn leaf_for_host(&self, name: &str, identity: &str, host: &str) -> Result<Leaf> {
        self.issue(name, vec![uri(identity)?, dns(host)?])
    }

    fn issue(&self, name: &str, names: Vec<SanType>) -> Result<Leaf> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = names;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ClientAuth,
            ExtendedKeyUsagePurpose::ServerAuth,
        ];
        let own_key = KeyPair::generate().map_err(unissued)?;
        let issued = params.signed_by(&own_key, &self.issuer).map_err(unissued)?;
        let certificate = self.folder.join(format!("{name}.pem"));
        let key = self.folder.join(format!("{name}-key.pem"));
        write(&certificate, &issued.pem(), 0o644)?;
        write(&key, &own_key.serialize_pem(), 0o600)?;
        Ok(Leaf {
            certificate,
            key,
            bundle: self.certificate.clone(),
        })
    }
}

fn bytes(hexadecimal: &str) -> Result<Vec<u8>> {
    let digits: Vec<char> = hexadecimal.chars().collect();
    let pairs = digits.chunks(2).map(|pair| {
        u8::from_str_radix(&pair.iter().collect::<String>(), 16)
            .map_err(|error| Error::Unexpected(format!("{hexadecimal} is no number: {error}")))
    });
    pairs.collect()
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn uri(identity: &str) -> Result<SanType> {
    Ia5String::try_from(identity)
        .map(SanType::URI)
        .map_err(unissued)
}

fn dns(host: &str) -> Result<SanType> {
    Ia5String::try_from(host)
        .map(SanType::DnsName)
        .map_err(unissued)
}

fn write(path: &Path, text: &str, mode: u32) -> Result {
    fs::write(path, text).doing(|| format!("writing {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .doing(|| format!("setting the mode of {}", path.display()))
}

fn unissued(error: rcgen::Error) -> Error {
    Error::Unexpected(format!("issuing a certificate: {error}"))
}
