//! Names of the maps, which are also the names of their pins.

pub const NODE: &str = "NODE";
pub const NETNS: &str = "NETNS";
pub const EXEMPT: &str = "EXEMPT";
pub const ADDRESSES: &str = "ADDRESSES";
pub const NETWORKS: &str = "NETWORKS";
pub const PORTS: &str = "PORTS";
pub const LISTENERS: &str = "LISTENERS";
pub const SOCKETS: &str = "SOCKETS";
pub const ORIGINAL_DST: &str = "ORIGINAL_DST";
pub const PENDING: &str = "PENDING";
pub const CLIENT_NAMES: &str = "CLIENT_NAMES";
pub const ANSWERS: &str = "ANSWERS";
pub const PROBES: &str = "PROBES";
pub const VETHS: &str = "VETHS";
pub const REPORTED: &str = "REPORTED";
pub const COUNTERS: &str = "COUNTERS";
pub const EVENTS: &str = "EVENTS";
pub const HELD: &str = "HELD";

/// The maps that outlive a daemon.
pub const PINNED: &[&str] = &[
    NODE,
    NETNS,
    EXEMPT,
    ADDRESSES,
    NETWORKS,
    PORTS,
    LISTENERS,
    SOCKETS,
    ORIGINAL_DST,
    PENDING,
    CLIENT_NAMES,
    ANSWERS,
    PROBES,
    VETHS,
    REPORTED,
    COUNTERS,
    EVENTS,
    HELD,
];
/// Those that the sk_lookup programs share with the other hooks.
pub const SHARED: &[&str] = &[
    ADDRESSES,
    NETWORKS,
    PORTS,
    LISTENERS,
    ORIGINAL_DST,
    PROBES,
    REPORTED,
    COUNTERS,
    EVENTS,
];
/// The sk_lookup program's own.
pub const INSTANCE: &str = "INSTANCE";
