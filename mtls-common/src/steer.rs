//! Which socket takes a connection that arrives: the decision of sk_lookup,
//! in the network namespace of one enrolled workload.

use crate::addr::{Endpoint, Ip, is_capture_port_v6};
use crate::capture::nth;
use crate::counters::Outcome;
use crate::maps::{
    CAPTURE_V4, CAPTURE_V6, EXCLUDED, FlowKey, Instance, Netns, NetworkKey, PLAIN_V4, PLAIN_V6,
    PortKey, TUNNEL_V4, TUNNEL_V6,
};
use crate::probe::ProbeKey;

/// What the decision may ask for.
pub trait Arriving {
    /// Whether the connect hook turned this connection towards the daemon.
    fn captured(&self, flow: &FlowKey) -> bool;
    fn own_address(&self, cookie: u64, ip: Ip) -> bool;
    /// Whether `PORTS` has it, under one of [`PortKey`]'s directions.
    fn port_is(&self, cookie: u64, port: u16, direction: u16) -> bool;
    fn networks(&self, cookie: u64, ip: Ip) -> u32;
    /// Whether it is a connection of the node's prober, to a port that the
    /// workload has for it.
    fn probed(&self, cookie: u64, probe: &ProbeKey) -> bool;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steering {
    /// To whom it would go without us.
    Pass(Outcome),
    /// To the daemon's listener in this place; an empty place drops, for to
    /// pass would mean to reach the application in the clear.
    Steer { slot: u32, outcome: Outcome },
    /// Answered with RST.
    Drop(Outcome),
}

/// A TCP SYN of either family; addresses as they stand in the packet.
///
/// The interface is no help: for traffic within the namespace the kernel gives
/// here the interface that owns the address (seen on Linux 6.1 and 6.18). So
/// addresses decide, and the ingress gate, which does know the interface,
/// stands behind this for whoever forges them.
#[inline(always)]
pub fn syn(
    around: &impl Arriving,
    here: &Instance,
    remote: Endpoint,
    local: Endpoint,
    packet_v6: bool,
) -> Steering {
    // No honest IPv6 packet carries a mapped source address; taken for IPv4 it
    // could pass as a loopback address.
    if packet_v6 && remote.ip.is_v4() {
        return Steering::Drop(Outcome::RefusedPlaintext);
    }
    if local.ip.is_loopback() {
        return loopback(around, here, remote, local);
    }
    // The daemon dialling the application.
    if remote.ip.is_loopback() {
        return Steering::Pass(Outcome::PassedOwnAddress);
    }
    // Also from the pod itself: a workload that is an endpoint of a service it
    // calls has a tunnel to itself.
    if u32::from(local.port) == here.tunnel_port {
        let kind = if packet_v6 { TUNNEL_V6 } else { TUNNEL_V4 };
        return steer(here, kind, remote, Outcome::SteeredTunnel);
    }
    // A pod that calls itself.
    if remote.ip == local.ip || around.own_address(here.cookie, remote.ip) {
        return Steering::Pass(Outcome::PassedOwnAddress);
    }
    if here.flags & Netns::HAS_PORTS_IN != 0 && around.port_is(here.cookie, local.port, PortKey::IN)
    {
        return Steering::Pass(Outcome::PassedExcluded);
    }
    if here.flags & Netns::HAS_NETWORKS != 0
        && around.networks(here.cookie, remote.ip) & EXCLUDED != 0
    {
        return Steering::Pass(Outcome::PassedExcluded);
    }
    if around.networks(NetworkKey::NODE, remote.ip) & EXCLUDED != 0 {
        return Steering::Pass(Outcome::PassedExcluded);
    }
    if around.probed(here.cookie, &ProbeKey::new(remote, local)) {
        return Steering::Pass(Outcome::PassedProbe);
    }
    if here.takes_plaintext(|direction| around.port_is(here.cookie, local.port, direction)) {
        let kind = if packet_v6 { PLAIN_V6 } else { PLAIN_V4 };
        return steer(here, kind, remote, Outcome::SteeredPlaintext);
    }
    Steering::Drop(Outcome::RefusedPlaintext)
}

#[inline(always)]
fn loopback(
    around: &impl Arriving,
    here: &Instance,
    remote: Endpoint,
    local: Endpoint,
) -> Steering {
    if local.ip.is_capture_v4() && local.port == crate::addr::CAPTURE_PORT {
        return steer(here, CAPTURE_V4, remote, Outcome::SteeredCapture);
    }
    // ::1 belongs to the applications, every port of it: only what was
    // captured is taken from there.
    if local.ip == Ip::LOCALHOST_V6
        && is_capture_port_v6(local.port)
        && around.captured(&FlowKey::new(here.cookie, remote, local))
    {
        return steer(here, CAPTURE_V6, remote, Outcome::SteeredCapture);
    }
    Steering::Pass(Outcome::PassedLoopback)
}

#[inline(always)]
const fn steer(here: &Instance, kind: u32, remote: Endpoint, outcome: Outcome) -> Steering {
    Steering::Steer {
        slot: here.slot_base + kind * here.spread + nth(remote, here.spread),
        outcome,
    }
}
