//! A kubelet's part, played by hand: a pod of the scene is made what the API
//! server says of it, its cgroup lies where a kubelet's would, and the API
//! server is told of its addresses.

use serde_json::{Value, json};

use crate::cgroup::Cgroup;
use crate::error::{Doing, Error, Result};
use crate::node::{Family, Node};
use crate::pod::Pod;
use crate::process::{Process, Spawn};

use super::ControlPlane;

/// A pod in its node's network: an object, and what runs in it is the node's.
pub struct HostPod {
    namespace: String,
    name: String,
}

/// Stands in for the kubelet of a node.
pub struct StandIn {
    node: Node,
    /// Of the class of pods that ask for no resources.
    pods: Cgroup,
    _root: Cgroup,
}

/// A pod of the API server's, with its place on the node.
pub struct Kubepod {
    pub pod: Pod,
    pub namespace: String,
    pub name: String,
    pub uid: String,
    // In the order in which they end.
    _sandbox: Process,
    _cgroups: [Cgroup; 2],
}

impl StandIn {
    /// Registers the node, with the networks of its pods.
    pub fn register(node: &Node, plane: &ControlPlane) -> Result<Self> {
        let [v4, v6] = node.pod_networks();
        plane.apply(&json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": node.name()},
            "spec": {"podCIDR": v4, "podCIDRs": [v4, v6]},
        }))?;
        let root = node.cgroup().child("kubepods")?;
        Ok(Self {
            node: node.clone(),
            pods: root.child("besteffort")?,
            _root: root,
        })
    }

    /// A pod with `hostNetwork`.
    pub fn host_network_pod(&self, plane: &ControlPlane, manifest: &Value) -> Result<HostPod> {
        let mut manifest = manifest.clone();
        manifest["spec"]["hostNetwork"] = true.into();
        let (namespace, name) = self.bind(plane, manifest)?;
        Ok(HostPod { namespace, name })
    }

    /// Makes the pod, bound to the node; its namespace and name.
    fn bind(&self, plane: &ControlPlane, mut manifest: Value) -> Result<(String, String)> {
        manifest["apiVersion"] = "v1".into();
        manifest["kind"] = "Pod".into();
        manifest["spec"]["nodeName"] = self.node.name().into();
        let containers = &mut manifest["spec"]["containers"];
        if containers.is_null() {
            *containers = json!([{"name": "app", "image": "app"}]);
        }
        plane.apply(&manifest)?;
        let metadata = &manifest["metadata"];
        Ok((text(&metadata["namespace"]), text(&metadata["name"])))
    }

    /// A pod as somebody made it, bound to the node: nothing of it runs yet.
    pub fn pod(&self, plane: &ControlPlane, manifest: &Value) -> Result<Kubepod> {
        let (namespace, name) = self.bind(plane, manifest.clone())?;
        let made = plane.get(&["pod", "-n", &namespace, &name])?;
        let uid = text(&made["metadata"]["uid"]);
        if uid.is_empty() {
            return Err(Error::Unexpected(format!("a pod without UID: {made}")));
        }
        let cgroup = self.pods.child(&format!("pod{uid}"))?;
        // The sandbox is the first of its containers, and is in the pod's
        // namespace before a daemon can find it.
        let sandbox = cgroup.child("sandbox")?;
        let pod = self
            .node
            .pod_below(&format!("{namespace}-{name}"), &cgroup)?;
        let process = Spawn::new("sleep", &self.node.scene().logs())?
            .arg("infinity")
            .netns(pod.netns())
            .start()?;
        let procs = sandbox.path().join("cgroup.procs");
        std::fs::write(&procs, process.pid().to_string())
            .doing(|| format!("writing {}", procs.display()))?;
        Ok(Kubepod {
            pod,
            namespace,
            name,
            uid,
            _sandbox: process,
            _cgroups: [sandbox, cgroup],
        })
    }
}

impl Kubepod {
    /// Tells the API server that it runs, where, and whether it is ready.
    pub fn report(&self, plane: &ControlPlane, ready: bool) -> Result {
        let [v4, v6] = self.addresses();
        let ready = if ready { "True" } else { "False" };
        self.patch_status(
            plane,
            &json!({
                "phase": "Running", "podIP": v4, "podIPs": [{"ip": v4}, {"ip": v6}],
                "conditions": [{"type": "Ready", "status": ready}],
            }),
        )
    }

    pub fn patch_status(&self, plane: &ControlPlane, status: &Value) -> Result {
        patch_status(plane, &self.namespace, &self.name, status)
    }

    /// Takes it out of the API server, whatever still runs of it.
    pub fn force_delete(&self, plane: &ControlPlane) -> Result {
        let words = [
            "delete",
            "pod",
            "-n",
            &self.namespace,
            &self.name,
            "--force",
            "--grace-period=0",
        ];
        plane.kubectl(&words).map(drop)
    }

    fn addresses(&self) -> [String; 2] {
        Family::BOTH.map(|family| self.pod.address(family).to_string())
    }
}

impl HostPod {
    /// Tells the API server that it runs and is ready, at its node's address.
    pub fn report(&self, plane: &ControlPlane, node: &Node) -> Result {
        let ip = node.wire_address(Family::V4);
        let status = json!({
            "phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "hostIP": ip,
            "conditions": [{"type": "Ready", "status": "True"}],
        });
        patch_status(plane, &self.namespace, &self.name, &status)
    }
}

fn patch_status(plane: &ControlPlane, namespace: &str, name: &str, status: &Value) -> Result {
    let patch = json!({ "status": status }).to_string();
    let words = [
        "patch",
        "pod",
        "-n",
        namespace,
        name,
        "--subresource=status",
        "--type=merge",
        "-p",
        &patch,
    ];
    plane.kubectl(&words).map(drop)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
