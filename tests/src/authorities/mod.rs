//! Real authorities, whose programs `cargo xtask setup authorities` builds.
//! Each ends when dropped.

mod openbao;
mod spire;

pub use openbao::{Api, HOST, OpenBao};
pub use spire::{Agent, Entry, Spire};
