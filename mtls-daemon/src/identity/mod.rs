//! Identity: SVIDs and trust bundles as a stream of updates, whatever
//! authority issues them.
//!
//! A [`Source`] is an authority as the configuration names it; it gives each
//! workload a stream of [`Update`]s. The [`IdentityStore`] listens to them,
//! checks every certificate as a peer would, and publishes each workload's
//! [`WorkloadIdentity`]. [`verify_peer`] is the one judgement of a chain, for
//! our own certificates and for those of peers.

// What a certificate must be.
mod bundle;
pub mod certificate;
mod der;
mod key;
mod revocation;
mod svid;
mod verify;

// Where certificates come from.
pub mod cert_manager;
mod csr;
pub mod disk_ca;
pub mod files;
pub mod pem;
pub mod secrets;
mod server;
mod signing;
mod source;
pub mod spire;
pub mod vault;
mod watched;

// How they are kept fresh.
pub mod crls;
mod federation;
mod keeper;
mod pace;
mod published;
mod store;

pub use bundle::{BundleError, Root, TrustBundle, TrustBundles};
pub use crls::NewestRevocations;
pub use federation::Federation;
pub use pace::{Pace, Timings};
pub use revocation::{ListError, ListFacts, Lists, Revocation, Revocations};
pub use source::{Next, Source, SourceError, Standing, Update, Updates};
pub use store::{IdentityStore, NoSource, Renewals, WorkloadIdentity};
pub use svid::{Issued, Svid, SvidFault, SvidFaults, openssl_line};
pub use verify::{PeerFault, PeerSvid, Presenter, Terms, verify_peer};
pub use watched::Loaded;
