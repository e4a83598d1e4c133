//! The TCP connections of a namespace, and their end by force.

use super::*;

const SOCK_DESTROY: u16 = 21;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_DONE: u16 = 3;
const INET_DIAG_CGROUP_ID: u16 = 21;
const LISTEN: u8 = 10;
/// Bytes of an `inet_diag_msg` behind its id, before its attributes.
const FIGURES: usize = 20;
/// All but those that are over: TIME_WAIT and CLOSE.
const LIVING: u32 = !(1 << 6 | 1 << 7);

/// A TCP socket, as the kernel tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpSocket {
    /// Neither is ever v4-mapped.
    pub own: SocketAddr,
    pub peer: SocketAddr,
    /// The id of the cgroup that made it, where the kernel knows it.
    pub cgroup: Option<u64>,
    family: u8,
    id: [u8; ID],
}

/// Every TCP socket of a namespace that is not over.
#[derive(Clone, Debug, Default)]
pub struct Sockets {
    pub connections: Vec<TcpSocket>,
    pub listeners: Vec<SocketAddr>,
}

/// What came of the attempt to end connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cut {
    pub ended: usize,
    /// The kernel would not end them (CONFIG_INET_DIAG_DESTROY): they go on.
    pub left: usize,
}

/// Ends those connections of the namespace of which `is_to_end` says so, as if
/// their network had failed: ECONNABORTED at the application, RST to the peer.
pub fn cut(netns: &Netns, is_to_end: impl Fn(&TcpSocket, &Sockets) -> bool) -> io::Result<Cut> {
    let to_end = || -> io::Result<Vec<TcpSocket>> {
        let all = sockets(netns)?;
        let chosen = all.connections.iter().filter(|it| is_to_end(it, &all));
        Ok(chosen.cloned().collect())
    };
    let (ended, refused) = destroy(netns, &to_end()?)?;
    // One that was over by then is no failure.
    let left = if refused { to_end()?.len() } else { 0 };
    Ok(Cut { ended, left })
}

fn sockets(netns: &Netns) -> io::Result<Sockets> {
    let mut all = Sockets::default();
    for family in [AF_INET, AF_INET6] {
        let socket = netns.socket(Kind::SockDiag)?;
        let all_that_live = Request {
            kind: SOCK_DIAG_BY_FAMILY,
            flags: NLM_F_DUMP,
            family,
            states: LIVING,
            id: &[0; ID],
        };
        all_that_live.send(&socket)?;
        let mut answer = vec![0; 32 << 10];
        loop {
            let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
            if read(answer.get(..length).unwrap_or_default(), &mut all)? {
                break;
            }
        }
    }
    Ok(all)
}

/// How many have ended, and whether the kernel refused to end one.
fn destroy(netns: &Netns, sockets: &[TcpSocket]) -> io::Result<(usize, bool)> {
    let netlink = netns.socket(Kind::SockDiag)?;
    let (mut ended, mut refused) = (0, false);
    for &TcpSocket { family, ref id, .. } in sockets {
        let this_one = Request {
            kind: SOCK_DESTROY,
            flags: NLM_F_ACK,
            family,
            states: LIVING,
            id,
        };
        this_one.send(&netlink)?;
        let mut answer = [0; 512];
        let length = recv(netlink.as_raw_fd(), &mut answer, MsgFlags::empty())?;
        match errno(answer.get(..length).unwrap_or_default())? {
            None | Some(0) => ended += 1,
            // It has ended by itself.
            Some(libc::ENOENT) => {}
            Some(_) => refused = true,
        }
    }
    Ok((ended, refused))
}

/// Takes several messages, each a `nlmsghdr` and an `inet_diag_msg`. Whether
/// they were the last.
fn read(mut messages: &[u8], all: &mut Sockets) -> io::Result<bool> {
    while !messages.is_empty() {
        let (header, rest) = messages.split_first_chunk::<HEADER>().ok_or_else(short)?;
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]);
        let body = (length as usize).checked_sub(HEADER).ok_or_else(short)?;
        let (body, rest) = rest.split_at_checked(body).ok_or_else(short)?;
        match u16::from_ne_bytes([header[4], header[5]]) {
            SOCK_DIAG_BY_FAMILY => all.take(body).ok_or_else(short)?,
            // With tcp_diag missing this is where the kernel says so.
            NLMSG_DONE => match errno(messages)? {
                None | Some(0) => return Ok(true),
                Some(error) => return Err(io::Error::from_raw_os_error(error)),
            },
            _ => {
                let error = errno(messages)?.unwrap_or(libc::EPROTO);
                return Err(io::Error::from_raw_os_error(error));
            }
        }
        let padding = body.len().next_multiple_of(4) - body.len();
        messages = rest.get(padding..).unwrap_or_default();
    }
    Ok(false)
}

