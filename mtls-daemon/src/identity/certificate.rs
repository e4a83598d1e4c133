//! What a certificate says, for the checks that the chain verification of
//! `webpki` leaves out or cannot name in words.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{ASN1Time, FromDer, X509Certificate};

/// The parts of a certificate that are looked at one by one.
#[derive(Clone, Debug)]
pub struct Facts {
    pub subject: String,
    pub issuer: String,
    /// In hexadecimal, as the issuer wrote it.
    pub serial: String,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
    /// Subject and issuer are the same name.
    pub self_issued: bool,
    pub is_ca: bool,
    /// How many authorities may stand between this one and a leaf.
    pub path_len: Option<u32>,
    pub key_usage: Option<KeyUsage>,
    pub extended_key_usage: Option<ExtendedKeyUsage>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyUsage {
    pub digital_signature: bool,
    pub key_cert_sign: bool,
    pub crl_sign: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtendedKeyUsage {
    pub server_auth: bool,
    pub client_auth: bool,
}

impl Facts {
    /// `None`: not a well-formed certificate, or with malformed extensions.
    pub fn of(der: &CertificateDer<'_>) -> Option<Self> {
        let (rest, certificate) = X509Certificate::from_der(der).ok()?;
        if !rest.is_empty() {
            return None;
        }
        let constraints = certificate.basic_constraints().ok()?;
        let key_usage = certificate.key_usage().ok()?;
        let extended = certificate.extended_key_usage().ok()?;
        Some(Self {
            subject: certificate.subject().to_string(),
            issuer: certificate.issuer().to_string(),
            serial: hex(certificate.raw_serial()),
            not_before: system_time(certificate.validity().not_before),
            not_after: system_time(certificate.validity().not_after),
            self_issued: certificate.subject().as_raw() == certificate.issuer().as_raw(),
            is_ca: constraints.as_ref().is_some_and(|c| c.value.ca),
            path_len: constraints.and_then(|c| c.value.path_len_constraint),
            key_usage: key_usage.map(|usage| KeyUsage {
                digital_signature: usage.value.digital_signature(),
                key_cert_sign: usage.value.key_cert_sign(),
                crl_sign: usage.value.crl_sign(),
            }),
            extended_key_usage: extended.map(|usage| ExtendedKeyUsage {
                server_auth: usage.value.server_auth,
                client_auth: usage.value.client_auth,
            }),
        })
    }
}

/// A time before 1970 counts as 1970: long over either way.
pub(super) fn system_time(time: ASN1Time) -> SystemTime {
    let seconds = u64::try_from(time.timestamp()).unwrap_or(0);
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing to a String does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// `time` for a sentence: RFC 3339, UTC, whole seconds.
pub fn shown(time: SystemTime) -> String {
    match jiff::Timestamp::try_from(time) {
        Ok(time) => format!("{time:.0}"),
        Err(_) => "a time beyond the calendar".to_owned(),
    }
}
