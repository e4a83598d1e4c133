//! Virtual nodes: a network namespace that routes for the pods on its bridge,
//! a cgroup at which its daemon attaches, and a wire to the other node.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::capture::Capture;
use crate::cgroup::Cgroup;
use crate::error::{Error, Result};
use crate::netns::Netns;
use crate::pod::Pod;
use crate::process::Spawn;
use crate::scene::Scene;

/// Name of each node's end of the wire.
pub const WIRE: &str = "wire";

/// An address family, for stories that are told in both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// All addresses of this machine.
    pub fn any(self, port: u16) -> SocketAddr {
        match self {
            Self::V4 => (Ipv4Addr::UNSPECIFIED, port).into(),
            Self::V6 => (Ipv6Addr::UNSPECIFIED, port).into(),
        }
    }

    pub fn loopback(self, port: u16) -> SocketAddr {
        match self {
            Self::V4 => (Ipv4Addr::LOCALHOST, port).into(),
            Self::V6 => (Ipv6Addr::LOCALHOST, port).into(),
        }
    }
}

/// Handle of a node.
#[derive(Clone, Debug)]
pub struct Node(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    /// 1 or 2: the third number of its pods' addresses.
    number: u8,
    next_pod: AtomicU8,
    netns: Netns,
    /// Where the daemon attaches; the pods lie below it.
    cgroup: Cgroup,
    pods: Cgroup,
    scene: Scene,
}

/// Two nodes, joined by the wire.
pub fn two_nodes(scene: &Scene) -> Result<(Node, Node)> {
    let (a, b) = (Node::new(scene, "a", 1)?, Node::new(scene, "b", 2)?);
    a.netns().ip(&format!(
        "link add {WIRE} type veth peer name {WIRE} netns {}",
        b.netns().path().display()
    ))?;
    for node in [&a, &b] {
        node.netns().ip(&format!("link set {WIRE} up\n"))?;
        node.address_wire()?;
    }
    Ok((a, b))
}

impl Node {
    fn new(scene: &Scene, name: &str, number: u8) -> Result<Self> {
        let netns = Netns::create(&scene.netns_path(&format!("node-{name}")))?;
        for (key, value) in [
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv6/conf/all/forwarding", "1"),
        ] {
            netns.sysctl(key, value)?;
        }
        // Snooping would hold multicast back, and with it neighbour discovery,
        // until the bridge has heard who listens. Without an address of its own
        // it has its ports' lowest, and when that changes whoever knew the
        // former one talks to nobody for up to ten seconds.
        netns.ip(&format!(
            "link add pods address 02:00:00:00:0{number}:01 \
             type bridge stp_state 0 mcast_snooping 0\n\
             addr add 10.0.{number}.1/24 dev pods\n\
             addr add fd00:{number}::1/64 dev pods nodad\n\
             link set pods up\n"
        ))?;
        let cgroup = scene.cgroup().child(name)?;
        let pods = cgroup.child("pods")?;
        Ok(Self(Arc::new(Inner {
            name: name.to_owned(),
            number,
            next_pod: AtomicU8::new(10),
            netns,
            cgroup,
            pods,
            scene: scene.clone(),
        })))
    }

    /// Gives its end of the wire its addresses, and the ways over it: the
    /// kernel forgets some when the interface goes down.
    pub fn address_wire(&self) -> Result {
        let own = self.0.number;
        let far = 3 - own;
        self.netns().ip(&format!(
            "addr replace 10.99.0.{own}/24 dev {WIRE}\n\
             addr replace fd99::{own}/64 dev {WIRE} nodad\n\
             route replace 10.0.{far}.0/24 via 10.99.0.{far}\n\
             route replace fd00:{far}::/64 via fd99::{far}\n"
        ))
    }

    pub fn name(&self) -> &str {
        &self.0.name
    }

    pub fn netns(&self) -> &Netns {
        &self.0.netns
    }

    pub fn scene(&self) -> &Scene {
        &self.0.scene
    }

    /// Where this node's daemon attaches.
    pub fn cgroup(&self) -> &Cgroup {
        &self.0.cgroup
    }

    /// The address of the node itself, on the bridge.
    pub fn address(&self, family: Family) -> IpAddr {
        self.host(family, 1)
    }

    /// Its address on the wire to the other node.
    pub fn wire_address(&self, family: Family) -> IpAddr {
        let number = self.0.number;
        match family {
            Family::V4 => Ipv4Addr::new(10, 99, 0, number).into(),
            Family::V6 => Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, number.into()).into(),
        }
    }

    /// The networks that its pods have their addresses from.
    pub fn pod_networks(&self) -> [String; 2] {
        let number = self.0.number;
        [format!("10.0.{number}.0/24"), format!("fd00:{number}::/64")]
    }

    pub(crate) fn host(&self, family: Family, number: u8) -> IpAddr {
        let node = self.0.number;
        match family {
            Family::V4 => Ipv4Addr::new(10, 0, node, number).into(),
            Family::V6 => Ipv6Addr::new(0xfd00, node.into(), 0, 0, 0, 0, 0, number.into()).into(),
        }
    }

    /// A pod on this node, in the mesh: its cgroup lies below the attach point.
    pub fn pod(&self, name: &str) -> Result<Pod> {
        let number = self.next_number()?;
        Pod::create(self, name, number, &self.0.pods)
    }

    /// A pod on this node's bridge that no daemon governs.
    pub fn outsider(&self, name: &str) -> Result<Pod> {
        let number = self.next_number()?;
        Pod::create(self, name, number, self.0.scene.cgroup())
    }

    /// A pod with that last number in its addresses, such as those of one that
    /// is gone.
    pub fn pod_at(&self, name: &str, number: u8) -> Result<Pod> {
        Pod::create(self, name, number, &self.0.pods)
    }

    /// A pod whose cgroup lies where its kubelet would have put it.
    pub(crate) fn pod_below(&self, name: &str, parent: &Cgroup) -> Result<Pod> {
        let number = self.next_number()?;
        Pod::create(self, name, number, parent)
    }

    fn next_number(&self) -> Result<u8> {
        let number = self.0.next_pod.fetch_add(1, Ordering::Relaxed);
        if number < 10 || number == u8::MAX {
            return Err(Error::Unexpected("a node holds at most 240 pods".into()));
        }
        Ok(number)
    }

    /// Watches the wire from this node's end.
    pub fn capture_wire(&self) -> Result<Capture> {
        let file = self
            .0
            .scene
            .logs()
            .join(format!("wire-{}.pcap", self.0.name));
        Capture::start(self.netns(), WIRE, &file)
    }

    /// A program of the node itself, in its network namespace and in no cgroup
    /// of the scene's; `place` moves it into one.
    pub fn spawn(&self, program: impl AsRef<Path>) -> Result<Spawn> {
        Ok(Spawn::new(program.as_ref(), &self.0.scene.logs())?.netns(self.netns()))
    }
}
