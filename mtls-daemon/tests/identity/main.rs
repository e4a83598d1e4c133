//! Where certificates come from, what is checked of them, and how they are
//! kept fresh: with real files, in virtual time.
#![allow(
    clippy::large_futures,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test may be large, and fails by panicking"
)]

#[path = "../support/folder.rs"]
mod folder;
#[path = "../support/pki.rs"]
mod pki;

mod bundles;
mod disk_ca;
mod files;
mod node;
mod openssl;
mod published;
mod renewal;
mod revocation;
mod store;
mod svid;
