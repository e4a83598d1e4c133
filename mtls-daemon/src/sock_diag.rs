//! Asking the kernel about sockets of a workload's namespace (sock_diag(7)).

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::OnceLock;

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

use crate::netns::Netns;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 1;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const TCP: u8 = 6;
/// Bytes of a `nlmsghdr`.
const HEADER: usize = 16;
/// And of an `inet_diag_req_v2` behind it.
const REQUEST: u32 = 72;

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
    let socket = netns.sockets(netlink)?;
    let request = request(to, from);
    sendto(
        socket.as_raw_fd(),
        &request,
        &NetlinkAddr::new(0, 0),
        MsgFlags::empty(),
    )?;
    let mut answer = [0; 512];
    // The kernel answers before sendto() returns.
    let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    match errno(answer.get(..length).unwrap_or_default())? {
        None => Ok(true),
        Some(libc::ENOENT) => Ok(false),
        Some(error) => Err(io::Error::from_raw_os_error(error)),
    }
}

fn netlink() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let (family, kind) = (AddressFamily::Netlink, SockType::Datagram);
    Ok(socket(family, kind, flags, SockProtocol::NetlinkSockDiag)?)
}

/// A `nlmsghdr` and an `inet_diag_req_v2` for one socket (linux/inet_diag.h).
/// Its source is the end of the socket that is asked for.
fn request(to: SocketAddr, from: SocketAddr) -> [u8; REQUEST as usize] {
    let mut bytes = [0; REQUEST as usize];
    let mut put = |at: usize, what: &[u8]| {
        for (place, byte) in bytes.iter_mut().skip(at).zip(what) {
            *place = *byte;
        }
    };
    put(0, &REQUEST.to_ne_bytes());
    put(4, &SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    put(6, &NLM_F_REQUEST.to_ne_bytes());
    let family = if to.is_ipv4() { AF_INET } else { AF_INET6 };
    put(HEADER, &[family, TCP]);
    // In whichever state: who is found is a listener, or else it is that
    // connection's own other end.
    put(HEADER + 4, &u32::MAX.to_ne_bytes());
    put(HEADER + 8, &to.port().to_be_bytes());
    put(HEADER + 10, &from.port().to_be_bytes());
    for (at, end) in [(12, to), (28, from)] {
        match end.ip() {
            IpAddr::V4(v4) => put(HEADER + at, &v4.octets()),
            IpAddr::V6(v6) => put(HEADER + at, &v6.octets()),
        }
    }
    // Any socket of these ends: no cookie.
    put(HEADER + 48, &[0xff; 8]);
    bytes
}

/// What a `nlmsghdr` with an error says; `None` if it is an answer.
fn errno(answer: &[u8]) -> io::Result<Option<i32>> {
    let short = || io::Error::new(io::ErrorKind::InvalidData, "sock_diag answered too little");
    let (header, rest) = answer.split_first_chunk::<HEADER>().ok_or_else(short)?;
    let kind = u16::from_ne_bytes([header[4], header[5]]);
    if kind == SOCK_DIAG_BY_FAMILY {
        return Ok(None);
    }
    let (error, _) = rest.split_first_chunk::<4>().ok_or_else(short)?;
    Ok(Some(-i32::from_ne_bytes(*error)))
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
