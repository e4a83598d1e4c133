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

const BOOLEAN: u8 = 0x01;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const OID: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
/// Context tags: a plain value, and a value of several parts.
const PLAIN: u8 = 0x80;
const PARTS: u8 = 0xa0;

/// Object identifiers, encoded: id-ce (2.5.29) and id-kp (1.3.6.1.5.5.7.3).
const KEY_USAGE: &[u8] = &[0x55, 0x1d, 15];
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 17];
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
        let name = value(PLAIN | 6, &[self.workload.as_str().as_bytes()]);
        let usages = [value(OID, &[SERVER_AUTH]), value(OID, &[CLIENT_AUTH])].concat();
        let mut extensions = vec![
            // Critical, since there is no subject beside it (4.2.1.6).
            critical(SUBJECT_ALT_NAME, &sequence(&[&name])),
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

fn critical(oid: &[u8], content: &[u8]) -> Vec<u8> {
    extension(oid, &value(BOOLEAN, &[&[0xff]]), content)
}

fn extension(oid: &[u8], critical: &[u8], content: &[u8]) -> Vec<u8> {
    sequence(&[
        &value(OID, &[oid]),
        critical,
        &value(OCTET_STRING, &[content]),
    ])
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

fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    value(SEQUENCE, parts)
}

/// Tag, length and content.
fn value(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut der = Vec::with_capacity(length + 10);
    der.push(tag);
    let bytes = length.to_be_bytes();
    let significant = &bytes[bytes.iter().position(|b| *b != 0).unwrap_or(bytes.len())..];
    match significant {
        [] => der.push(0),
        [short @ ..0x80] => der.push(*short),
        long => {
            // At most eight bytes of length.
            der.push(0x80 | long.len().to_le_bytes()[0]);
            der.extend_from_slice(long);
        }
    }
    for part in parts {
        der.extend_from_slice(part);
    }
    der
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn lengths() {
        assert_eq!(value(SEQUENCE, &[]), [0x30, 0]);
        assert_eq!(value(SEQUENCE, &[&[7; 127]])[..2], [0x30, 127]);
        assert_eq!(value(SEQUENCE, &[&[7; 128]])[..3], [0x30, 0x81, 128]);
        assert_eq!(
            value(SEQUENCE, &[&[7; 200], &[7; 100]])[..4],
            [0x30, 0x82, 1, 44]
        );
    }

    #[test]
    fn dates() {
        let at = |seconds| time(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).unwrap();
        assert_eq!(at(1_700_000_000), b"\x17\x0d231114221320Z");
        assert_eq!(at(2_524_607_999), b"\x17\x0d491231235959Z");
        assert_eq!(at(2_524_608_000), b"\x18\x0f20500101000000Z");
    }
}
