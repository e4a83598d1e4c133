//! Entries that the maps hold at most.

pub const NETNS: usize = 16_384;
pub const EXEMPT: usize = 256;
pub const ADDRESSES: usize = 65_536;
/// The node's networks and one for each address of the directory outside of them.
pub const NETWORKS: usize = 262_144;
pub const PORTS: usize = 65_536;
pub const LISTENERS: usize = 65_536;
/// Connections between connect() and the daemon's accept().
pub const ORIGINAL_DST: usize = 65_536;
/// All, and each network namespace that can have listeners.
pub const PENDING: usize = 1 + LISTENERS / super::KINDS as usize;
/// One for each inbound flow.
pub const CLIENT_NAMES: usize = 262_144;
pub const ANSWERS: usize = 16_384;
/// Connections of the prober, open or just ended.
pub const PROBES: usize = 16_384;
/// Two of each network namespace that can be known.
pub const VETHS: usize = 2 * NETNS;
pub const REPORTED: usize = 4_096;
/// Bytes.
pub const EVENTS: usize = 128 * 1024;
pub const HELD: usize = 256 * 1024;

/// No map has more.
pub const LARGEST: usize = CLIENT_NAMES;
