//! Network interfaces, asked of the kernel by rtnetlink(7): which addresses a
//! workload has, where the other end of its veth is, and what runs on that.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{MsgFlags, NetlinkAddr, recv, sendto};

use crate::netns::{Kind, Netns};

/// What is asked about an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Interface {
    pub(super) index: u32,
    pub(super) name: String,
    /// "veth", "ipvlan" and so on; empty for a device of hardware and for lo.
    pub(super) kind: String,
    /// Index of its other end, and the number that whoever asked has for that
    /// end's network namespace.
    pub(super) peer: Option<u32>,
    pub(super) peer_netns: Option<i32>,
    pub(super) native_xdp: bool,
}

/// Every address that is assigned in a namespace, but for loopback.
pub fn addresses(netns: &Netns) -> io::Result<Vec<IpAddr>> {
    let answers = Asking::about(netns)?.ask(RTM_GETADDR, NLM_F_DUMP, &[0; ADDRESS])?;
    let addresses = answers.iter().filter_map(|one| address(one));
    Ok(addresses.filter(|ip| !ip.is_loopback()).collect())
}

/// A socket that asks about one network namespace.
#[derive(Debug)]
pub(super) struct Asking(OwnedFd);

// From <linux/netlink.h>, <linux/rtnetlink.h>, <linux/if_link.h> and
// <linux/net_namespace.h>.
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP: u16 = 0x300;
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const RTM_GETNSID: u16 = 90;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINK: u16 = 5;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_XDP: u16 = 43;
const IFLA_XDP_ATTACHED: u16 = 2;
const XDP_ATTACHED_NATIVE: u8 = 1;
const XDP_ATTACHED_SEVERAL: u8 = 4;
const NETNSA_NSID: u16 = 1;
const NETNSA_FD: u16 = 3;
/// Bytes of a `nlmsghdr`, an `ifinfomsg`, an `ifaddrmsg` and a padded `rtgenmsg`.
const HEADER: usize = 16;
const LINK: usize = 16;
const ADDRESS: usize = 8;
const GENERIC: usize = 4;

impl Asking {
    pub(super) fn about(netns: &Netns) -> io::Result<Self> {
        netns.socket(Kind::Route).map(Self)
    }

    pub(super) fn all(&self) -> io::Result<Vec<Interface>> {
        let answers = self.ask(RTM_GETLINK, NLM_F_DUMP, &[0; LINK])?;
        Ok(answers.iter().filter_map(|one| interface(one)).collect())
    }

    pub(super) fn one(&self, index: u32) -> io::Result<Interface> {
        let mut body = [0; LINK];
        body[4..8].copy_from_slice(&index.to_ne_bytes());
        let answers = self.ask(RTM_GETLINK, 0, &body)?;
        let found = answers.iter().find_map(|one| interface(one));
        found.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// The number that this namespace has for another one, if it has any.
    pub(super) fn number_of(&self, netns: BorrowedFd<'_>) -> io::Result<Option<i32>> {
        let mut body = vec![0; GENERIC];
        body.extend(8_u16.to_ne_bytes());
        body.extend(NETNSA_FD.to_ne_bytes());
        body.extend(netns.as_raw_fd().to_ne_bytes());
        let answers = self.ask(RTM_GETNSID, 0, &body)?;
        let attributes = answers.first().and_then(|one| one.get(HEADER + GENERIC..));
        let number = find(attributes.unwrap_or_default(), NETNSA_NSID).and_then(number);
        Ok(number.map(u32::cast_signed).filter(|number| *number >= 0))
    }

    /// The messages that answer a request, each with its header.
    fn ask(&self, kind: u16, flags: u16, body: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        let length = u32::try_from(HEADER + body.len()).unwrap_or(0);
        let mut request = Vec::with_capacity(HEADER + body.len());
        request.extend(length.to_ne_bytes());
        request.extend(kind.to_ne_bytes());
        request.extend((flags | NLM_F_REQUEST).to_ne_bytes());
        request.extend([0; 8]);
        request.extend(body);
        let to = NetlinkAddr::new(0, 0);
        sendto(self.0.as_raw_fd(), &request, &to, MsgFlags::empty())?;
        let mut answers = Vec::new();
        let mut buffer = vec![0; 64 << 10];
        loop {
            let length = recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            let mut rest = buffer.get(..length).unwrap_or_default();
            while let Some((message, behind)) = first(rest) {
                match u16_at(message, 4) {
                    Some(NLMSG_DONE) => return Ok(answers),
                    Some(NLMSG_ERROR) => {
                        let error = message.get(HEADER..).and_then(number).unwrap_or(0);
                        return match error.cast_signed() {
                            0 => Ok(answers),
                            error => Err(io::Error::from_raw_os_error(-error)),
                        };
                    }
                    _ => answers.push(message.to_vec()),
                }
                rest = behind;
            }
            if flags & NLM_F_DUMP == 0 {
                return Ok(answers);
            }
        }
    }
}

/// The first of several messages, and the rest.
fn first(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = usize::try_from(number(bytes)?).ok()?;
    if length < HEADER {
        return None;
    }
    let message = bytes.get(..length)?;
    Some((
        message,
        bytes.get(length.next_multiple_of(4)..).unwrap_or_default(),
    ))
}

fn interface(message: &[u8]) -> Option<Interface> {
    if u16_at(message, 4) != Some(RTM_NEWLINK) {
        return None;
    }
    let attributes = message.get(HEADER + LINK..)?;
    let text = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        text.trim_end_matches('\0').to_owned()
    };
    let kind = find(attributes, IFLA_LINKINFO).and_then(|info| find(info, IFLA_INFO_KIND));
    let xdp = find(attributes, IFLA_XDP).and_then(|xdp| find(xdp, IFLA_XDP_ATTACHED));
    let xdp = xdp.and_then(|xdp| xdp.first());
    Some(Interface {
        index: number(message.get(HEADER + 4..)?)?,
        name: find(attributes, IFLA_IFNAME).map(text).unwrap_or_default(),
        kind: kind.map(text).unwrap_or_default(),
        peer: find(attributes, IFLA_LINK).and_then(number),
        peer_netns: find(attributes, IFLA_LINK_NETNSID)
            .and_then(number)
            .map(u32::cast_signed),
        native_xdp: matches!(xdp, Some(&(XDP_ATTACHED_NATIVE | XDP_ATTACHED_SEVERAL))),
    })
}

