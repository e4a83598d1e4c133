//! Policy: where an outbound connection goes and who may come in.
//!
//! Decisions are pure functions of the snapshot and the facts of one
//! connection, and each returns either a proof or a reason.

mod explain;
mod inbound;
mod matching;
mod modes;
mod outbound;
mod question;
mod rules;

pub use explain::{Explanation, STRICT, Step};
pub use inbound::{Judged, Permit, PlainRequest, Request, authorise, authorise_plain, connection};
pub use modes::Modes;
pub use outbound::{Clear, Route, route};
pub use question::{NoAnswer, Question};
pub use rules::{By, Connection, Decision, Rules, Verdict};

#[cfg(test)]
mod reference;
