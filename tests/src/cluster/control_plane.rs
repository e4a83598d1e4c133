//! etcd, API server and controllers, all in one node's network namespace.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::KeyPair;
use serde_json::{Value, json};

use crate::cgroup::Cgroup;
use crate::deadline::{Deadline, wait_for};
use crate::error::{Doing, Error, Result};
use crate::node::{Family, Node};
use crate::process::{Output, Process, Spawn};
use crate::programs;

use super::installed;

/// The control plane of a cluster.
pub struct ControlPlane {
    node: Node,
    folder: PathBuf,
    /// Where the other node reaches the API server.
    server: String,
    // In the order in which they end.
    _scheduler: Option<Process>,
    _controllers: Process,
    api_server: Option<Process>,
    _etcd: Process,
    cgroup: Cgroup,
}

/// Names the administrator in the API server's file of tokens.
const ADMIN: &str = "administrator";

/// An API server takes 4 s of processor time to start, and is not alone.
const START: Duration = Duration::from_secs(120);

/// So long a node, a pod or a Job may take on a busy machine.
const COMES_TRUE: Duration = Duration::from_secs(90);
/// For all of a kind, one after the other.
const ROLLED: Duration = Duration::from_secs(120);

/// Who runs the cluster's pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kubelets {
    /// Kubelets: everything of a control plane runs.
    Real,
    /// The story itself, as a [`super::StandIn`].
    Played,
}

/// Those that do something for objects which a test itself makes. The
/// controllers of nodes would take ours for dead: no kubelet speaks for them.
const CONTROLLERS: &str = "endpointslice-controller,namespace-controller,\
     root-ca-certificate-publisher-controller,serviceaccount-controller";

impl ControlPlane {
    /// Starts it, and waits until it serves.
    pub fn start(node: &Node, kubelets: Kubelets) -> Result<Self> {
        // Nodes with file systems of their own see it, too.
        let folder = node.scene().data("cluster")?;
        let cgroup = node.scene().cgroup().child("control-plane")?;
        // The node's own address on the wire.
        let address = node.wire_address(Family::V4);
        let server = format!("https://{address}:6443");
        let key = KeyPair::generate().map_err(|error| Error::Unexpected(error.to_string()))?;
        let accounts = folder.join("accounts.pem");
        write(&accounts, &key.serialize_pem())?;
        write(&folder.join("accounts-public.pem"), &key.public_key_pem())?;
        write(
            &folder.join("tokens.csv"),
            &format!(
                "{ADMIN},{ADMIN},1,system:masters\n\
                 node-a,system:node:a,2,system:nodes\n\
                 node-b,system:node:b,3,system:nodes\n"
            ),
        )?;
        let data = node.scene().data("etcd")?;
        let etcd = node
            .spawn(programs::etcd()?)?
            .cgroup(&cgroup)
            .arg("--data-dir")
            .arg(data)
            .args(["--unsafe-no-fsync", "--log-level=warn"])
            .args(["--listen-client-urls=http://127.0.0.1:2379"])
            .args(["--advertise-client-urls=http://127.0.0.1:2379"])
            .args(["--listen-peer-urls=http://127.0.0.1:2380"])
            .start()?;
        let mut api_server = start_api_server(node, &cgroup, &folder)?;
        write(
            &folder.join("kubeconfig"),
            &kubeconfig(&server, &folder, ADMIN).to_string(),
        )?;
        wait_until_ready(node, &folder, &mut api_server)?;
        let chosen = match kubelets {
            Kubelets::Real => "*",
            Kubelets::Played => CONTROLLERS,
        };
        let controllers = node
            .spawn(programs::kubernetes("kube-controller-manager")?)?
            .cgroup(&cgroup)
            .arg(flag("--kubeconfig", &folder.join("kubeconfig")))
            .arg(flag("--service-account-private-key-file", &accounts))
            .arg(flag("--root-ca-file", &folder.join("certs/apiserver.crt")))
            .arg(format!("--controllers={chosen}"))
            .args(["--leader-elect=false", "--secure-port=0"])
            .start()?;
        let scheduler = match kubelets {
            Kubelets::Real => Some(start_scheduler(node, &cgroup, &folder)?),
            Kubelets::Played => None,
        };
        Ok(Self {
            node: node.clone(),
            server,
            _scheduler: scheduler,
            _controllers: controllers,
            api_server: Some(api_server),
            _etcd: etcd,
            cgroup,
            folder,
        })
    }

