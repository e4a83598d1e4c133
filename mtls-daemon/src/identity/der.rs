//! The distinguished encoding of X.690, as far as certificates and requests
//! for them go that always have the same shape.

use crate::spiffe::SpiffeId;

const BOOLEAN: u8 = 0x01;
pub(super) const INTEGER: u8 = 0x02;
pub(super) const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
pub(super) const OID: u8 = 0x06;
pub(super) const UTC_TIME: u8 = 0x17;
pub(super) const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
pub(super) const SET: u8 = 0x31;
/// Context tags: a plain value, and a value of several parts.
pub(super) const PLAIN: u8 = 0x80;
pub(super) const PARTS: u8 = 0xa0;

/// id-ce-subjectAltName.
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 17];

/// The extension with a workload's identity. Critical, since there is no
/// subject beside it (RFC 5280 4.2.1.6).
pub(super) fn subject_alt_name(workload: &SpiffeId) -> Vec<u8> {
    let name = value(PLAIN | 6, &[workload.as_str().as_bytes()]);
    critical(SUBJECT_ALT_NAME, &sequence(&[&name]))
}

pub(super) fn critical(oid: &[u8], content: &[u8]) -> Vec<u8> {
    extension(oid, &value(BOOLEAN, &[&[0xff]]), content)
}

pub(super) fn extension(oid: &[u8], critical: &[u8], content: &[u8]) -> Vec<u8> {
    sequence(&[
        &value(OID, &[oid]),
        critical,
        &value(OCTET_STRING, &[content]),
    ])
}

pub(super) fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    value(SEQUENCE, parts)
}

/// Tag, length and content.
pub(super) fn value(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
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
}
