//! What a daemon is told: the TOML of each node, from the pods of the story.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use super::ca::{Ca, Leaf};
use crate::node::{Family, Node};
use crate::pod::Pod;

/// Every pod in the mesh, and what differs from the defaults.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    pods: Vec<Pod>,
    /// Those that have a daemon, whatever pods are on them.
    nodes: Vec<Node>,
    services: Vec<String>,
    /// By section, then key: values in TOML.
    settings: BTreeMap<String, BTreeMap<String, String>>,
    /// By node, section, key.
    of_node: BTreeMap<(String, String), BTreeMap<String, String>>,
    /// By pod, key.
    of_pod: BTreeMap<String, BTreeMap<String, String>>,
    /// The same, of what other nodes know of it.
    of_peer: BTreeMap<String, BTreeMap<String, String>>,
    /// Sections that stand at the end of a node's file as they are.
    appended: BTreeMap<String, String>,
}

impl Plan {
    /// A mesh of these pods, each with the identity of its name.
    pub fn of<'a>(pods: impl IntoIterator<Item = &'a Pod>) -> Self {
        Self {
            pods: pods.into_iter().cloned().collect(),
            ..Self::default()
        }
    }

    /// A mesh of nodes whose daemons find out by themselves who is on them.
    pub fn on<'a>(nodes: impl IntoIterator<Item = &'a Node>) -> Self {
        Self {
            nodes: nodes.into_iter().cloned().collect(),
            ..Self::default()
        }
    }

    /// `key = value` in a section of every node; the value in TOML.
    #[must_use]
    pub fn set(mut self, section: &str, key: &str, value: &str) -> Self {
        let keys = self.settings.entry(section.to_owned()).or_default();
        keys.insert(key.to_owned(), value.to_owned());
        self
    }

    /// The same in one node's file.
    #[must_use]
    pub fn set_on(mut self, node: &Node, section: &str, key: &str, value: &str) -> Self {
        let place = (node.name().to_owned(), section.to_owned());
        let keys = self.of_node.entry(place).or_default();
        keys.insert(key.to_owned(), value.to_owned());
        self
    }

    /// `key = value` in the `[[workload]]` of a pod.
    #[must_use]
    pub fn set_workload(mut self, pod: &Pod, key: &str, value: &str) -> Self {
        let keys = self.of_pod.entry(pod.name().to_owned()).or_default();
        keys.insert(key.to_owned(), value.to_owned());
        self
    }

    /// `key = value` in each `[[peer]]` that stands for a pod.
    #[must_use]
    pub fn set_peer(mut self, pod: &Pod, key: &str, value: &str) -> Self {
        let keys = self.of_peer.entry(pod.name().to_owned()).or_default();
        keys.insert(key.to_owned(), value.to_owned());
        self
    }

    /// A service at an address of each family, `ports` in TOML.
    #[must_use]
    pub fn service(mut self, name: &str, addresses: &[&str], ports: &str, pods: &[&Pod]) -> Self {
        let endpoints: Vec<_> = pods.iter().flat_map(|pod| pod.addresses()).collect();
        self.services.push(format!(
            "[[service]]\nname = \"{name}\"\naddresses = {addresses:?}\nports = {ports}\nendpoints = {}\n",
            list(endpoints)
        ));
        self
    }

    /// Whole sections at the end of a node's file.
    #[must_use]
    pub fn append(mut self, node: &Node, sections: &str) -> Self {
        let text = self.appended.entry(node.name().to_owned()).or_default();
        text.push_str(sections);
        self
    }

    /// Lets go of a pod, so that it can be deleted.
    pub(super) fn forget(&mut self, name: &str) {
        self.pods.retain(|pod| pod.name() != name);
    }

    pub(super) fn remember(&mut self, pod: &Pod) {
        self.pods.push(pod.clone());
    }

    /// The nodes that have a daemon.
    pub(super) fn nodes(&self) -> Vec<Node> {
        let mut nodes = self.nodes.clone();
        for pod in &self.pods {
            if !nodes.iter().any(|node| node.name() == pod.node().name()) {
                nodes.push(pod.node().clone());
            }
        }
        nodes
    }

    /// The node's file.
    pub(super) fn toml(&self, node: &Node, ca: &Ca, files: &Files<'_>) -> String {
        let mut sections: BTreeMap<&str, BTreeMap<&str, String>> = BTreeMap::new();
        let mut put = |section, key, value| {
            sections.entry(section).or_default().insert(key, value);
        };
        put("node", "name", quoted(node.name()));
        put("kernel", "cgroup", path(node.cgroup().path()));
        put("kernel", "pins", path(files.pins));
        put("network", "mesh", "[\"10.0.0.0/16\", \"fd00::/16\"]".into());
        put("identity", "trust_domain", quoted("example.org"));
        put("identity.disk-ca", "certificate", path(&ca.certificate));
        put("identity.disk-ca", "key", path(&ca.key));
        put("admin", "socket", path(files.admin));
        put("log", "format", quoted("json"));
        let own = self
            .of_node
            .iter()
            .filter(|((name, _), _)| name == node.name())
            .map(|((_, section), keys)| (section, keys));
        for (section, keys) in self.settings.iter().chain(own) {
            for (key, value) in keys {
                let section = sections.entry(section).or_default();
                section.insert(key, value.clone());
            }
        }
        // A node has one source.
        let others = ["spire", "vault", "cert-manager", "secrets"];
        let mut others = others
            .map(|source| format!("identity.{source}"))
            .into_iter();
        if others.any(|source| sections.contains_key(source.as_str())) {
            sections.remove("identity.disk-ca");
        }
        let mut toml = String::from("version = 1\n");
        for (section, keys) in sections {
            let _ = writeln!(toml, "\n[{section}]");
            for (key, value) in keys {
                let _ = writeln!(toml, "{key} = {value}");
            }
        }
        for pod in &self.pods {
            toml.push('\n');
            toml.push_str(&self.directory_entry(node, pod, ca));
        }
        for section in self.services.iter().chain(self.appended.get(node.name())) {
            toml.push('\n');
            toml.push_str(section);
        }
        toml
    }

    /// A pod, as its own node or another one knows it.
    fn directory_entry(&self, node: &Node, pod: &Pod, ca: &Ca) -> String {
        let is_own = pod.node().name() == node.name();
        let mut keys = BTreeMap::from([
            ("name", quoted(pod.name())),
            ("spiffe_id", quoted(&ca.identity(pod.name()))),
            ("addresses", list(Family::BOTH.map(|f| pod.address(f)))),
        ]);
        let of = match is_own {
            true => &self.of_pod,
            false => &self.of_peer,
        };
        if is_own {
            keys.insert("netns", path(pod.netns().path()));
        }
        for (key, value) in of.get(pod.name()).into_iter().flatten() {
            keys.insert(key, value.clone());
        }
        let mut entry = format!("[[{}]]\n", if is_own { "workload" } else { "peer" });
        for (key, value) in keys {
            // Dotted keys are tables of their own, such as `files.key`.
            let _ = writeln!(entry, "{key} = {value}");
        }
        entry
    }
}

impl Ca {
    /// A plan in which this authority issues one node's certificates.
    pub fn on(&self, node: &Node, plan: Plan) -> Plan {
        plan.set_on(
            node,
            "identity.disk-ca",
            "certificate",
            &path(&self.certificate),
        )
        .set_on(node, "identity.disk-ca", "key", &path(&self.key))
    }
}

impl Leaf {
    /// A plan in which a pod has its certificate from these files.
    pub fn of_workload(&self, pod: &Pod, plan: Plan) -> Plan {
        plan.set_workload(pod, "files.certificate", &path(&self.certificate))
            .set_workload(pod, "files.key", &path(&self.key))
            .set_workload(pod, "files.bundle", &path(&self.bundle))
    }
}

/// Paths that belong to one daemon.
pub(super) struct Files<'a> {
    pub(super) pins: &'a Path,
    pub(super) admin: &'a Path,
}

fn quoted(text: &str) -> String {
    format!("{text:?}")
}

fn path(path: &Path) -> String {
    quoted(&path.to_string_lossy())
}

fn list<T: std::fmt::Display>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<_> = items
        .into_iter()
        .map(|item| format!("\"{item}\""))
        .collect();
    format!("[{}]", items.join(", "))
}
