//! A request for a workload's certificate: PKCS#10 (RFC 2986), with an empty
//! subject and the one name.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::SignatureScheme;
use rustls::pki_types::alg_id;
use rustls::sign::SigningKey;

use crate::identity::der::{
    BIT_STRING, INTEGER, OID, PARTS, SET, sequence, subject_alt_name, value,
};
use crate::spiffe::SpiffeId;

/// pkcs-9-at-extensionRequest, 1.2.840.113549.1.9.14.
const EXTENSION_REQUEST: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 14];

/// In PEM. `None`: the key is no ECDSA P-256 key.
pub(super) fn request(workload: &SpiffeId, key: &dyn SigningKey) -> Option<String> {
    let extensions = sequence(&[&subject_alt_name(workload)]);
    let attribute = sequence(&[
        &value(OID, &[EXTENSION_REQUEST]),
        &value(SET, &[&extensions]),
    ]);
    let to_be_signed = sequence(&[
        &value(INTEGER, &[&[0]]),
        // No subject: the identity is in the alternative name alone.
        &sequence(&[]),
        &key.public_key()?,
        &value(PARTS, &[&attribute]),
    ]);
    let signer = key.choose_scheme(&[SignatureScheme::ECDSA_NISTP256_SHA256])?;
    let signature = signer.sign(&to_be_signed).ok()?;
    Some(pem(&sequence(&[
        &to_be_signed,
        &sequence(&[&alg_id::ECDSA_SHA256]),
        &value(BIT_STRING, &[&[0], &signature]),
    ])))
}

/// Lines of 64 characters (RFC 7468).
fn pem(der: &[u8]) -> String {
    let mut text = String::from("-----BEGIN CERTIFICATE REQUEST-----\n");
    for line in der.chunks(48) {
        text.push_str(&STANDARD.encode(line));
        text.push('\n');
    }
    text.push_str("-----END CERTIFICATE REQUEST-----\n");
    text
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateSigningRequestParams, SanType};
    use x509_parser::pem::parse_x509_pem;
    use x509_parser::prelude::{FromDer, X509CertificationRequest};

    use super::*;
    use crate::identity::key::new_key;

    #[test]
    fn others_read_it() {
        let id: SpiffeId = "spiffe://example.org/ns/shop/sa/web".parse().unwrap();
        let key = new_key().unwrap();
        let pem = request(&id, &*key).unwrap();
        assert!(pem.lines().all(|line| line.len() <= 64));
        // Checks its signature, too.
        let read = CertificateSigningRequestParams::from_pem(&pem).unwrap();
        let names = &read.params.subject_alt_names;
        assert!(
            matches!(names.as_slice(), [SanType::URI(uri)] if uri.as_str() == id.as_str()),
            "{names:?}"
        );
        let (_, block) = parse_x509_pem(pem.as_bytes()).unwrap();
        let (rest, request) = X509CertificationRequest::from_der(&block.contents).unwrap();
        assert!(rest.is_empty());
        let info = request.certification_request_info;
        assert_eq!(info.subject.iter().count(), 0);
        assert_eq!(
            info.subject_pki.raw,
            key.public_key().unwrap().as_ref(),
            "another key"
        );
    }
}
