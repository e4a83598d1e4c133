//! What may leave an enrolled workload through its veth. The hooks of the
//! cgroup see the sockets that are in it; this sees every frame, whoever made
//! it: a packet socket, a raw one, a socket of another cgroup. It judges the
//! sender, so that a forged port or address gains nothing.

use crate::addr::{Endpoint, Ip};
use crate::counters::Outcome;
use crate::gate::Gate;
use crate::maps::{EXCLUDED, MESH, Netns, NetworkKey, PortKey};
use crate::probe::ProbeKey;

/// A frame, read from the network header on.
pub trait Frame {
    /// What follows the Ethernet header.
    fn ethertype(&self) -> u16;
    /// Bytes from the network header to the end.
    fn length(&self) -> u32;
    fn load<const N: usize>(&self, at: u32) -> Option<[u8; N]>;
}

/// What the decision may ask for.
pub trait Leaving {
    fn netns(&self) -> Option<(u64, Netns)>;
    /// Whether `PORTS` has it, under one of [`PortKey`]'s directions.
    fn port_is(&self, cookie: u64, port: u16, direction: u16) -> bool;
    fn networks(&self, cookie: u64, ip: Ip) -> u32;
    fn pass_outside(&self) -> bool;
    fn pass_unknown(&self) -> bool;
    fn probed(&self, cookie: u64, probe: &ProbeKey) -> bool;
}

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Nothing that the mesh carries: ARP, ICMP, UDP and the like.
    Other,
    Tcp(Segment),
    /// It may be TCP, and nobody can tell: a fragment, a header that is cut
    /// short, a chain of headers too long to follow, a tag in a tag.
    Unseen,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    pub from: Endpoint,
    pub to: Endpoint,
    /// It asks for a connection.
    pub opens: bool,
    /// It has bytes behind its header.
    pub carries: bool,
}

const IPV4: u16 = 0x0800;
const ARP: u16 = 0x0806;
const IPV6: u16 = 0x86dd;
const TCP: u8 = 6;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const SHORTEST: u32 = 20;

/// Of whoever is not the daemon. Only what opens a connection or carries bytes
/// is stopped: the kernel answers for a closed port, or ends a connection, by
/// segments without any, from sockets that belong to nobody.
#[inline(always)]
pub fn leaving(around: &impl Leaving, content: Content) -> Gate {
    let segment = match content {
        Content::Other => return Gate::Pass(Outcome::PassedExempt),
        Content::Tcp(segment) if !segment.opens && !segment.carries => {
            return Gate::Pass(Outcome::PassedExempt);
        }
        Content::Tcp(segment) => Some(segment),
        Content::Unseen => None,
    };
    let Some((cookie, netns)) = around.netns() else {
        return if around.pass_unknown() {
            Gate::Pass(Outcome::PassedUnknown)
        } else {
            Gate::Drop(Outcome::RefusedUnknown)
        };
    };
    if netns.standing != Netns::ENROLLED {
        return Gate::Pass(Outcome::PassedNotEnrolled);
    }
    // New connections in clear are the daemon's. These are older than the
    // workload's enrolment, and go on as long as their like may be made.
    let in_clear = match segment {
        Some(Segment { from, opens, .. }) if !opens => {
            netns.takes_plaintext(|direction| around.port_is(cookie, from.port, direction))
        }
        _ => netns.flags & Netns::PERMISSIVE != 0,
    };
    if in_clear {
        return Gate::Pass(Outcome::PassedPermissive);
    }
    match segment {
        Some(segment) => tcp(around, cookie, &netns, &segment),
        None => Gate::Drop(Outcome::Dropped),
    }
}

