//! Connections of the node's prober, which come in in clear.

use crate::addr::{Endpoint, Ip};

/// What is known of a connection of the node's prober.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    Open,
    /// A moment ago: its last packets may still come.
    Ended,
}

/// Key of `PROBES`: a connection of the node's prober, as its packets have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct ProbeKey {
    pub source: Ip,
    pub target: Ip,
    pub source_port: u16,
    pub target_port: u16,
}

impl ProbeKey {
    /// The last packets of a connection come after its prober has closed it;
    /// nanoseconds. Refused they would be reported as somebody's plain text.
    pub const LINGERS: u64 = 2_000_000_000;

    #[inline(always)]
    pub const fn new(source: Endpoint, target: Endpoint) -> Self {
        Self {
            source: source.ip,
            target: target.ip,
            source_port: source.port,
            target_port: target.port,
        }
    }
}
