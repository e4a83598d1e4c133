//! A SPIRE server and its agents, all in one node's network namespace: what
//! they say to each other is not on the wire between the nodes.

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};

use crate::cgroup::Cgroup;
use crate::deadline::{Deadline, wait_for};
use crate::error::{Doing, Error, Result};
use crate::mesh::Ca;
use crate::node::Node;
use crate::process::Process;
use crate::programs;

/// The server of the trust domain example.org.
pub struct Spire {
    node: Node,
    folder: PathBuf,
    // Kept for their ends.
    _server: Process,
    _cgroup: Cgroup,
}

/// An agent, as its node's daemon sees it.
pub struct Agent {
    node: Node,
    name: String,
    folder: PathBuf,
    admin: PathBuf,
    delegates: RefCell<String>,
    cgroup: Cgroup,
    process: Option<Process>,
}

/// A registration entry of an agent's.
#[derive(Clone, Debug)]
pub struct Entry<'a> {
    pub id: &'a str,
    /// All of which a workload has to have.
    pub selectors: &'a [&'a str],
    /// Seconds.
    pub ttl: u32,
    pub federates_with: Option<&'a str>,
}

/// The identity of every daemon, and its right to ask for others'.
const DELEGATE: &str = "spiffe://example.org/mtls-daemon";

impl Spire {
    pub fn start(node: &Node) -> Result<Self> {
        Self::start_with(node, "")
    }

    /// One whose own certificate is issued by another authority.
    pub fn start_below(node: &Node, ca: &Ca) -> Result<Self> {
        Self::start_with(
            node,
            &format!(
                "UpstreamAuthority \"disk\" {{\n plugin_data {{\n cert_file_path = \"{}\"\n key_file_path = \"{}\"\n }}\n }}\n",
                ca.certificate.display(),
                ca.key.display()
            ),
        )
    }

    fn start_with(node: &Node, plugins: &str) -> Result<Self> {
        let folder = node.scene().dir().join("spire");
        fs::create_dir_all(&folder).doing(|| format!("making {}", folder.display()))?;
        let data = node.scene().data("spire-server")?;
        let config = folder.join("server.conf");
        let text = format!(
            "server {{\n bind_address = \"127.0.0.1\"\n bind_port = \"18081\"\n socket_path = \"{socket}\"\n \
             trust_domain = \"example.org\"\n data_dir = \"{data}\"\n log_level = \"INFO\"\n \
             ca_ttl = \"24h\"\n default_x509_svid_ttl = \"10m\"\n experimental {{\n cache_reload_interval = \"1s\"\n }}\n}}\n\
             plugins {{\n DataStore \"sql\" {{\n plugin_data {{\n database_type = \"sqlite3\"\n connection_string = \"{data}/store.sqlite3\"\n }}\n }}\n \
             NodeAttestor \"join_token\" {{\n plugin_data {{}}\n }}\n KeyManager \"memory\" {{\n plugin_data {{}}\n }}\n{plugins}}}\n",
            socket = folder.join("server.sock").display(),
            data = data.display(),
        );
        fs::write(&config, text).doing(|| format!("writing {}", config.display()))?;
        let cgroup = node.scene().cgroup().child("spire-server")?;
        let mut server = node
            .spawn(programs::spire("spire-server")?)?
            .cgroup(&cgroup)
            .args(["run", "-config"])
            .arg(&config)
            .start()?;
        wait_for(
            Deadline::default(),
            || "the SPIRE server to be healthy",
            || {
                server.must_run()?;
                let health = control(node, &folder, &["healthcheck"])?;
                Ok(health.status.success().then_some(()))
            },
        )?;
        let spire = Self {
            node: node.clone(),
            folder,
            _server: server,
            _cgroup: cgroup,
        };
        let bundle = spire.ask(&["bundle", "show"])?;
        let path = spire.bundle();
        fs::write(&path, bundle).doing(|| format!("writing {}", path.display()))?;
        Ok(spire)
    }

    /// The trust domain's roots, in PEM.
    pub fn bundle(&self) -> PathBuf {
        self.folder.join("bundle.pem")
    }

    /// A command of the server's.
    pub fn ask(&self, words: &[&str]) -> Result<String> {
        control(&self.node, &self.folder, words)?.success()
    }

    /// An agent with an entry for its daemon, which may ask for others'
    /// identities. It does not run yet.
    pub fn agent(&self, name: &str) -> Result<Agent> {
        self.agent_for(name, &self.folder.join(name).join("admin"))
    }

    /// The same with its admin socket in a folder of its daemon's choice.
    pub fn agent_for(&self, name: &str, admin: &Path) -> Result<Agent> {
        let folder = self.folder.join(name);
        for part in [&folder.join("api"), admin] {
            fs::create_dir_all(part).doing(|| format!("making {}", part.display()))?;
        }
        let agent = Agent {
            node: self.node.clone(),
            name: name.to_owned(),
            delegates: RefCell::new(DELEGATE.to_owned()),
            cgroup: self
                .node
                .scene()
                .cgroup()
                .child(&format!("spire-agent-{name}"))?,
            process: None,
            admin: admin.join("agent.sock"),
            folder,
        };
        let said = self.ask(&["token", "generate", "-spiffeID", &agent.id()])?;
        let token = said
            .lines()
            .find_map(|line| line.strip_prefix("Token: "))
            .ok_or_else(|| Error::Unexpected(format!("a join token: {said}")))?;
        let data = self.node.scene().data(&format!("spire-agent-{name}"))?;
        agent.configure(&data, &self.bundle(), token.trim())?;
        self.register(
            &agent,
            &Entry {
                id: DELEGATE,
                selectors: &["unix:uid:0"],
                ttl: 3600,
                federates_with: None,
            },
        )?;
        Ok(agent)
    }

