//! Policy: where an outbound connection goes and who may come in.
//!
//! Decisions are pure functions of the snapshot and the facts of one
//! connection, and each returns either a proof or a reason.

mod inbound;
mod outbound;

pub use inbound::{Permit, Request, authorise};
pub use outbound::{Route, route};