#[inline(always)]
fn tcp(around: &impl Leaving, cookie: u64, netns: &Netns, segment: &Segment) -> Gate {
    let to = segment.to;
    let excluded = |port, direction| around.port_is(cookie, port, direction);
    if netns.flags & Netns::HAS_PORTS_OUT != 0 && excluded(to.port, PortKey::OUT) {
        return Gate::Pass(Outcome::PassedExcluded);
    }
    // What the application says to whom it let in in clear.
    let answers = !segment.opens;
    if answers && netns.flags & Netns::HAS_PORTS_IN != 0 && excluded(segment.from.port, PortKey::IN)
    {
        return Gate::Pass(Outcome::PassedExcluded);
    }
    if netns.flags & Netns::HAS_NETWORKS != 0 && around.networks(cookie, to.ip) & EXCLUDED != 0 {
        return Gate::Pass(Outcome::PassedExcluded);
    }
    let network = around.networks(NetworkKey::NODE, to.ip);
    if network & EXCLUDED != 0 {
        return Gate::Pass(Outcome::PassedExcluded);
    }
    // The prober's own connection, in its own direction.
    if answers && around.probed(cookie, &ProbeKey::new(to, segment.from)) {
        return Gate::Pass(Outcome::PassedProbe);
    }
    // Nothing honest leaves for a loopback.
    if network & MESH == 0 && !to.ip.is_loopback() && around.pass_outside() {
        return Gate::Pass(Outcome::PassedOutside);
    }
    Gate::Drop(Outcome::Dropped)
}

#[inline(always)]
pub fn content(frame: &impl Frame) -> Content {
    match frame.ethertype() {
        IPV4 => v4(frame),
        IPV6 => v6(frame),
        ARP => Content::Other,
        _ => Content::Unseen,
    }
}

#[inline(always)]
fn v4(frame: &impl Frame) -> Content {
    let Some(header) = frame.load::<20>(0) else {
        return Content::Unseen;
    };
    let length = u32::from(header[0] & 0xf) * 4;
    if header[0] >> 4 != 4 || length < SHORTEST {
        return Content::Unseen;
    }
    if header[9] != TCP {
        return Content::Other;
    }
    let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff;
    if fragment != 0 {
        return Content::Unseen;
    }
    let ip = |at: usize| {
        Ip::v4(u32::from_ne_bytes([
            header[at],
            header[at + 1],
            header[at + 2],
            header[at + 3],
        ]))
    };
    segment(frame, length, ip(12), ip(16))
}

#[inline(always)]
fn v6(frame: &impl Frame) -> Content {
    let (Some(first), Some(from), Some(to)) = (
        frame.load::<8>(0),
        frame.load::<16>(8),
        frame.load::<16>(24),
    ) else {
        return Content::Unseen;
    };
    if first[0] >> 4 != 6 {
        return Content::Unseen;
    }
    let mut next = first[6];
    let mut at = 40;
    // A sender may chain extension headers; nobody honest needs more than four.
    for _ in 0..4 {
        let words = match next {
            TCP => return segment(frame, at, ip(from), ip(to)),
            // Hop-by-hop, routing, destination options, mobility, HIP, shim6;
            // fragment; authentication.
            0 | 43 | 60 | 135 | 139 | 140 | 44 | 51 => frame.load::<4>(at),
            _ => return Content::Other,
        };
        let Some([following, words, high, low]) = words else {
            return Content::Unseen;
        };
        let length = match next {
            44 => {
                // One that is no fragment at all is common with translators.
                if u16::from_be_bytes([high, low]) & 0xfff9 != 0 {
                    return if is_carried(following) {
                        Content::Unseen
                    } else {
                        Content::Other
                    };
                }
                8
            }
            51 => (u32::from(words) + 2) * 4,
            _ => (u32::from(words) + 1) * 8,
        };
        next = following;
        at += length;
    }
    Content::Unseen
}

/// What may be TCP further on.
#[inline(always)]
const fn is_carried(next: u8) -> bool {
    matches!(next, TCP | 0 | 43 | 60 | 135 | 139 | 140 | 44 | 51)
}

#[inline(always)]
fn ip(bytes: [u8; 16]) -> Ip {
    let word =
        |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    Ip([word(0), word(4), word(8), word(12)])
}