fn address(message: &[u8]) -> Option<IpAddr> {
    if u16_at(message, 4) != Some(RTM_NEWADDR) {
        return None;
    }
    let attributes = message.get(HEADER + ADDRESS..)?;
    // With a peer, IFA_ADDRESS is the peer's.
    let own = find(attributes, IFA_LOCAL).or_else(|| find(attributes, IFA_ADDRESS))?;
    let v4 = <[u8; 4]>::try_from(own).map(IpAddr::from);
    v4.or_else(|_longer| <[u8; 16]>::try_from(own).map(IpAddr::from))
        .ok()
}

/// The value of an attribute.
fn find(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    /// Flags of nesting and of byte order.
    const KIND: u16 = 0x3fff;
    loop {
        let length = usize::from(u16_at(attributes, 0)?);
        let kind = u16_at(attributes, 2)? & KIND;
        let value = attributes.get(4..length)?;
        if kind == wanted {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let two = bytes.get(at..)?.first_chunk::<2>()?;
    Some(u16::from_ne_bytes(*two))
}

fn number(bytes: &[u8]) -> Option<u32> {
    bytes
        .first_chunk::<4>()
        .map(|four| u32::from_ne_bytes(*four))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netns::Netns;
    use std::os::fd::AsFd;

    #[test]
    fn the_loopback_is_found_by_its_index() {
        let asking = Asking::about(&Netns::host().unwrap()).unwrap();
        let all = asking.all().unwrap();
        let lo = all.iter().find(|one| one.index == 1).unwrap();
        assert_eq!(
            (lo.name.as_str(), lo.kind.as_str(), lo.peer),
            ("lo", "", None)
        );
        assert_eq!(asking.one(1).unwrap(), *lo);
        assert!(asking.one(u32::MAX / 2).is_err());
        let host = Netns::host().unwrap();
        assert!(asking.number_of(host.as_fd()).is_ok());
    }

    #[test]
    fn whatever_the_bytes_nothing_is_read_past_their_end() {
        let whole: Vec<u8> = (0..=255).collect();
        for length in 0..whole.len() {
            let bytes = &whole[..length];
            assert!(find(bytes, 7).is_none_or(|value| value.len() <= length));
            assert!(first(bytes).is_none_or(|(message, _)| message.len() <= length));
            let _ = interface(bytes);
        }
        assert_eq!(find(&[3, 0, 7, 0], 7), None, "shorter than its own header");
        assert_eq!(find(&[0; 8], 7), None, "of no length");
    }
}
