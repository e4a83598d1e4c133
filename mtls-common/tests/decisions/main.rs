//! The hooks' decisions, on the host.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test's way to fail, in its helpers, too"
)]

mod addr;
mod around;
mod capture;
mod gate;
mod maps;
mod names;
mod steer;
mod syn;
mod veth;