    /// The kubeconfig file of whoever may do everything.
    pub fn admin(&self) -> PathBuf {
        self.folder.join("kubeconfig")
    }

    /// Where its API server is, as a URL.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// A kubeconfig file for whoever has the token.
    pub fn kubeconfig(&self, name: &str, token: &str) -> Result<PathBuf> {
        let path = self.folder.join(name);
        let config = kubeconfig(&self.server, &self.folder, token);
        write(&path, &config.to_string())?;
        Ok(path)
    }

    /// What a node's kubelet logs in with.
    pub(super) fn kubeconfig_of_node(&self, name: &str) -> Value {
        kubeconfig(&self.server, &self.folder, &format!("node-{name}"))
    }

    /// The node that it runs on.
    pub(super) fn node(&self) -> &Node {
        &self.node
    }

    pub(super) fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// kubectl, as the administrator.
    pub fn kubectl(&self, words: &[&str]) -> Result<String> {
        kubectl(&self.node, &self.folder, words)?.success()
    }

    /// The same, with its two streams apart.
    pub(super) fn kubectl_apart(&self, words: &[&str]) -> Result<Output> {
        kubectl(&self.node, &self.folder, words)
    }

    /// Waits until all pods of what makes them, KIND/NAME, are its newest.
    pub fn wait_until_rolled_out(&self, namespace: &str, what: &str) -> Result {
        let within = format!("--timeout={}s", ROLLED.as_secs());
        let words = ["rollout", "status", "-n", namespace, what, &within];
        let spawn = kubectl_with(&self.node, &self.folder, &words)?;
        let patience = ROLLED + Duration::from_secs(5);
        spawn.patience(patience).output()?.success().map(drop)
    }

    /// kubectl with something to do until it is told to stop.
    pub fn start_kubectl(&self, words: &[&str]) -> Result<Process> {
        kubectl_with(&self.node, &self.folder, words)?.start()
    }

    /// Waits until something in a namespace, KIND/NAME, meets a condition; else
    /// says what its pods say.
    pub fn wait(&self, namespace: &str, what: &str, condition: &str) -> Result {
        let condition = format!("--for=condition={condition}");
        let within = format!("--timeout={}s", COMES_TRUE.as_secs());
        let words = ["wait", "-n", namespace, what, &condition, &within];
        let waited = kubectl_with(&self.node, &self.folder, &words)?
            .patience(START)
            .output()?;
        waited.success().map(drop).map_err(|error| {
            let pods = self.kubectl(&["describe", "pods", "-n", namespace]);
            Error::Unexpected(format!("{error}\n{}", pods.unwrap_or_default()))
        })
    }

    /// Waits until the kind of a CustomResourceDefinition is served. `kubectl
    /// wait` fails while that has no conditions at all.
    pub fn wait_until_served(&self, definition: &str) -> Result {
        wait_for(
            Deadline::default(),
            || format!("{definition} to be served"),
            || {
                let definition = self.get(&["crd", definition])?;
                let conditions = definition["status"]["conditions"].as_array();
                let served = conditions
                    .into_iter()
                    .flatten()
                    .any(|one| one["type"] == "Established" && one["status"] == "True");
                Ok(served.then_some(()))
            },
        )
    }

    /// Makes an object what the manifest says.
    pub fn apply(&self, manifest: &Value) -> Result {
        let path = self.folder.join("manifest.json");
        write(&path, &manifest.to_string())?;
        self.apply_file(&path)
    }

    pub fn apply_file(&self, path: &Path) -> Result {
        let path = path.to_string_lossy();
        self.kubectl(&["apply", "--validate=strict", "-f", &path])
            .map(drop)
    }

    /// Makes of the chart's templates one, as `helm template` fills it in with
    /// values, KEY=VALUE.
    pub fn apply_chart(&self, template: &str, values: &[&str]) -> Result {
        let filled = installed::filled(&self.node, template, values)?;
        let path = self.folder.join("template.yaml");
        write(&path, &filled)?;
        self.apply_file(&path)
    }

