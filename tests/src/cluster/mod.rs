//! A real Kubernetes cluster on the nodes of a scene, whose programs
//! `cargo xtask setup cluster` builds. Everything of it ends when dropped.

use std::path::{Path, PathBuf};

mod ask;
mod cert_manager;
mod control_plane;
mod half_said;
pub mod images;
mod installed;
mod kube_proxy;
mod plan;
mod prometheus;
mod schemas;
mod stand_in;
mod worker;

pub use cert_manager::{Approver, CertManager};
pub use control_plane::{ControlPlane, Kubelets};
pub use half_said::HalfSaid;
pub use installed::Installed;
pub use kube_proxy::KubeProxy;
pub use plan::{namespace, plan, state, tls_secret};
pub use prometheus::Prometheus;
pub use stand_in::{HostPod, Kubepod, StandIn};
pub use worker::Worker;

/// What stories and the demo run in a cluster.
pub fn manifest(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("manifests")
        .join(name)
}
