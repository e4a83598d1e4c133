//! One daemon a node that carries the TCP connections of the enrolled
//! workloads in mutual TLS.
//!
//! The modules stand in the order in which one connection meets them; read
//! them from top to bottom to follow it from the kernel to its peer.

// Leaves: words that every other module uses.
pub mod access_log;
pub mod addr;
pub mod cgroup2;
pub mod clock;
pub mod heartbeat;
pub mod metrics;
pub mod reason;
pub mod refused;
pub mod spiffe;
pub mod trace;

// Facts: what the operator wrote and what the authorities issued.
pub mod config;
pub mod directory;
pub mod facts;
pub mod identity;
pub mod policy;

// Kernel: the hooks and what they hand over; the workloads' network namespaces.
pub mod kernel;
pub mod netns;
pub mod workload;

// The wire: what goes between two daemons.
pub mod tls;
pub mod tunnel;

// The walk: one connection, from the kernel to its peer.
pub mod listener;

pub mod credentials;
pub mod handshake;
pub mod health;
pub mod outbound;
pub mod pool;
pub mod tunnels;

pub mod dial;
pub mod inbound;

pub mod flow;
pub mod worker;

// Operations: what is seen from outside, and the whole.
pub mod admin;
pub mod app;
pub mod log;
pub mod node;
pub mod readiness;

#[cfg(test)]
mod generated;
