//! The contract between the kernel programs and the daemon: what the maps
//! hold, what is counted, and the decisions of the hooks as pure functions,
//! so that they are tested on the host and the hooks only read and act.
#![cfg_attr(not(test), no_std)]

pub mod addr;
pub mod capture;
pub mod counters;
pub mod gate;
pub mod handoff;
pub mod maps;
pub mod names;
#[cfg(feature = "user")]
mod plain;
pub mod probe;
pub mod reports;
pub mod steer;
pub mod syn;
pub mod veth;
