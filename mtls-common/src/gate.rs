//! What the cgroup's packet gates stop: the belt under the other hooks, for
//! sockets and namespaces that those never saw.

use crate::addr::is_capture_port_v6;
use crate::addr::{Endpoint, Ip};
use crate::capture::{Route, Surroundings, route};
use crate::counters::Outcome;
use crate::maps::{EXCLUDED, Netns, NetworkKey, Socket};
use crate::probe::Probe;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    Pass(Outcome),
    /// The sender sees silence, and asks again: a pod that is not known yet is
    /// held, not refused.
    Drop(Outcome),
}

/// The SYN of a socket in SYN_SENT that is about to leave the namespace. The
/// connect hook would have turned it; that it comes here means that the hook
/// never saw the socket.
#[inline(always)]
pub fn syn_out(around: &impl Surroundings, to: Endpoint) -> Gate {
    match route(around, to) {
        Route::Pass(why) => Gate::Pass(why),
        Route::Refuse(Outcome::RefusedUnknown) => Gate::Drop(Outcome::RefusedUnknown),
        // A workload that was off became permissive between connect() and
        // this packet: nothing is to fail over that. Whoever asks the connect
        // hook from now on is captured.
        Route::Mesh { netns, .. } if netns.flags & Netns::PERMISSIVE != 0 => {
            Gate::Pass(Outcome::PassedPermissive)
        }
        Route::Refuse(_) | Route::Mesh { .. } => Gate::Drop(Outcome::Dropped),
    }
}

/// What becomes of a SYN that leaves for loopback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loopback {
    Pass,
    /// It should be in the hand-off map and is not: it must not reach whoever
    /// listens there.
    Drop,
    /// The daemon gets it and says later what becomes of it. Sent again while
    /// it waits, it is held again: a daemon that has just started hears of it.
    Hold,
}

/// The SYN of a socket in SYN_SENT on loopback; `socket` is what the connect
/// hook left with it. `listening`: whether a daemon has a listener in a place.
#[inline(always)]
pub fn syn_on_loopback(
    socket: Option<Socket>,
    to: Endpoint,
    listening: impl Fn(u32) -> bool,
) -> Loopback {
    let Some(socket) = socket else {
        return Loopback::Pass;
    };
    if socket.dialled_through(to).is_none() {
        return Loopback::Pass;
    }
    if socket.state != Socket::RECORDED {
        // To ::1 only what is in the hand-off map is taken from applications;
        // to the IPv4 capture addresses everything is.
        let lost = to.ip == Ip::LOCALHOST_V6 && is_capture_port_v6(to.port);
        return if lost { Loopback::Drop } else { Loopback::Pass };
    }
    // Without a daemon nobody would ever let it go. sk_lookup refuses it.
    if socket.hold == 1 && listening(Netns::first_slot(socket.account)) {
        Loopback::Hold
    } else {
        Loopback::Pass
    }
}

/// A packet for a listener of an application, from outside of the namespace.
#[inline(always)]
pub fn syn_in(around: &impl Surroundings, from: Ip, port: u16) -> Gate {
    let Some((cookie, netns)) = around.netns() else {
        return if around.exempt() {
            Gate::Pass(Outcome::PassedExempt)
        } else if around.pass_unknown() {
            Gate::Pass(Outcome::PassedUnknown)
        } else {
            Gate::Drop(Outcome::RefusedUnknown)
        };
    };
    if netns.standing == Netns::NOT_ENROLLED {
        return Gate::Pass(Outcome::PassedNotEnrolled);
    }
    if around.exempt() {
        return Gate::Pass(Outcome::PassedExempt);
    }
    if netns.flags & Netns::HAS_PORTS_IN != 0 && around.port_excluded(cookie, port) {
        return Gate::Pass(Outcome::PassedExcluded);
    }
    if netns.flags & Netns::HAS_NETWORKS != 0 && around.networks(cookie, from) & EXCLUDED != 0 {
        return Gate::Pass(Outcome::PassedExcluded);
    }
    if around.networks(NetworkKey::NODE, from) & EXCLUDED != 0 {
        return Gate::Pass(Outcome::PassedExcluded);
    }
    match around.probed(cookie, port) {
        Some(Probe::Open) => return Gate::Pass(Outcome::PassedProbe),
        // Whoever now has its addresses begins none.
        Some(Probe::Ended) if !around.opens() => return Gate::Pass(Outcome::PassedProbe),
        _ => {}
    }
    // The rest of a handshake whose SYN the application's listener had before
    // its workload became permissive: the kernel shows it with the listener.
    if netns.flags & Netns::PERMISSIVE != 0 && !around.opens() {
        return Gate::Pass(Outcome::PassedPermissive);
    }
    Gate::Drop(Outcome::Dropped)
}

/// What creating a socket may meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Creation {
    /// Not of interest.
    Pass,
    /// A raw socket whose packets are to be looked at.
    Watch {
        cookie: u64,
    },
    Refuse,
}

const SOCK_RAW: u32 = 3;
const IPPROTO_TCP: u32 = 6;
/// Any protocol, with headers that the application writes.
const IPPROTO_RAW: u32 = 255;

/// A raw socket could carry hand-made TCP past every hook that looks at
/// stream sockets.
#[inline(always)]
pub fn create(around: &impl Surroundings, kind: u32, protocol: u32) -> Creation {
    if kind != SOCK_RAW {
        return Creation::Pass;
    }
    let cookie = match around.netns() {
        Some((_, netns)) if netns.standing == Netns::NOT_ENROLLED => return Creation::Pass,
        Some((cookie, _)) => cookie,
        None if around.pass_unknown() => return Creation::Pass,
        None => 0,
    };
    if around.exempt() {
        return Creation::Pass;
    }
    if protocol == IPPROTO_TCP || protocol == IPPROTO_RAW {
        Creation::Refuse
    } else {
        // IP_HDRINCL lets a socket of any protocol write another one.
        Creation::Watch { cookie }
    }
}

/// Whether a packet that a watched raw socket sends holds TCP; `byte` reads
/// one byte of it, counted from the IP header. A header that cannot be read to
/// its end counts as TCP.
#[inline(always)]
pub fn holds_tcp(byte: impl Fn(u32) -> Option<u8>) -> bool {
    match byte(0) {
        Some(first) if first >> 4 == 4 => {
            byte(9).is_none_or(|protocol| u32::from(protocol) == IPPROTO_TCP)
        }
        Some(first) if first >> 4 == 6 => v6_holds_tcp(byte),
        _ => true,
    }
}

#[inline(always)]
fn v6_holds_tcp(byte: impl Fn(u32) -> Option<u8>) -> bool {
    let mut next = byte(6);
    let mut at = 40;
    // A sender may chain extension headers; nobody honest needs more than four.
    for _ in 0..4 {
        let length = match next {
            None => return true,
            // Hop-by-hop, routing, destination options, mobility, HIP, shim6.
            Some(0 | 43 | 60 | 135 | 139 | 140) => match byte(at + 1) {
                Some(words) => (u32::from(words) + 1) * 8,
                None => return true,
            },
            // Fragment: what lies behind a later one cannot be seen.
            Some(44) => 8,
            Some(protocol) => return u32::from(protocol) == IPPROTO_TCP,
        };
        next = byte(at);
        at += length;
    }
    true
}