#[inline(always)]
fn segment(frame: &impl Frame, at: u32, from: Ip, to: Ip) -> Content {
    let Some(header) = frame.load::<14>(at) else {
        return Content::Unseen;
    };
    let length = u32::from(header[12] >> 4) * 4;
    if length < SHORTEST {
        return Content::Unseen;
    }
    let port = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    Content::Tcp(Segment {
        from: Endpoint {
            ip: from,
            port: port(0),
        },
        to: Endpoint {
            ip: to,
            port: port(2),
        },
        opens: header[13] & (SYN | ACK) == SYN,
        // By the frame, not by what its headers say: what is behind them is on
        // the wire. A veth pads nothing.
        carries: frame.length() > at + length,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bytes(u16, Vec<u8>);

    impl Frame for Bytes {
        fn ethertype(&self) -> u16 {
            self.0
        }

        fn length(&self) -> u32 {
            u32::try_from(self.1.len()).unwrap()
        }

        fn load<const N: usize>(&self, at: u32) -> Option<[u8; N]> {
            let at = usize::try_from(at).unwrap();
            self.1.get(at..at + N)?.try_into().ok()
        }
    }

    fn tcp_header(flags: u8) -> Vec<u8> {
        let mut header = vec![0x9c, 0x40, 0x1f, 0x90];
        header.extend([0; 8]);
        header.extend([0x50, flags, 0, 0, 0, 0, 0, 0]);
        header
    }

    fn v4(protocol: u8, fragment: u16, behind: &[u8]) -> Bytes {
        let mut bytes = vec![0x45, 0, 0, 0, 0, 0];
        bytes.extend(fragment.to_be_bytes());
        bytes.extend([64, protocol, 0, 0, 10, 0, 1, 10, 10, 0, 2, 10]);
        bytes.extend(behind);
        Bytes(IPV4, bytes)
    }

    fn v6(next: u8, behind: &[u8]) -> Bytes {
        let mut bytes = vec![0x60, 0, 0, 0, 0, 0, next, 64];
        bytes.extend([0xfd; 16]);
        bytes.extend([0xfc; 16]);
        bytes.extend(behind);
        Bytes(IPV6, bytes)
    }

    fn tcp_of(frame: &Bytes) -> Segment {
        match content(frame) {
            Content::Tcp(segment) => segment,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn finds_tcp_where_it_is() {
        let segment = tcp_of(&v4(TCP, 0x4000, &tcp_header(SYN)));
        assert!(segment.opens && !segment.carries);
        assert_eq!((segment.from.port, segment.to.port), (40_000, 8080));
        let data = [tcp_header(ACK), b"x".to_vec()].concat();
        let segment = tcp_of(&v4(TCP, 0, &data));
        assert!(!segment.opens && segment.carries);

        let segment = tcp_of(&v6(TCP, &tcp_header(SYN | ACK)));
        assert!(!segment.opens && !segment.carries);
        let behind_options = [vec![TCP, 0, 0, 0, 0, 0, 0, 0], tcp_header(SYN)].concat();
        assert!(tcp_of(&v6(60, &behind_options)).opens);
        let no_fragment = [vec![TCP, 0, 0, 0, 1, 2, 3, 4], tcp_header(SYN)].concat();
        assert!(tcp_of(&v6(44, &no_fragment)).opens);
    }

    #[test]
    fn what_hides_is_not_seen_and_what_is_no_tcp_is_other() {
        for hidden in [
            v4(TCP, 0x2000, &tcp_header(ACK)),
            v4(TCP, 1, b"later fragment"),
            v4(TCP, 0, b"short"),
            v4(TCP, 0, &[0; 20]),
            v6(44, &[TCP, 0, 0, 1, 0, 0, 0, 0]),
            v6(44, &[60, 0, 0, 8, 0, 0, 0, 0]),
            v6(60, &[60, 0, 0, 0, 0, 0, 0, 0].repeat(5)),
            v6(60, &[TCP]),
            Bytes(IPV4, vec![0x44; 40]),
            Bytes(IPV6, vec![0x45; 60]),
            Bytes(IPV4, vec![0x45; 19]),
            Bytes(0x8100, vec![0; 60]),
            Bytes(0x8864, vec![0; 60]),
        ] {
            assert_eq!(content(&hidden), Content::Unseen, "{:x?}", hidden.1);
        }
        for other in [
            v4(17, 0, b"datagram"),
            v4(1, 0, b"echo"),
            v4(17, 1, b"fragment"),
            v6(58, b"neighbour"),
            v6(44, &[17, 0, 0, 1, 0, 0, 0, 0]),
            Bytes(ARP, vec![0; 28]),
        ] {
            assert_eq!(content(&other), Content::Other, "{:x?}", other.1);
        }
    }
}
