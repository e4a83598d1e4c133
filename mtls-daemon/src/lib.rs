//! One daemon a node that carries the TCP connections of the enrolled
//! workloads in mutual TLS.
//!
//! The modules stand from the ground up; read them so to learn the words, or
//! follow one connection: [`listener`] accepts what the kernel captured,
//! [`outbound`] finds its destination and takes a tunnel from the [`pool`],
//! [`tunnel`] moves its bytes; at the peer, [`inbound`] authorises it and
//! [`dial`] delivers it.

// Leaves: words that every other module uses.
pub mod access_log;
pub mod addr;
pub mod cgroup2;
pub mod clock;
pub mod heartbeat;
pub mod memory;
pub mod metrics;
pub mod netns;
pub mod reason;
pub mod refused;
pub mod rights;
pub mod sock_diag;
pub mod spiffe;
pub mod trace;
pub mod turns;

// Facts: what the operator wrote and what the authorities issued.
pub mod api_server;
pub mod config;
pub mod directory;
pub mod facts;
pub mod identity;
pub mod kubernetes;
pub mod locate;
pub mod policy;
pub mod workload;

// Kernel: the hooks, and what they hand over.
pub mod kernel;

// The wire: what goes between two daemons.
pub mod tls;
pub mod tunnel;

// Carriage: what both directions of the walk share.
pub mod credentials;
pub mod direct;
pub mod flow;
pub mod handshake;
pub mod tunnels;

// The walk: one connection, from the kernel to its peer.
pub mod health;
pub mod listener;
pub mod pool;

pub mod answers;
pub mod outbound;

pub mod dial;
pub mod inbound;

pub mod worker;

// Operations: what is seen from outside, and the whole.
pub mod admin;
pub mod cli;
pub mod cni;
pub mod log;

pub mod node;

pub mod app;
#[cfg(test)]
mod generated;
