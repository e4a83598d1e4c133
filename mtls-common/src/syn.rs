//! The SYN of a captured connection that the egress gate holds back: what the
//! ring buffer `HELD` carries of it, and the two answers that end the wait. The
//! packet itself lets the kernel go on with connect(), RST|ACK refuses it.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::addr::{Endpoint, Ip};

/// Longest SYN that is held: an IPv6 header and a TCP header with all the
/// options that it can have. A longer one carries data (TCP fast open) and is
/// not held.
pub const LONGEST: usize = 100;
const WORDS: usize = LONGEST / 4;

/// What the ring buffer `HELD` carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Held {
    pub cookie: u64,
    /// What the application dialled.
    pub dialled: Ip,
    pub dialled_port: u16,
    /// Bytes of the packet, whose IP header comes first.
    pub length: u16,
    /// As they stand in memory.
    pub packet: [u32; WORDS],
}

impl Held {
    pub const SIZE: usize = size_of::<Self>();

    #[inline(always)]
    pub const fn new(cookie: u64, dialled: Endpoint, length: u16) -> Self {
        Self {
            cookie,
            dialled: dialled.ip,
            dialled_port: dialled.port,
            length,
            packet: [0; WORDS],
        }
    }

    /// As it comes out of the ring buffer, where nothing says how it is aligned.
    pub const fn from_bytes(bytes: [u8; Self::SIZE]) -> Self {
        // SAFETY: integers only, without padding, of just this size.
        #[expect(unsafe_code, reason = "plain data arrives as bytes")]
        unsafe {
            core::mem::transmute(bytes)
        }
    }
}

/// A SYN without data, well-formed up to its options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Syn {
    packet: [u8; LONGEST],
    length: usize,
    /// Bytes of the IP header.
    header: usize,
    source: SocketAddr,
    target: SocketAddr,
}

const TCP: u8 = 6;
const FIN_SYN_RST_ACK: u8 = 0x17;
const SYN: u8 = 0x02;
const RST_ACK: u8 = 0x14;
const TCP_HEADER: usize = 20;

impl Syn {
    /// `None`: it is no such packet, and nobody can answer it.
    pub fn parse(held: &Held) -> Option<Self> {
        let mut packet = [0; LONGEST];
        for (to, word) in packet.chunks_exact_mut(4).zip(held.packet) {
            to.copy_from_slice(&word.to_ne_bytes());
        }
        let length = usize::from(held.length);
        let header = header(&packet)?;
        let (protocol, source, target) = if is_v6(&packet) {
            let ip = |at| IpAddr::V6(Ipv6Addr::from(bytes::<16>(&packet, at)));
            (packet[6], ip(8), ip(24))
        } else {
            let ip = |at| IpAddr::V4(Ipv4Addr::from(bytes::<4>(&packet, at)));
            (packet[9], ip(12), ip(16))
        };
        let tcp = packet.get(header..length)?;
        let flags = *tcp.get(13)? & FIN_SYN_RST_ACK;
        let options_end = usize::from(*tcp.get(12)? >> 4) * 4;
        if protocol != TCP || flags != SYN || options_end != tcp.len() || tcp.len() < TCP_HEADER {
            return None;
        }
        let port = |at| u16::from_be_bytes(bytes(tcp, at));
        Some(Self {
            source: SocketAddr::new(source, port(0)),
            target: SocketAddr::new(target, port(2)),
            packet,
            length,
            header,
        })
    }

    /// The application's end.
    pub const fn source(&self) -> SocketAddr {
        self.source
    }

    /// The capture address.
    pub const fn target(&self) -> SocketAddr {
        self.target
    }

    /// Tells this attempt to connect from a later one of the same two ends.
    pub fn sequence(&self) -> u32 {
        u32::from_be_bytes(bytes(&self.packet, self.header + 4))
    }

    /// The packet with its checksum, which on loopback it had not yet.
    pub fn whole(&self) -> Packet {
        let mut packet = Packet {
            bytes: self.packet,
            length: self.length,
            to: self.target.ip(),
        };
        packet.sum(self.header);
        packet
    }

    /// RST|ACK from the capture address: connect() fails with ECONNREFUSED.
    pub fn refusal(&self) -> Packet {
        let header = self.header;
        let mut bytes = [0; LONGEST];
        bytes[..header].copy_from_slice(&self.packet[..header]);
        let (from, into, size) = if self.source.is_ipv4() {
            (12, 16, 4)
        } else {
            (8, 24, 16)
        };
        bytes[from..from + size].copy_from_slice(&self.packet[into..into + size]);
        bytes[into..into + size].copy_from_slice(&self.packet[from..from + size]);
        let length = header + TCP_HEADER;
        if self.source.is_ipv4() {
            // The kernel writes length, identification and checksum.
            bytes[4..6].fill(0);
        } else {
            bytes[4..6].copy_from_slice(&20_u16.to_be_bytes());
        }
        let tcp = &mut bytes[header..length];
        tcp[..2].copy_from_slice(&self.target.port().to_be_bytes());
        tcp[2..4].copy_from_slice(&self.source.port().to_be_bytes());
        let next = self.sequence().wrapping_add(1);
        tcp[8..12].copy_from_slice(&next.to_be_bytes());
        tcp[12] = 5 << 4;
        tcp[13] = RST_ACK;
        let to = self.source.ip();
        let mut packet = Packet { bytes, length, to };
        packet.sum(header);
        packet
    }
}

const fn is_v6(packet: &[u8; LONGEST]) -> bool {
    packet[0] >> 4 == 6
}

/// Bytes of the IP header.
fn header(packet: &[u8; LONGEST]) -> Option<usize> {
    match (packet[0] >> 4, packet[0] & 0xf) {
        (4, words @ 5..) => Some(usize::from(words) * 4),
        (6, _) => Some(40),
        _ => None,
    }
}

/// `N` bytes at `at`, which the caller knows to be there.
fn bytes<const N: usize>(of: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    if let Some(from) = of.get(at..at + N) {
        out.copy_from_slice(from);
    }
    out
}

/// A packet to be sent as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    bytes: [u8; LONGEST],
    length: usize,
    to: IpAddr,
}

impl Packet {
    pub const fn to(&self) -> IpAddr {
        self.to
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// Writes TCP's checksum, over its header and the addresses.
    fn sum(&mut self, header: usize) {
        let at = header + 16;
        self.bytes[at..at + 2].fill(0);
        let addresses = if is_v6(&self.bytes) {
            &self.bytes[8..40]
        } else {
            &self.bytes[12..20]
        };
        let tcp = &self.bytes[header..self.length];
        let words = |of: &[u8]| -> u32 {
            of.chunks_exact(2)
                .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
                .sum()
        };
        #[expect(clippy::cast_possible_truncation, reason = "at most 80 bytes")]
        let mut sum = words(addresses) + words(tcp) + u32::from(TCP) + tcp.len() as u32;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        #[expect(clippy::cast_possible_truncation, reason = "folded to 16 bits")]
        let sum = !(sum as u16);
        self.bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }
}
