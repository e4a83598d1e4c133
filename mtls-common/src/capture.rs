//! What becomes of a connection that an application opens: the decision of the
//! connect hooks, and of the egress gate behind them.

use crate::addr::{Endpoint, Ip, capture_endpoint};
use crate::counters::Outcome;
use crate::maps::{CAPTURE_V4, CAPTURE_V6, EXCLUDED, MESH, Netns, Socket};
use crate::probe::Probe;

/// What a decision may ask for. The hooks answer from the maps and the
/// kernel's helpers, so a question that is not asked costs nothing.
pub trait Surroundings {
    /// What is known about the socket's network namespace, and its cookie.
    fn netns(&self) -> Option<(u64, Netns)>;
    /// Whether the socket is the daemon's own.
    fn exempt(&self) -> bool;
    fn own_address(&self, cookie: u64, ip: Ip) -> bool;
    fn port_excluded(&self, cookie: u64, port: u16) -> bool;
    /// Bits of the longest network around `ip` in the list of `cookie`.
    fn networks(&self, cookie: u64, ip: Ip) -> u32;
    fn pass_unknown(&self) -> bool;
    fn pass_outside(&self) -> bool;
    /// Whether the packet asks for a connection, or may do so.
    fn opens(&self) -> bool {
        true
    }
    /// Whether the packet belongs to a connection of the node's prober, to a
    /// port that the workload has for it.
    fn probed(&self, _cookie: u64, _port: u16) -> Option<Probe> {
        None
    }
}

/// What the connect hooks may ask for beyond that.
pub trait Connecting: Surroundings {
    /// What the destination answered a moment ago, if anything.
    fn answered(&self, cookie: u64, to: Endpoint) -> Answered;
    fn listening(&self, slot: u32) -> bool;
    /// Whether the daemon can be left another note, in the account of a
    /// network namespace.
    fn has_room(&self, account: u32) -> bool;
    /// Whether the socket can only use IPv6.
    fn only_v6(&self) -> bool;
}

/// What a destination answered another connection a moment ago.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answered {
    Nothing,
    Accepted,
    Refused,
}

/// What a hook does with a connection. The outcome is also what it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Pass(Outcome),
    /// connect() fails with ECONNREFUSED.
    Refuse(Outcome),
    /// Turned towards the daemon; the socket is to remember this.
    Capture(Socket),
}

/// Where a destination lies, as seen from a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    Pass(Outcome),
    Refuse(Outcome),
    /// Only through the daemon.
    Mesh {
        cookie: u64,
        netns: Netns,
    },
}

/// The connect hooks' decision about a TCP connection.
#[inline(always)]
pub fn connect(around: &impl Connecting, to: Endpoint, socket_v6: bool) -> Verdict {
    let (cookie, netns) = match route(around, to) {
        Route::Pass(why) => return Verdict::Pass(why),
        Route::Refuse(why) => return Verdict::Refuse(why),
        Route::Mesh { cookie, netns } => (cookie, netns),
    };
    let answered = around.answered(cookie, to);
    if matches!(answered, Answered::Refused) {
        return Verdict::Refuse(Outcome::RefusedRecently);
    }
    // Only a true IPv6 destination asks: a socket that dials a mapped address
    // can use IPv4.
    let only_v6 = socket_v6 && !to.ip.is_v4() && around.only_v6();
    let kind = if only_v6 { CAPTURE_V6 } else { CAPTURE_V4 };
    // The first listener answers for all of its kind: they come and go with
    // the daemon. Without this test the SYN would be refused by sk_lookup, but
    // connect() to a daemon that is gone is to fail at once, and in one place.
    if !around.listening(slot(&netns, kind, 0)) {
        return Verdict::Refuse(Outcome::RefusedNoListener);
    }
    let account = netns.account();
    if !around.has_room(account) {
        return Verdict::Refuse(Outcome::RefusedPending);
    }
    let captured = capture_endpoint(to, only_v6);
    // Who accepted a moment ago is trusted to do so again: the connection is
    // made at once, and what the application says goes right behind the request.
    let hold = netns.flags & Netns::TRUTHFUL != 0 && !matches!(answered, Answered::Accepted);
    Verdict::Capture(Socket::captured(cookie, account, to, captured, hold))
}

/// Where `to` lies; asked in the order of what is cheap and what is frequent.
#[inline(always)]
pub fn route(around: &impl Surroundings, to: Endpoint) -> Route {
    if to.ip.is_loopback() || to.ip.is_unspecified() {
        return Route::Pass(Outcome::PassedLoopback);
    }
    let Some((cookie, netns)) = around.netns() else {
        return unknown(around);
    };
    if netns.standing == Netns::NOT_ENROLLED {
        return Route::Pass(Outcome::PassedNotEnrolled);
    }
    if around.exempt() {
        return Route::Pass(Outcome::PassedExempt);
    }
    if around.own_address(cookie, to.ip) {
        return Route::Pass(Outcome::PassedOwnAddress);
    }
    if netns.flags & Netns::HAS_PORTS_OUT != 0 && around.port_excluded(cookie, to.port) {
        return Route::Pass(Outcome::PassedExcluded);
    }
    if netns.flags & Netns::HAS_NETWORKS != 0 && around.networks(cookie, to.ip) & EXCLUDED != 0 {
        return Route::Pass(Outcome::PassedExcluded);
    }
    let network = around.networks(crate::maps::NetworkKey::NODE, to.ip);
    if network & EXCLUDED != 0 {
        return Route::Pass(Outcome::PassedExcluded);
    }
    if network & MESH != 0 {
        return Route::Mesh { cookie, netns };
    }
    if around.pass_outside() {
        Route::Pass(Outcome::PassedOutside)
    } else {
        Route::Refuse(Outcome::RefusedOutside)
    }
}

#[inline(always)]
fn unknown(around: &impl Surroundings) -> Route {
    // The daemon itself may visit a namespace before anybody classified it.
    if around.exempt() {
        Route::Pass(Outcome::PassedExempt)
    } else if around.pass_unknown() {
        Route::Pass(Outcome::PassedUnknown)
    } else {
        Route::Refuse(Outcome::RefusedUnknown)
    }
}

/// The decision of the connect and sendmsg hooks about a datagram under
/// `udp = "refuse"`: the mesh carries TCP only, so what an enrolled workload
/// would send to it in the clear is refused. Unknown namespaces pass: they may
/// be asking for names before anybody had a chance to classify them.
#[inline(always)]
pub fn datagram(around: &impl Surroundings, to: Endpoint) -> Verdict {
    match route(around, to) {
        Route::Pass(why) => Verdict::Pass(why),
        Route::Refuse(Outcome::RefusedUnknown) => Verdict::Pass(Outcome::PassedUnknown),
        Route::Refuse(_) | Route::Mesh { .. } => Verdict::Refuse(Outcome::RefusedUdp),
    }
}

/// Place of a workload's `nth` listener of a kind.
#[inline(always)]
pub const fn slot(netns: &Netns, kind: u32, nth: u32) -> u32 {
    netns.slot_base + kind * netns.spread + nth
}

/// Which of `spread` listeners takes a connection from `remote`. Multiply and
/// shift: a division does not load.
#[inline(always)]
pub const fn nth(remote: Endpoint, spread: u32) -> u32 {
    ((crate::addr::hash(remote) as u64 * spread as u64) >> 32) as u32
}
