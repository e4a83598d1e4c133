//! What the kernel is told of a workload.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;

use ipnet::IpNet;
use mtls_common::maps::{
    CAPTURE_V4, CAPTURE_V6, Netns, PLAIN_V4, PLAIN_V6, PortKey, TUNNEL_V4, TUNNEL_V6,
};

use super::FoundAt;
use crate::netns;

/// A workload whose connections are captured.
#[derive(Clone, Debug)]
pub struct Enrolment<'a> {
    /// Cookie of its network namespace: the key of everything the hooks know about it.
    pub cookie: u64,
    pub netns: &'a netns::Netns,
    pub found_at: FoundAt,
    /// Its cgroup, if known; it must not be the daemon's.
    pub cgroup_id: Option<u64>,
    /// The first of each family is the address that applications see as their own.
    pub addresses: Vec<IpAddr>,
    /// Never intercepted, in either direction, beside the node's.
    pub excluded: Vec<IpNet>,
    pub excluded_outbound_ports: Vec<u16>,
    pub excluded_inbound_ports: Vec<u16>,
    /// Whether plain text comes in, through the daemon.
    pub permissive: bool,
    /// Ports where it does not, and where it does, whatever `permissive` says.
    pub strict_ports: Vec<u16>,
    pub permissive_ports: Vec<u16>,
    /// Whether connect() waits for the far application.
    pub truthful: bool,
    /// Where the node's prober may ask in clear.
    pub probe_ports: Vec<u16>,
    /// Listeners of each kind.
    pub spread: u32,
    /// The first listener of each kind, in place before the hooks lead there:
    /// connections of a workload that was not enrolled till now are not to
    /// fail over it. Others come with [`super::Kernel::put_listener`].
    pub listeners: Vec<(ListenerKind, BorrowedFd<'a>)>,
}

/// A workload's places for listeners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slots {
    pub cookie: u64,
    pub(super) base: u32,
    pub(super) spread: u32,
}

/// What a listener of the daemon takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ListenerKind {
    CaptureV4,
    CaptureV6,
    TunnelV4,
    TunnelV6,
    PlainV4,
    PlainV6,
}

impl ListenerKind {
    pub const ALL: [Self; 6] = [
        Self::CaptureV4,
        Self::CaptureV6,
        Self::TunnelV4,
        Self::TunnelV6,
        Self::PlainV4,
        Self::PlainV6,
    ];

    pub const fn is_v4(self) -> bool {
        matches!(self, Self::CaptureV4 | Self::TunnelV4 | Self::PlainV4)
    }

    pub(super) const fn number(self) -> u32 {
        match self {
            Self::CaptureV4 => CAPTURE_V4,
            Self::CaptureV6 => CAPTURE_V6,
            Self::TunnelV4 => TUNNEL_V4,
            Self::TunnelV6 => TUNNEL_V6,
            Self::PlainV4 => PLAIN_V4,
            Self::PlainV6 => PLAIN_V6,
        }
    }
}

/// The ports at which a workload takes plain text, past the daemon or through it.
#[derive(Clone, Debug)]
pub struct OpenPorts {
    netns: Netns,
    /// Those that are not like the others, with the direction.
    ports: BTreeSet<(u16, u16)>,
}

impl OpenPorts {
    pub(super) fn new(netns: Netns, ports: &BTreeSet<(u16, u16)>) -> Self {
        Self {
            netns,
            ports: ports.clone(),
        }
    }

    /// Whether something was open in `before` that is not any more.
    pub fn are_fewer_than(&self, before: &Self) -> bool {
        let all = self.ports.iter().chain(&before.ports);
        // No port is 0: it stands for those of which nothing is said.
        let mut ports = all.map(|(port, _)| *port).chain([0]);
        ports.any(|port| before.have(port) && !self.have(port))
    }

    fn have(&self, port: u16) -> bool {
        let is = |direction| self.ports.contains(&(port, direction));
        self.netns.standing != Netns::ENROLLED || is(PortKey::IN) || self.netns.takes_plaintext(is)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(flags: u32, ports: &[(u16, u16)]) -> OpenPorts {
        let netns = Netns {
            standing: Netns::ENROLLED,
            flags: flags | Netns::HAS_PORT_MODES,
            ..Netns::OTHERS
        };
        OpenPorts::new(netns, &ports.iter().copied().collect())
    }

    #[test]
    fn whatever_closes_is_seen_and_nothing_else() {
        let off = OpenPorts::new(Netns::OTHERS, &BTreeSet::new());
        let strict = open(0, &[]);
        let one_open = open(0, &[(80, PortKey::PERMISSIVE)]);
        let one_past_the_daemon = open(0, &[(80, PortKey::IN)]);
        let permissive = open(Netns::PERMISSIVE, &[]);
        let one_shut = open(Netns::PERMISSIVE, &[(80, PortKey::STRICT)]);
        for (before, now) in [
            (&off, &strict),
            (&off, &one_shut),
            (&permissive, &strict),
            (&permissive, &one_shut),
            (&permissive, &one_open),
            (&one_shut, &strict),
            (&one_open, &strict),
            (&one_past_the_daemon, &strict),
        ] {
            assert!(now.are_fewer_than(before), "{before:?} {now:?}");
        }
        for (before, now) in [
            (&off, &permissive),
            (&strict, &strict),
            (&strict, &one_open),
            (&one_shut, &permissive),
            (&one_past_the_daemon, &one_open),
            (&one_open, &one_past_the_daemon),
        ] {
            assert!(!now.are_fewer_than(before), "{before:?} {now:?}");
        }
    }
}
