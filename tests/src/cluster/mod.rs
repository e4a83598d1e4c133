//! A real Kubernetes cluster on the nodes of a scene, whose programs
//! `cargo xtask setup cluster` builds. Everything of it ends when dropped.

mod control_plane;
mod stand_in;

pub use control_plane::ControlPlane;
pub use stand_in::{Kubepod, StandIn};
