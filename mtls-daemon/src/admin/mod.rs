//! What operators see of a running node, and ask of it.

mod text;
pub mod view;
