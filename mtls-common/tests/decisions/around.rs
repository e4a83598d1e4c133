//! A network namespace's surroundings as a test describes them, and what the
//! decisions asked about them.

use std::cell::RefCell;
use std::net::IpAddr;

use mtls_common::addr::{Endpoint, Ip};
use mtls_common::capture::{Answered, Connecting, Surroundings};
use mtls_common::maps::{FlowKey, Instance, KINDS, Netns, NetworkKey, PortKey};
use mtls_common::probe::{Probe, ProbeKey};
use mtls_common::steer::Arriving;

pub(crate) const COOKIE: u64 = 7;
pub(crate) const SLOTS: u32 = 10 * KINDS;
/// By the place of its listeners.
pub(crate) const ACCOUNT: u32 = 11;

/// What is different from an enrolled workload in a mesh of every address.
pub(crate) type Change = fn(&mut Around);

#[derive(Clone, Debug)]
pub(crate) struct Around {
    pub(crate) standing: Option<u32>,
    pub(crate) flags: u32,
    pub(crate) exempt: bool,
    pub(crate) own: Vec<IpAddr>,
    pub(crate) ports: Vec<u16>,
    /// Ports of a mode of their own.
    pub(crate) strict_ports: Vec<u16>,
    pub(crate) permissive_ports: Vec<u16>,
    /// Bits of the workload's own networks, and of the node's, at any address.
    pub(crate) workload_bits: u32,
    pub(crate) node_bits: u32,
    pub(crate) pass_unknown: bool,
    pub(crate) pass_outside: bool,
    pub(crate) answered: Answered,
    pub(crate) listening: bool,
    pub(crate) room: bool,
    pub(crate) only_v6: bool,
    pub(crate) captured: bool,
    /// The packet is a SYN.
    pub(crate) opens: bool,
    /// A connection of the prober is known, to this port.
    pub(crate) probed: Option<(u16, Probe)>,
    pub(crate) asked: RefCell<Vec<&'static str>>,
}

impl Around {
    /// An enrolled workload in a mesh that holds every address.
    pub(crate) fn enrolled() -> Self {
        Self {
            standing: Some(Netns::ENROLLED),
            flags: Netns::HAS_NETWORKS | Netns::HAS_PORTS_OUT | Netns::HAS_PORTS_IN,
            exempt: false,
            own: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
            ports: Vec::new(),
            strict_ports: Vec::new(),
            permissive_ports: Vec::new(),
            workload_bits: 0,
            node_bits: mtls_common::maps::MESH,
            pass_unknown: false,
            pass_outside: true,
            answered: Answered::Nothing,
            listening: true,
            room: true,
            only_v6: false,
            captured: false,
            opens: true,
            probed: None,
            asked: RefCell::new(Vec::new()),
        }
    }

    pub(crate) fn with(change: impl FnOnce(&mut Self)) -> Self {
        let mut around = Self::enrolled();
        change(&mut around);
        around
    }

    fn ask(&self, what: &'static str) {
        self.asked.borrow_mut().push(what);
    }

    fn netns_value(&self) -> Option<Netns> {
        Some(Netns {
            found_at: 0,
            standing: self.standing?,
            slot_base: SLOTS,
            spread: 2,
            flags: self.flags,
            primary_v4: endpoint("10.0.0.1:0").ip,
            primary_v6: endpoint("[fd00::1]:0").ip,
        })
    }
}

pub(crate) fn here() -> Instance {
    Instance {
        cookie: COOKIE,
        slot_base: SLOTS,
        spread: 2,
        flags: Netns::HAS_NETWORKS | Netns::HAS_PORTS_IN,
        tunnel_port: 15008,
    }
}

pub(crate) fn endpoint(of: &str) -> Endpoint {
    let of: std::net::SocketAddr = of.parse().unwrap();
    Endpoint {
        ip: of.ip().into(),
        port: of.port(),
    }
}

impl Surroundings for Around {
    fn netns(&self) -> Option<(u64, Netns)> {
        self.ask("netns");
        Some((COOKIE, self.netns_value()?))
    }

    fn exempt(&self) -> bool {
        self.ask("exempt");
        self.exempt
    }

    fn own_address(&self, cookie: u64, ip: Ip) -> bool {
        self.ask("own_address");
        cookie == COOKIE && self.own.contains(&ip.into())
    }

    fn port_excluded(&self, cookie: u64, port: u16) -> bool {
        self.ask("port_excluded");
        cookie == COOKIE && self.ports.contains(&port)
    }

    fn networks(&self, cookie: u64, _ip: Ip) -> u32 {
        self.ask("networks");
        if cookie == NetworkKey::NODE {
            self.node_bits
        } else {
            self.workload_bits
        }
    }

    fn pass_unknown(&self) -> bool {
        self.pass_unknown
    }

    fn pass_outside(&self) -> bool {
        self.pass_outside
    }

    fn opens(&self) -> bool {
        self.opens
    }

    fn probed(&self, cookie: u64, port: u16) -> Option<Probe> {
        let (probed, probe) = self.probed?;
        (cookie == COOKIE && probed == port).then_some(probe)
    }
}

impl Connecting for Around {
    fn answered(&self, cookie: u64, _to: Endpoint) -> Answered {
        assert_eq!(cookie, COOKIE, "another workload's answers");
        self.answered
    }

    fn listening(&self, slot: u32) -> bool {
        assert!(
            (SLOTS..SLOTS + 2 * KINDS).contains(&slot),
            "slot {slot} is another workload's"
        );
        self.listening
    }

    fn has_room(&self, account: u32) -> bool {
        assert_eq!(account, ACCOUNT, "another workload's account");
        self.room
    }

    fn only_v6(&self) -> bool {
        self.only_v6
    }
}

impl Arriving for Around {
    fn captured(&self, flow: &FlowKey) -> bool {
        flow.cookie == COOKIE && self.captured
    }

    fn own_address(&self, cookie: u64, ip: Ip) -> bool {
        Surroundings::own_address(self, cookie, ip)
    }

    fn port_is(&self, cookie: u64, port: u16, direction: u16) -> bool {
        let ports = match direction {
            PortKey::IN => &self.ports,
            PortKey::STRICT => &self.strict_ports,
            PortKey::PERMISSIVE => &self.permissive_ports,
            other => panic!("direction {other} is not for SYNs"),
        };
        cookie == COOKIE && ports.contains(&port)
    }

    fn networks(&self, cookie: u64, ip: Ip) -> u32 {
        Surroundings::networks(self, cookie, ip)
    }

    fn probed(&self, cookie: u64, probe: &ProbeKey) -> bool {
        Surroundings::probed(self, cookie, probe.target_port).is_some()
    }
}