    /// The new entry's id.
    pub fn register(&self, agent: &Agent, entry: &Entry<'_>) -> Result<String> {
        let (parent, ttl) = (agent.id(), entry.ttl.to_string());
        let mut words = vec!["entry", "create", "-parentID", &parent];
        words.extend(["-spiffeID", entry.id]);
        words.extend(entry.selectors.iter().flat_map(|it| ["-selector", it]));
        words.extend(["-x509SVIDTTL", &ttl]);
        if let Some(other) = entry.federates_with {
            words.extend(["-federatesWith", other]);
        }
        let said = self.ask(&words)?;
        said.lines()
            .find_map(|line| line.strip_prefix("Entry ID")?.split(": ").nth(1))
            .map(|id| id.trim().to_owned())
            .ok_or_else(|| Error::Unexpected(format!("the id of an entry: {said}")))
    }

    /// Gives it another trust domain's roots.
    pub fn federate(&self, trust_domain: &str, roots: &Path) -> Result {
        let roots = roots.to_string_lossy();
        self.ask(&["bundle", "set", "-id", trust_domain, "-path", &roots])
            .map(drop)
    }

    pub fn delete(&self, entry: &str) -> Result {
        self.ask(&["entry", "delete", "-entryID", entry]).map(drop)
    }
}

fn control(node: &Node, folder: &Path, words: &[&str]) -> Result<crate::process::Output> {
    node.spawn(programs::spire("spire-server")?)?
        .args(words)
        .arg("-socketPath")
        .arg(folder.join("server.sock"))
        .output()
}

impl Agent {
    fn id(&self) -> String {
        format!("spiffe://example.org/agent/{}", self.name)
    }

    fn configure(&self, data: &Path, bundle: &Path, token: &str) -> Result {
        let text = format!(
            "agent {{\n server_address = \"127.0.0.1\"\n server_port = \"18081\"\n trust_domain = \"example.org\"\n \
             trust_bundle_path = \"{bundle}\"\n data_dir = \"{data}\"\n log_level = \"DEBUG\"\n \
             socket_path = \"{api}\"\n admin_socket_path = \"{admin}\"\n join_token = \"{token}\"\n \
             authorized_delegates = [\"{delegates}\"]\n experimental {{\n sync_interval = \"1s\"\n }}\n}}\n\
             plugins {{\n NodeAttestor \"join_token\" {{\n plugin_data {{}}\n }}\n \
             KeyManager \"disk\" {{\n plugin_data {{\n directory = \"{data}\"\n }}\n }}\n \
             WorkloadAttestor \"unix\" {{\n plugin_data {{}}\n }}\n}}\n",
            bundle = bundle.display(),
            data = data.display(),
            api = self.workload_api().display(),
            admin = self.socket().display(),
            delegates = self.delegates.borrow(),
        );
        let config = self.config();
        fs::write(&config, text).doing(|| format!("writing {}", config.display()))
    }

    fn config(&self) -> PathBuf {
        self.folder.join("agent.conf")
    }

    /// The admin socket.
    pub fn socket(&self) -> PathBuf {
        self.admin.clone()
    }

    /// The socket that is for workloads themselves.
    pub fn workload_api(&self) -> PathBuf {
        self.folder.join("api/agent.sock")
    }

    /// Gives the right to ask for others' identities to somebody else, from
    /// its next start on.
    pub fn authorize(&self, delegate: &str) -> Result {
        let config = self.config();
        let text = fs::read_to_string(&config).doing(|| format!("reading {}", config.display()))?;
        let before = self.delegates.replace(delegate.to_owned());
        let (before, after) = (format!("[\"{before}\"]"), format!("[\"{delegate}\"]"));
        fs::write(&config, text.replace(&before, &after))
            .doing(|| format!("writing {}", config.display()))
    }

    /// Starts it, and waits until it serves.
    pub fn start(&mut self) -> Result {
        let mut process = self
            .node
            .spawn(programs::spire("spire-agent")?)?
            .named(&format!("spire-agent-{}", self.name))
            .cgroup(&self.cgroup)
            .args(["run", "-config"])
            .arg(self.config())
            .start()?;
        wait_for(
            Deadline::default(),
            || format!("the SPIRE agent {} to be healthy", self.name),
            || {
                process.must_run()?;
                let health = self
                    .node
                    .spawn(programs::spire("spire-agent")?)?
                    .args(["healthcheck", "-socketPath"])
                    .arg(self.workload_api())
                    .output()?;
                Ok(health.status.success().then_some(()))
            },
        )?;
        self.process = Some(process);
        Ok(())
    }

    /// kill -9
    pub fn kill(&mut self) -> Result {
        match self.process.take() {
            Some(mut process) => process.kill(),
            None => Ok(()),
        }
    }
}
