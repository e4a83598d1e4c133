//! Daemons beside a cluster, each started by the harness, with what the chart
//! gives its service account.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::error::{Doing, Result};
use crate::mesh::Plan;
use crate::node::Node;

use super::ControlPlane;

/// Of daemons that find out from the API server who is on their nodes.
pub fn plan(plane: &ControlPlane, nodes: &[&Node]) -> Result<Plan> {
    namespace(plane, "mtls-daemon", &json!({}))?;
    plane.apply_chart("templates/rbac.yaml", &[])?;
    let token = plane.kubectl(&["create", "token", "-n", "mtls-daemon", "mtls-daemon"])?;
    let login = plane.kubeconfig("daemon.kubeconfig", token.trim())?;
    let mut plan = Plan::on(nodes.iter().copied())
        // The networks are the nodes' and the Services'.
        .set("network", "mesh", "[]")
        .set(
            "kubernetes",
            "kubeconfig",
            &format!("{:?}", login.display().to_string()),
        );
    for node in nodes {
        let name = format!("{:?}", node.name());
        let state = format!("{:?}", state(node).display().to_string());
        plan = plan.set_on(node, "kubernetes", "node_name", &name);
        plan = plan.set_on(node, "kubernetes", "state", &state);
    }
    Ok(plan)
}

/// Where a node's daemon keeps what it knows of the cluster.
pub fn state(node: &Node) -> PathBuf {
    node.scene()
        .dir()
        .join(format!("state-{}/cluster", node.name()))
}

/// A Secret of type kubernetes.io/tls, of two PEM files.
pub fn tls_secret(
    plane: &ControlPlane,
    [namespace, name]: [&str; 2],
    certificate: &Path,
    key: &Path,
) -> Result {
    let read =
        |path: &Path| fs::read_to_string(path).doing(|| format!("reading {}", path.display()));
    plane.apply(&json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": {"name": name, "namespace": namespace},
        "stringData": {"tls.crt": read(certificate)?, "tls.key": read(key)?},
    }))
}

pub fn namespace(plane: &ControlPlane, name: &str, labels: &Value) -> Result {
    plane.apply(&json!({
        "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels},
    }))
}
