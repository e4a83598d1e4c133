//! New keys of workloads: made in memory, wiped when dropped.

use std::sync::Arc;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use rustls::crypto::aws_lc_rs::sign::any_ecdsa_type;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::SigningKey;

use super::source::SourceError;

/// ECDSA P-256.
pub(super) fn new_key() -> Result<Arc<dyn SigningKey>, SourceError> {
    let failed = || SourceError::Issue("no key could be generated".to_owned());
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).or(Err(failed()))?;
    // The one hand-over between the two libraries; wiped when dropped.
    let document = pair.to_pkcs8v1().or(Err(failed()))?;
    let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(document.as_ref()));
    any_ecdsa_type(&der).or(Err(failed()))
}
