//! What an application is told about the ends of its connection: the decisions
//! of the getpeername and getsockname hooks. accept() asks the first one too.

use crate::addr::{Endpoint, Ip};
use crate::maps::{FlowKey, Netns, Socket};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    /// What the kernel says is true.
    Keep,
    /// This instead.
    Tell(Endpoint),
    /// The daemon dialled this socket, but for whom is not known: an address
    /// that nobody has, for applications trust loopback.
    Unknown(Endpoint),
}

/// A socket's two ends as the kernel has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    pub local: Endpoint,
    pub peer: Endpoint,
}

/// Who is at the other end.
#[inline(always)]
pub fn peer(
    socket: Option<&Socket>,
    ends: Ends,
    enrolled: impl Fn() -> Option<u64>,
    client: impl Fn(&FlowKey) -> Option<Endpoint>,
) -> Name {
    if let Some(dialled) = socket.and_then(|socket| socket.dialled_through(ends.peer)) {
        return Name::Tell(dialled);
    }
    if !dialled_by_daemon(ends) {
        return Name::Keep;
    }
    let Some(cookie) = enrolled() else {
        return Name::Keep;
    };
    match client(&FlowKey::new(cookie, ends.peer, ends.local)) {
        Some(client) => Name::Tell(client),
        None => Name::Unknown(Endpoint {
            ip: if ends.peer.ip.is_v4() {
                Ip::UNSPECIFIED_V4
            } else {
                Ip::DISCARD_V6
            },
            port: 0,
        }),
    }
}

/// What is at this end: a captured socket has a loopback address, but its
/// application expects one of the pod's.
#[inline(always)]
pub fn own(socket: Option<&Socket>, ends: Ends, netns: impl Fn(u64) -> Option<Netns>) -> Name {
    let Some((socket, dialled)) =
        socket.and_then(|socket| Some((socket, socket.dialled_through(ends.peer)?)))
    else {
        return Name::Keep;
    };
    // Any other address was chosen by the application.
    if !ends.local.ip.is_loopback() {
        return Name::Keep;
    }
    let Some(netns) = netns(socket.cookie) else {
        return Name::Keep;
    };
    let ip = if dialled.ip.is_v4() {
        netns.primary_v4
    } else {
        netns.primary_v6
    };
    if ip.is_unspecified() {
        return Name::Keep;
    }
    Name::Tell(Endpoint {
        ip,
        port: ends.local.port,
    })
}

/// Over IPv4 the daemon dials from a range of its own. Over IPv6 it has only
/// ::1, from which nobody else reaches an address that is not ::1 without
/// binding to it on purpose.
#[inline(always)]
fn dialled_by_daemon(ends: Ends) -> bool {
    ends.peer.ip.is_dial_v4()
        || (ends.peer.ip == Ip::LOCALHOST_V6 && ends.local.ip != Ip::LOCALHOST_V6)
}
