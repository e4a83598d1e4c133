//! Identity: SVIDs and trust bundles as a stream of updates, whatever
//! authority issues them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::RootCertStore;
use rustls::sign::CertifiedKey;

use crate::spiffe::{SpiffeId, TrustDomain};

/// A workload's certificate chain and private key, verified to carry exactly
/// the SPIFFE ID that the workload is configured with.
pub struct Svid {
    pub id: SpiffeId,
    /// Chain, leaf first, and signer.
    pub key: Arc<CertifiedKey>,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
    /// Serial number of the leaf, in hexadecimal.
    pub serial: String,
}

/// The roots of one trust domain.
pub struct TrustBundle {
    pub trust_domain: TrustDomain,
    pub roots: Arc<RootCertStore>,
    /// Grows with each change of the roots.
    pub generation: u64,
}

/// All trust bundles that a workload verifies its peers against.
#[derive(Clone, Default)]
pub struct TrustBundles(pub BTreeMap<TrustDomain, Arc<TrustBundle>>);
