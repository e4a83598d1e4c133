//! Pods: a network namespace with an address of each family on its node's
//! bridge, and a cgroup. What runs in one is placed in both before it starts.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use crate::cgroup::Cgroup;
use crate::error::Result;
use crate::netns::Netns;
use crate::node::{Family, Node};
use crate::player::{Client, Server, Udp};
use crate::process::{Output, Spawn};
use crate::script::{Connect, Ended, Serve, Step, Task, UdpHow};

/// Name of the interface in each pod.
pub const INTERFACE: &str = "eth0";

/// Handle of a pod.
#[derive(Clone, Debug)]
pub struct Pod(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    number: u8,
    cgroup: Cgroup,
    netns: Netns,
    node: Node,
}

impl Pod {
    pub(crate) fn create(node: &Node, name: &str, number: u8, parent: &Cgroup) -> Result<Self> {
        let cgroup = parent.child(name)?;
        let netns = Netns::create(&node.scene().netns_path(name))?;
        let pod = Self(Arc::new(Inner {
            name: name.to_owned(),
            number,
            cgroup,
            netns,
            node: node.clone(),
        }));
        pod.netns().ip(&format!(
            "link add {INTERFACE} type veth peer name {far} netns {node}\n\
             addr add {v4}/24 dev {INTERFACE}\n\
             addr add {v6}/64 dev {INTERFACE} nodad\n\
             link set {INTERFACE} up\n\
             route add default via {gateway4}\n\
             route add default via {gateway6}\n",
            far = pod.node_interface(),
            node = node.netns().path().display(),
            v4 = pod.address(Family::V4),
            v6 = pod.address(Family::V6),
            gateway4 = node.address(Family::V4),
            gateway6 = node.address(Family::V6),
        ))?;
        node.netns().ip(&format!(
            "link set {far} master pods\nlink set {far} up\n",
            far = pod.node_interface()
        ))?;
        Ok(pod)
    }

    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The last number of its addresses.
    pub fn number(&self) -> u8 {
        self.0.number
    }

    pub fn node(&self) -> &Node {
        &self.0.node
    }

    pub fn netns(&self) -> &Netns {
        &self.0.netns
    }

    pub fn cgroup(&self) -> &Cgroup {
        &self.0.cgroup
    }

    /// Makes its cgroup again, after one above it was removed.
    pub fn remake_cgroup(&self) -> Result {
        self.0.cgroup.remake()
    }

    /// The node's end of its veth pair.
    pub fn node_interface(&self) -> String {
        format!("pod{}", self.0.number)
    }

    pub fn address(&self, family: Family) -> IpAddr {
        self.0.node.host(family, self.0.number)
    }

    pub fn addresses(&self) -> [IpAddr; 2] {
        Family::BOTH.map(|family| self.address(family))
    }

    pub fn at(&self, family: Family, port: u16) -> SocketAddr {
        SocketAddr::new(self.address(family), port)
    }

    /// A program in this pod.
    pub fn spawn(&self, program: impl AsRef<Path>) -> Result<Spawn> {
        let program = program.as_ref();
        let short = program.file_name().unwrap_or_default().to_string_lossy();
        Ok(Spawn::new(program, &self.0.node.scene().logs())?
            .netns(self.netns())
            .cgroup(self.cgroup())
            .named(&format!("{}-{short}", self.0.name)))
    }

    /// Runs a program in this pod to its end.
    pub fn run<A: AsRef<str>>(
        &self,
        program: &str,
        args: impl IntoIterator<Item = A>,
    ) -> Result<Output> {
        args.into_iter()
            .fold(self.spawn(program)?, |spawn, arg| spawn.arg(arg.as_ref()))
            .output()
    }

    /// Listens on a port of all addresses of both families, and plays the
    /// script on every connection.
    pub fn serve(&self, port: u16, script: impl Into<Vec<Step>>) -> Result<Server> {
        self.serve_as(Serve::on(port, script))
    }

    pub fn serve_as(&self, task: Serve) -> Result<Server> {
        Server::start(self, &Task::Serve(task))
    }

    /// Opens one connection, plays the script on it, and tells how it ended.
    pub fn connect(&self, to: SocketAddr, script: impl Into<Vec<Step>>) -> Result<Ended> {
        self.connect_as(Connect::to(to, script))?.the_one()
    }

    pub fn connect_as(&self, task: Connect) -> Result<Client> {
        Client::start(self, &Task::Connect(task))
    }

    pub fn udp_echo(&self, port: u16) -> Result<Server> {
        let listen = Family::BOTH.map(|family| self.at(family, port)).to_vec();
        Server::start(self, &Task::UdpEcho { listen })
    }

    pub fn udp_ask(&self, to: SocketAddr, how: UdpHow) -> Result<Udp> {
        Client::start(
            self,
            &Task::UdpAsk {
                from: None,
                to,
                how,
            },
        )?
        .datagram()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The pair would go with the namespace, only some time later, and a
        // pod that takes this one's place could not have its name.
        let _ = self
            .node
            .netns()
            .ip(&format!("link del pod{}\n", self.number));
    }
}
