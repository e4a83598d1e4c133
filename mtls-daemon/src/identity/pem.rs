//! PEM files, as people and programs write them.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::SigningKey;
use thiserror::Error;
use zeroize::Zeroize;

/// What is wrong with the text of a PEM file.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PemError {
    #[error("it is damaged: {0}")]
    Damaged(String),
    #[error("it holds no certificate (-----BEGIN CERTIFICATE-----)")]
    NoCertificate,
    #[error("it holds more than {MAX_CERTIFICATES} certificates")]
    TooManyCertificates,
    #[error("it holds no private key (-----BEGIN PRIVATE KEY-----)")]
    NoKey,
    #[error("it holds several private keys, where one is needed")]
    SeveralKeys,
    #[error(
        "its private key is encrypted, which needs a passphrase that nobody is there to type; decrypt it with: openssl pkey -in FILE -out tls.key"
    )]
    EncryptedKey,
    #[error(
        "its private key is of a kind that is not supported: RSA from 2048 bits, ECDSA P-256, P-384 and P-521, and Ed25519 are"
    )]
    UnsupportedKey,
}

/// A trust bundle of a large federation has a few dozen.
const MAX_CERTIFICATES: usize = 256;

/// All certificates of a PEM text, at least one, in their order.
pub fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let mut certificates = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(text) {
        if certificates.len() == MAX_CERTIFICATES {
            return Err(PemError::TooManyCertificates);
        }
        certificates.push(certificate.map_err(|e| PemError::Damaged(e.to_string()))?);
    }
    if certificates.is_empty() {
        return Err(PemError::NoCertificate);
    }
    Ok(certificates)
}

/// The one private key of a PEM text: PKCS#8, PKCS#1 or SEC1. What was
/// decoded of it is wiped; the key itself lives on inside the cryptographic
/// library, which wipes it when it is dropped.
pub fn private_key(text: &[u8]) -> Result<Arc<dyn SigningKey>, PemError> {
    let mut keys = Vec::new();
    let mut damage = None;
    for key in PrivateKeyDer::pem_slice_iter(text) {
        match key {
            Ok(key) => keys.push(key),
            // The error's text may quote the line at fault: a line of a key.
            Err(_) => damage = Some(PemError::Damaged("its private key does not decode".into())),
        }
    }
    let loaded = match (keys.as_slice(), damage) {
        (_, Some(damage)) => Err(damage),
        ([], None) => Err(PemError::NoKey),
        ([key], None) => any_supported_type(key).or(Err(PemError::UnsupportedKey)),
        (_, None) => Err(PemError::SeveralKeys),
    };
    keys.iter_mut().for_each(Zeroize::zeroize);
    match loaded {
        // PKCS#1 and SEC1 keep their label when they are encrypted.
        Err(_) if is_encrypted(text) => Err(PemError::EncryptedKey),
        loaded => loaded,
    }
}

fn is_encrypted(text: &[u8]) -> bool {
    let holds = |word: &[u8]| text.windows(word.len()).any(|window| window == word);
    holds(b"-----BEGIN ENCRYPTED PRIVATE KEY-----") || holds(b"Proc-Type: 4,ENCRYPTED")
}
