//! The harness of the end-to-end stories, the demo and the benchmarks: nodes
//! made of network namespaces and cgroups, real daemons, real applications,
//! and a capture of the wire between the nodes that says what it saw.
//!
//! Nothing here is part of the daemon, and the daemon knows nothing of it.

// Leaves.
pub mod deadline;
pub mod error;
pub mod image;
pub mod programs;
pub mod script;

// What the kernel gives; everything is named after the run that owns it.
pub mod address_checks;
pub mod bpf;
pub mod cgroup;
pub mod mounts;
pub mod netns;
mod place;
pub mod process;
pub mod run;
pub mod talker;

// The stage: nodes, pods, and who plays in them.
pub mod leftovers;
pub mod node;
pub mod player;
pub mod pod;
pub mod scene;

// What was on the wire, and what somebody forged.
pub mod capture;
pub mod forge;

// The daemons, and real applications.
pub mod apps;
pub mod authorities;
pub mod cluster;
pub mod mesh;
pub mod pair;

#[cfg(test)]
mod threats;

pub use address_checks::AddressChecks;
pub use error::{Doing, Error, Result, ensure, ensure_eq};
pub use mesh::{Mesh, Plan};
pub use node::{Family, Node, two_nodes};
pub use pair::Pair;
pub use pod::Pod;
pub use scene::{Scene, play};
