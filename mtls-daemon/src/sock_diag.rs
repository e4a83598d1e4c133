//! Asking the kernel about sockets of a workload's namespace (sock_diag(7)).

mod connections;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::OnceLock;

use nix::sys::socket::{MsgFlags, NetlinkAddr, recv, sendto};

use crate::netns::{Kind, Netns};

pub use connections::{Cut, Sockets, TcpSocket, cut};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 1;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const TCP: u8 = 6;
/// Bytes of a `nlmsghdr`.
const HEADER: usize = 16;
/// Bytes of an `inet_diag_sockid`.
const ID: usize = 48;
/// Of a request: a header, 8 bytes of its own and an id.
const LENGTH: u32 = 72;

/// Whether a TCP socket that listens in the namespace would get a connection
/// from `from` to `to`.
pub fn listens(netns: &Netns, to: SocketAddr, from: SocketAddr) -> io::Result<bool> {
    // A kernel without tcp_diag answers that it finds nothing.
    static KNOWN_TO_FIND: OnceLock<bool> = OnceLock::new();
    let found = find(netns, to, from)?;
    if found || *KNOWN_TO_FIND.get_or_init(|| finds_a_listener().unwrap_or(false)) {
        return Ok(found);
    }
    Err(io::Error::new(
        io::ErrorKind::Unsupported,
        "the kernel has no tcp_diag (CONFIG_INET_TCP_DIAG)",
    ))
}

fn finds_a_listener() -> io::Result<bool> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let to = listener.local_addr()?;
    find(&Netns::host()?, to, to)
}

fn find(netns: &Netns, to: SocketAddr, from: SocketAddr) -> io::Result<bool> {
    let socket = netns.socket(Kind::SockDiag)?;
    let family = if to.is_ipv4() { AF_INET } else { AF_INET6 };
    // In whichever state: who is found is a listener, or else it is that
    // connection's own other end.
    let what = Request {
        kind: SOCK_DIAG_BY_FAMILY,
        flags: 0,
        family,
        states: u32::MAX,
        id: &id_of(to, from),
    };
    what.send(&socket)?;
    let mut answer = [0; 512];
    // The kernel answers before sendto() returns.
    let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    match errno(answer.get(..length).unwrap_or_default())? {
        None => Ok(true),
        Some(libc::ENOENT) => Ok(false),
        Some(error) => Err(io::Error::from_raw_os_error(error)),
    }
}

/// A `nlmsghdr` and an `inet_diag_req_v2` (linux/inet_diag.h).
struct Request<'a> {
    kind: u16,
    flags: u16,
    family: u8,
    /// A bit for each.
    states: u32,
    id: &'a [u8; ID],
}

impl Request<'_> {
    fn send(&self, netlink: &OwnedFd) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(LENGTH as usize);
        bytes.extend(LENGTH.to_ne_bytes());
        bytes.extend(self.kind.to_ne_bytes());
        bytes.extend((NLM_F_REQUEST | self.flags).to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend([self.family, TCP, 0, 0]);
        bytes.extend(self.states.to_ne_bytes());
        bytes.extend(self.id);
        let kernel = NetlinkAddr::new(0, 0);
        sendto(netlink.as_raw_fd(), &bytes, &kernel, MsgFlags::empty())?;
        Ok(())
    }
}

/// Of the socket at the end `own`, whichever it is: without a cookie.
fn id_of(own: SocketAddr, peer: SocketAddr) -> [u8; ID] {
    let mut id = [0; ID];
    let mut put = |at: usize, what: &[u8]| {
        for (place, byte) in id.iter_mut().skip(at).zip(what) {
            *place = *byte;
        }
    };
    put(0, &own.port().to_be_bytes());
    put(2, &peer.port().to_be_bytes());
    for (at, end) in [(4, own), (20, peer)] {
        match end.ip() {
            IpAddr::V4(v4) => put(at, &v4.octets()),
            IpAddr::V6(v6) => put(at, &v6.octets()),
        }
    }
    put(40, &[0xff; 8]);
    id
}

/// What a `nlmsghdr` with an error says, or one that ends a dump; `None` if it
/// is an answer.
fn errno(answer: &[u8]) -> io::Result<Option<i32>> {
    let (header, rest) = answer.split_first_chunk::<HEADER>().ok_or_else(short)?;
    let kind = u16::from_ne_bytes([header[4], header[5]]);
    if kind == SOCK_DIAG_BY_FAMILY {
        return Ok(None);
    }
    let (error, _) = rest.split_first_chunk::<4>().ok_or_else(short)?;
    Ok(Some(-i32::from_ne_bytes(*error)))
}

fn short() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "sock_diag answered too little")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_listens_is_found_by_both_families_and_nobody_else_is() {
        let here = Netns::host().unwrap();
        for at in ["127.0.0.1:0", "[::1]:0", "0.0.0.0:0", "[::]:0"] {
            let listener = TcpListener::bind(at).unwrap();
            let port = listener.local_addr().unwrap().port();
            let ip = match at.starts_with('[') {
                true => "::1".parse().unwrap(),
                false => IpAddr::from([127, 0, 0, 1]),
            };
            let (to, from) = (SocketAddr::new(ip, port), SocketAddr::new(ip, 9));
            assert!(listens(&here, to, from).unwrap(), "{at}");
            drop(listener);
            assert!(!listens(&here, to, from).unwrap(), "{at}, closed");
        }
    }

    #[test]
    fn a_listener_of_both_families_is_found_by_ipv4() {
        let here = Netns::host().unwrap();
        let listener = TcpListener::bind("[::]:0").unwrap();
        let to = SocketAddr::new([127, 0, 0, 1].into(), listener.local_addr().unwrap().port());
        assert!(listens(&here, to, "127.0.0.1:9".parse().unwrap()).unwrap());
    }

    #[test]
    fn a_short_answer_is_an_error() {
        assert!(errno(&[0; 15]).is_err());
        assert!(errno(&[0; 18]).is_err());
    }
}
