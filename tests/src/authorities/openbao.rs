//! OpenBao, with a store on disk, so that it can be killed and started again,
//! and TLS of its own.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::cgroup::Cgroup;
use crate::deadline::{Deadline, wait_for};
use crate::error::{Doing, Error, Result};
use crate::mesh::Ca;
use crate::node::{Family, Node};
use crate::pod::Pod;
use crate::process::{Process, Spawn};
use crate::programs;

/// A server that is initialised and unsealed.
pub struct OpenBao {
    node: Node,
    /// Where it runs, if not on the node itself.
    pod: Option<Pod>,
    folder: PathBuf,
    server_ca: PathBuf,
    cgroup: Cgroup,
    process: Option<Process>,
    unseal_key: String,
    root_token: String,
}

/// A way to speak to it.
pub struct Api<'a> {
    server: &'a OpenBao,
    token: String,
    /// With a slash at its end; empty for the root namespace.
    namespace: String,
}

const PORT: u16 = 8200;

/// Its name, for who can resolve it.
pub const HOST: &str = "openbao.example";

impl OpenBao {
    /// Listens at all addresses of the node.
    pub fn start(node: &Node) -> Result<Self> {
        Self::start_at(node, None)
    }

    /// Listens at all addresses of a pod.
    pub fn start_in(pod: &Pod) -> Result<Self> {
        Self::start_at(pod.node(), Some(pod))
    }

    fn start_at(node: &Node, pod: Option<&Pod>) -> Result<Self> {
        let address = address(node, pod);
        let folder = node.scene().data("openbao")?;
        let ca = Ca::create(&folder, "server-ca", "openbao.example")?;
        let certificate = ca.server("server", address, HOST)?;
        let config = folder.join("config.hcl");
        let text = format!(
            "storage \"file\" {{\n path = \"{store}\"\n}}\n\
             listener \"tcp\" {{\n address = \"0.0.0.0:{PORT}\"\n tls_cert_file = \"{cert}\"\n tls_key_file = \"{key}\"\n}}\n\
             api_addr = \"https://{address}:{PORT}\"\n",
            store = folder.join("store").display(),
            cert = certificate.certificate.display(),
            key = certificate.key.display(),
        );
        fs::write(&config, text).doing(|| format!("writing {}", config.display()))?;
        let mut server = Self {
            node: node.clone(),
            pod: pod.cloned(),
            folder,
            server_ca: ca.certificate.clone(),
            cgroup: node.scene().cgroup().child("openbao")?,
            process: None,
            unseal_key: String::new(),
            root_token: String::new(),
        };
        server.launch()?;
        let once = json!({ "secret_shares": 1, "secret_threshold": 1 });
        let made = server.api().send("PUT", "sys/init", &once)?;
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        server.unseal_key = word(&made["keys"][0]);
        server.root_token = word(&made["root_token"]);
        server.unseal()?;
        Ok(server)
    }

    /// Starts it, sealed, and waits until it answers.
    pub fn launch(&mut self) -> Result {
        self.launch_unheard()?;
        self.wait_until_heard()
    }

    /// Starts it, sealed.
    pub fn launch_unheard(&mut self) -> Result {
        let program = programs::openbao()?;
        let spawn = match &self.pod {
            Some(pod) => pod.spawn(program)?,
            None => self.node.spawn(program)?.cgroup(&self.cgroup),
        };
        let process = spawn
            .arg("server")
            .arg(format!(
                "-config={}",
                self.folder.join("config.hcl").display()
            ))
            .start()?;
        self.process = Some(process);
        Ok(())
    }

    /// Waits until it answers the node.
    pub fn wait_until_heard(&mut self) -> Result {
        wait_for(
            Deadline::default(),
            || "OpenBao to answer",
            || {
                if let Some(process) = &mut self.process {
                    process.must_run()?;
                }
                Ok(self.is_heard()?.then_some(()))
            },
        )
    }

    /// Whether it answers the node.
    pub fn is_heard(&self) -> Result<bool> {
        let curl = self.curl("GET", "sys/seal-status")?;
        let answer = curl.args(["--max-time", "2"]).output()?;
        Ok(answer.status.success())
    }

    pub fn unseal(&self) -> Result {
        let key = json!({ "key": self.unseal_key });
        self.api().send("PUT", "sys/unseal", &key)?;
        wait_for(
            Deadline::default(),
            || "OpenBao to be active",
            || {
                // 503 while it is sealed, 429 before it is active.
                let health = self.curl("GET", "sys/health")?.arg("--fail").output()?;
                Ok(health.status.success().then_some(()))
            },
        )
    }

