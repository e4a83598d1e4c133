//! A workload's certificate, encoded: RFC 5280 in the distinguished encoding
//! of X.690.
//!
//! It always has the same shape, so that it is written out here rather than
//! with a general certificate maker. Those take the issuer's name apart and
//! put it together again, and verifiers compare names byte by byte: a name in
//! an unusual form (several values in one part, a rare string type) would
//! lead nowhere.

use std::time::SystemTime;

use rustls::pki_types::{AlgorithmIdentifier, CertificateDer};

use super::super::der::{
    BIT_STRING, GENERALIZED_TIME, INTEGER, OID, PARTS, PLAIN, UTC_TIME, critical, extension,
    sequence, subject_alt_name, value,
};
use crate::spiffe::SpiffeId;

/// What differs from one workload's certificate to the next.
pub(super) struct Leaf<'a> {
    pub(super) workload: &'a SpiffeId,
    /// SubjectPublicKeyInfo.
    pub(super) public_key: &'a [u8],
    pub(super) serial: [u8; 16],
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
    /// The authority's subject, as it stands in its certificate.
    pub(super) issuer: &'a [u8],
    /// The authority's subject key identifier.
    pub(super) issuer_key_id: Option<&'a [u8]>,
}

/// Object identifiers, encoded: id-ce (2.5.29) and id-kp (1.3.6.1.5.5.7.3).
const KEY_USAGE: &[u8] = &[0x55, 0x1d, 15];
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 19];
const AUTHORITY_KEY_ID: &[u8] = &[0x55, 0x1d, 35];
const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 37];
const SERVER_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 1];
const CLIENT_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 2];

impl Leaf<'_> {
    /// TBSCertificate: what the authority signs.
    pub(super) fn to_be_signed(&self, algorithm: AlgorithmIdentifier) -> Option<Vec<u8>> {
        let validity = [time(self.not_before)?, time(self.not_after)?].concat();
        Some(sequence(&[
            &value(PARTS, &[&value(INTEGER, &[&[2]])]),
            &value(INTEGER, &[&self.serial]),
            &sequence(&[&algorithm]),
            self.issuer,
            &sequence(&[&validity]),
            // No subject: the identity is in the alternative name alone.
            &sequence(&[]),
            self.public_key,
            &value(PARTS | 3, &[&sequence(&[&self.extensions()])]),
        ]))
    }

    fn extensions(&self) -> Vec<u8> {
        let usages = [value(OID, &[SERVER_AUTH]), value(OID, &[CLIENT_AUTH])].concat();
        let mut extensions = vec![
            subject_alt_name(self.workload),
            // digitalSignature, the first bit: seven of the byte are unused.
            critical(KEY_USAGE, &value(BIT_STRING, &[&[7, 0x80]])),
            // Not an authority, which is the default and not written.
            critical(BASIC_CONSTRAINTS, &sequence(&[])),
            extension(EXTENDED_KEY_USAGE, &[], &sequence(&[&usages])),
        ];
        if let Some(id) = self.issuer_key_id {
            let id = sequence(&[&value(PLAIN, &[id])]);
            extensions.push(extension(AUTHORITY_KEY_ID, &[], &id));
        }
        extensions.concat()
    }
}

/// The whole certificate.
pub(super) fn signed(
    to_be_signed: &[u8],
    algorithm: AlgorithmIdentifier,
    signature: &[u8],
) -> CertificateDer<'static> {
    let signature = value(BIT_STRING, &[&[0], signature]);
    sequence(&[to_be_signed, &sequence(&[&algorithm]), &signature]).into()
}

/// In two digits a year until 2049, then in four (4.1.2.5).
fn time(time: SystemTime) -> Option<Vec<u8>> {
    let time = jiff::Timestamp::try_from(time)
        .ok()?
        .to_zoned(jiff::tz::TimeZone::UTC);
    let (tag, format) = match time.year() {
        1950..2050 => (UTC_TIME, "%y%m%d%H%M%SZ"),
        _ => (GENERALIZED_TIME, "%Y%m%d%H%M%SZ"),
    };
    Some(value(tag, &[time.strftime(format).to_string().as_bytes()]))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn dates() {
        let at = |seconds| time(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).unwrap();
        assert_eq!(at(1_700_000_000), b"\x17\x0d231114221320Z");
        assert_eq!(at(2_524_607_999), b"\x17\x0d491231235959Z");
        assert_eq!(at(2_524_608_000), b"\x18\x0f20500101000000Z");
    }
}
