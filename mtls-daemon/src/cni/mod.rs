//! The network plug-in that holds a pod back until it is enrolled.
//!
//! The container runtime runs the plug-ins of a pod's network before anything
//! of the pod itself. Ours comes last ([`plugin`]); it hands the daemon the
//! pod's network namespace ([`wire`]) and returns once the daemon has hooks,
//! listeners and a certificate for it ([`door`]). The daemon puts it in its
//! place on the node ([`install`]), among what others have there ([`conflist`]),
//! and keeps it there ([`keeper`]).

pub mod conflist;
pub mod door;
pub mod install;
pub mod keeper;
pub mod plugin;
mod spec;
#[cfg(test)]
mod tests;
mod wire;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::netns::Netns;

pub use spec::Entry;

/// What runtimes call the plug-in: its `type`, and the name of its file.
pub const TYPE: &str = "mtls-daemon";

/// So long the plug-in looks for a daemon that is not there.
const REACH: Duration = Duration::from_secs(10);
/// So long the daemon may take to enrol a pod. Kubelets wait for two minutes.
const ENROL: Duration = Duration::from_secs(30);
/// What the daemon needs for an answer beside that.
const ANSWER: Duration = Duration::from_secs(5);

/// A pod, as its kubelet calls it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

/// What a runtime has made for a pod that does not run yet.
#[derive(Clone, Debug)]
pub struct Sandbox {
    /// As its runtime calls it.
    pub container: String,
    pub netns: Netns,
}
