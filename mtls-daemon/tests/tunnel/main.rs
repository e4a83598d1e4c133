//! The tunnel against itself, against other HTTP/2 endpoints, and against
//! hostile ones. Everything runs over real sockets on loopback.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a story that fails has to stop where it failed"
)]

mod envoy;
mod fair;
mod h2_peer;
mod hostile;
mod hostile_servers;
mod pair;
mod pair_endings;
mod raw;
mod support;