    /// kill -9
    pub fn kill(&mut self) -> Result {
        match self.process.take() {
            Some(mut process) => process.kill(),
            None => Ok(()),
        }
    }

    /// The running server.
    pub fn process(&self) -> Result<&Process> {
        let process = self.process.as_ref();
        process.ok_or_else(|| Error::Unexpected("OpenBao does not run".into()))
    }

    pub fn url(&self) -> String {
        format!("https://{}:{PORT}", address(&self.node, self.pod.as_ref()))
    }

    /// The root that its own certificate comes from.
    pub fn server_ca(&self) -> &Path {
        &self.server_ca
    }

    /// As its root user.
    pub fn api(&self) -> Api<'_> {
        Api {
            server: self,
            token: self.root_token.clone(),
            namespace: String::new(),
        }
    }

    /// The same, in a namespace of this name, which is made.
    pub fn api_in(&self, namespace: &str) -> Result<Api<'_>> {
        let root = self.api();
        root.post(&format!("sys/namespaces/{namespace}"), &json!({}))?;
        Ok(Api {
            namespace: format!("{namespace}/"),
            ..root
        })
    }

    fn curl(&self, method: &str, path: &str) -> Result<Spawn> {
        Ok(self
            .node
            .spawn(programs::need("curl")?)?
            .args(["--silent", "--show-error", "--http1.1"])
            .args(["--request", method, "--cacert"])
            .arg(&self.server_ca)
            .arg(format!("{}/v1/{path}", self.url())))
    }
}

fn address(node: &Node, pod: Option<&Pod>) -> IpAddr {
    match pod {
        Some(pod) => pod.address(Family::V4),
        None => node.address(Family::V4),
    }
}

impl Api<'_> {
    pub fn send(&self, method: &str, path: &str, body: &Value) -> Result<Value> {
        let header = format!("X-Vault-Token: {}", self.token);
        let path = format!("{}{path}", self.namespace);
        let mut curl = (self.server)
            .curl(method, &path)?
            .args(["--header", &header]);
        if !body.is_null() {
            curl = curl.args(["--data", &body.to_string()]);
        }
        let said = curl.output()?.success()?;
        let answer: Value = match said.as_str() {
            "" => Value::Null,
            said => serde_json::from_str(said).map_err(|e| Error::Unreadable {
                what: format!("OpenBao's answer: {said}"),
                why: e.to_string(),
            })?,
        };
        match &answer["errors"] {
            Value::Null => Ok(answer),
            errors => Err(Error::Unexpected(format!("OpenBao on {path}: {errors}"))),
        }
    }

    pub fn post(&self, path: &str, body: &Value) -> Result<Value> {
        self.send("POST", path, body)
    }

    /// A PKI with a root of its own; writes the root to a file, and returns
    /// where.
    pub fn make_pki(&self) -> Result<PathBuf> {
        self.post("sys/mounts/pki", &json!({ "type": "pki" }))?;
        let root = json!({ "common_name": "root of example.org", "key_type": "ec", "ttl": "24h" });
        let made = self.post("pki/root/generate/internal", &root)?;
        let text = made["data"]["certificate"].as_str().unwrap_or_default();
        let path = self.server.folder.join("roots.pem");
        fs::write(&path, text).doing(|| format!("writing {}", path.display()))?;
        Ok(path)
    }

    /// A role that signs the workloads of a trust domain, and a policy of its
    /// name that lets use it.
    pub fn make_role(&self, name: &str, trust_domain: &str) -> Result {
        let role = json!({
            "allowed_uri_sans": format!("spiffe://{trust_domain}/*"),
            "require_cn": false, "key_type": "ec", "key_bits": 256, "max_ttl": "1h",
        });
        self.post(&format!("pki/roles/{name}"), &role)?;
        let policy = format!("path \"pki/sign/{name}\" {{ capabilities = [\"update\"] }}");
        self.post(
            &format!("sys/policies/acl/{name}"),
            &json!({ "policy": policy }),
        )
        .map(drop)
    }

    /// An AppRole with these settings; its role_id, and a file with a
    /// secret_id.
    pub fn make_app_role(&self, name: &str, settings: &Value) -> Result<(String, PathBuf)> {
        let path = format!("auth/approle/role/{name}");
        self.post(&path, settings)?;
        let role = self.send("GET", &format!("{path}/role-id"), &Value::Null)?;
        let secret = self.post(&format!("{path}/secret-id"), &json!({}))?;
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let file = self.server.folder.join(format!("secret-id-{name}"));
        fs::write(&file, word(&secret["data"]["secret_id"]) + "\n")
            .doing(|| format!("writing {}", file.display()))?;
        Ok((word(&role["data"]["role_id"]), file))
    }
}