impl Sockets {
    fn take(&mut self, message: &[u8]) -> Option<()> {
        let ([family, state, ..], rest) = message.split_first_chunk::<4>()?;
        let (id, rest) = rest.split_first_chunk::<ID>()?;
        let port = |at: usize| u16::from_be_bytes([id[at], id[at + 1]]);
        let ip = |at: usize| -> Option<IpAddr> {
            let (sixteen, _) = id.get(at..)?.split_first_chunk::<16>()?;
            let (four, _) = sixteen.split_first_chunk::<4>()?;
            match *family {
                AF_INET => Some(IpAddr::from(*four)),
                AF_INET6 => Some(IpAddr::from(*sixteen).to_canonical()),
                _ => None,
            }
        };
        let own = SocketAddr::new(ip(4)?, port(0));
        if *state == LISTEN {
            self.listeners.push(own);
            return Some(());
        }
        self.connections.push(TcpSocket {
            own,
            peer: SocketAddr::new(ip(20)?, port(2)),
            cgroup: cgroup(rest.get(FIGURES..).unwrap_or_default()),
            family: *family,
            id: *id,
        });
        Some(())
    }
}

/// Among attributes, each an `nlattr` with what it heads.
fn cgroup(mut attributes: &[u8]) -> Option<u64> {
    loop {
        let (&[low, high, kind_low, kind_high], rest) = attributes.split_first_chunk()?;
        let length = usize::from(u16::from_ne_bytes([low, high])).checked_sub(4)?;
        if u16::from_ne_bytes([kind_low, kind_high]) == INET_DIAG_CGROUP_ID {
            return Some(u64::from_ne_bytes(*rest.get(..length)?.first_chunk()?));
        }
        attributes = rest.get(length.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
impl TcpSocket {
    pub fn for_tests(own: &str, peer: &str) -> Self {
        Self {
            own: own.parse().unwrap(),
            peer: peer.parse().unwrap(),
            cgroup: None,
            family: AF_INET,
            id: [0; ID],
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn listeners_and_both_ends_of_a_connection_are_seen() {
        for at in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(at).unwrap();
            let server = listener.local_addr().unwrap();
            let client = TcpStream::connect(server).unwrap();
            let _accepted = listener.accept().unwrap();
            let client = client.local_addr().unwrap();
            let all = sockets(&Netns::host().unwrap()).unwrap();
            let is = |own, peer| {
                let mut all = all.connections.iter();
                all.any(|it| (it.own, it.peer) == (own, peer))
            };
            assert!(is(server, client) && is(client, server), "{at}");
            let known = all.connections.iter().all(|it| it.cgroup.is_some());
            assert!(known, "Linux 5.8 tells the cgroup");
            assert!(all.listeners.contains(&server), "{at}");
        }
    }

    #[test]
    fn who_is_chosen_ends_and_nobody_else() {
        let here = Netns::host().unwrap();
        // The last one is a socket of IPv6 that speaks IPv4.
        for (at, to) in [
            ("127.0.0.1:0", "127.0.0.1"),
            ("[::1]:0", "::1"),
            ("[::]:0", "127.0.0.1"),
        ] {
            let listener = TcpListener::bind(at).unwrap();
            let port = listener.local_addr().unwrap().port();
            let server = SocketAddr::new(to.parse().unwrap(), port);
            let dial = || {
                let client = TcpStream::connect(server).unwrap();
                (client, listener.accept().unwrap().0)
            };
            let ((_chosen, mut cut_off), (_other, other)) = (dial(), dial());
            let end = cut_off.peer_addr().unwrap().port();
            let is_chosen = |it: &TcpSocket, _: &Sockets| it.own == server && it.peer.port() == end;
            let cut = cut(&here, is_chosen).unwrap();
            assert_eq!(cut, Cut { ended: 1, left: 0 }, "{at}");
            let error = cut_off.read(&mut [0]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted, "{at}");
            other.set_nonblocking(true).unwrap();
            let error = (&other).read(&mut [0]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "{at}");
        }
    }

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(HEADER + body.len()).unwrap();
        let mut message = length.to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.extend([0; 10]);
        message.extend(body);
        message
    }

    #[test]
    fn who_made_a_socket_is_found_among_attributes() {
        let (other, id) = ([5, 0, 8, 0, 1, 0, 0, 0], 4711_u64.to_ne_bytes());
        let mut attributes = other.to_vec();
        attributes.extend([12, 0, 21, 0]);
        attributes.extend(id);
        assert_eq!(cgroup(&attributes), Some(4711));
        for length in 0..attributes.len() {
            assert_eq!(cgroup(&attributes[..length]), None, "{length}");
        }
        assert_eq!(cgroup(&[0; 16]), None);
    }

    #[test]
    fn what_is_cut_short_is_an_error() {
        let mut body = vec![AF_INET, 1, 0, 0];
        body.extend([0; 52]);
        let mut message = message(SOCK_DIAG_BY_FAMILY, &body);
        let mut all = Sockets::default();
        assert!(!read(&message, &mut all).unwrap());
        assert_eq!(all.connections.len(), 1);
        for length in 1..message.len() {
            assert!(read(&message[..length], &mut all).is_err(), "{length}");
        }
        message[0..4].copy_from_slice(&3_u32.to_ne_bytes());
        assert!(read(&message, &mut all).is_err());
    }

    #[test]
    fn a_kernel_that_cannot_list_sockets_has_not_listed_none() {
        let done = |error: i32| {
            let done = message(NLMSG_DONE, &error.to_ne_bytes());
            read(&done, &mut Sockets::default())
        };
        assert!(done(0).unwrap());
        let error = done(-libc::ENOENT).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
    }
}