    pub fn get(&self, words: &[&str]) -> Result<Value> {
        let said = self.kubectl(&[&["get", "-o", "json"], words].concat())?;
        serde_json::from_str(&said).map_err(|error| Error::Unreadable {
            what: format!("the answer to get {words:?}: {said}"),
            why: error.to_string(),
        })
    }

    /// kill -9: nobody answers any more.
    pub fn stop_api_server(&mut self) -> Result {
        match self.api_server.take() {
            Some(mut process) => process.kill(),
            None => Ok(()),
        }
    }

    /// The running API server.
    pub fn api_server(&self) -> Result<&Process> {
        let process = self.api_server.as_ref();
        process.ok_or_else(|| Error::Unexpected("the API server does not run".into()))
    }

    pub fn start_api_server(&mut self) -> Result {
        let mut process = start_api_server(&self.node, &self.cgroup, &self.folder)?;
        wait_until_ready(&self.node, &self.folder, &mut process)?;
        self.api_server = Some(process);
        Ok(())
    }
}

fn start_api_server(node: &Node, cgroup: &Cgroup, folder: &Path) -> Result<Process> {
    let accounts = folder.join("accounts.pem");
    node.spawn(programs::kubernetes("kube-apiserver")?)?
        .cgroup(cgroup)
        .args([
            "--etcd-servers=http://127.0.0.1:2379",
            "--bind-address=0.0.0.0",
        ])
        .arg(format!(
            "--advertise-address={}",
            node.wire_address(Family::V4)
        ))
        .arg(flag("--cert-dir", &folder.join("certs")))
        .arg(flag(
            "--service-account-key-file",
            &folder.join("accounts-public.pem"),
        ))
        .arg(flag("--service-account-signing-key-file", &accounts))
        .arg("--service-account-issuer=https://kubernetes.default.svc")
        .arg(flag("--token-auth-file", &folder.join("tokens.csv")))
        .args(["--authorization-mode=Node,RBAC", "--allow-privileged=true"])
        .arg("--enable-admission-plugins=NodeRestriction")
        .arg("--kubelet-preferred-address-types=InternalIP")
        .arg("--service-cluster-ip-range=10.96.0.0/16,fd00:96::/108")
        .start()
}

fn start_scheduler(node: &Node, cgroup: &Cgroup, folder: &Path) -> Result<Process> {
    node.spawn(programs::kubernetes("kube-scheduler")?)?
        .cgroup(cgroup)
        .arg(flag("--kubeconfig", &folder.join("kubeconfig")))
        .args(["--leader-elect=false", "--bind-address=127.0.0.1"])
        .start()
}

fn wait_until_ready(node: &Node, folder: &Path, api_server: &mut Process) -> Result {
    wait_for(
        Deadline::after(START),
        || "the API server to be ready",
        || {
            api_server.must_run()?;
            // Its certificate may not be written yet.
            let ready = kubectl(node, folder, &["get", "--raw=/readyz"])?;
            Ok(ready.status.success().then_some(()))
        },
    )
}

fn kubectl(node: &Node, folder: &Path, words: &[&str]) -> Result<Output> {
    kubectl_with(node, folder, words)?.output()
}

fn kubectl_with(node: &Node, folder: &Path, words: &[&str]) -> Result<Spawn> {
    Ok(node
        .spawn(programs::kubernetes("kubectl")?)?
        .arg(flag("--kubeconfig", &folder.join("kubeconfig")))
        .arg(flag("--cache-dir", &folder.join("kubectl")))
        .args(words))
}

fn kubeconfig(server: &str, folder: &Path, token: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "story",
        "contexts": [{"name": "story", "context": {"cluster": "story", "user": "story"}}],
        "users": [{"name": "story", "user": {"token": token}}],
        "clusters": [{"name": "story", "cluster": {
            "server": server, "certificate-authority": folder.join("certs/apiserver.crt"),
        }}],
    })
}

fn flag(name: &str, path: &Path) -> String {
    format!("{name}={}", path.display())
}

fn write(path: &Path, text: &str) -> Result {
    fs::write(path, text).doing(|| format!("writing {}", path.display()))
}
