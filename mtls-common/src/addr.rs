//! Addresses as the maps hold them, and the ranges that the mesh uses for
//! itself inside of a workload's network namespace.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// IPv6 as it is, IPv4 in its mapped form, as four words in network byte
/// order: one type of key for both families, so that no hook can forget one.
/// Words and not bytes, because BPF would copy bytes one at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(target_arch = "bpf"), derive(Hash))]
#[repr(C)]
pub struct Ip(pub [u32; 4]);

/// An address and a port; the port in host byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(target_arch = "bpf"), derive(Hash))]
pub struct Endpoint {
    pub ip: Ip,
    pub port: u16,
}

/// A captured IPv4 connection goes to an address of 127.64.0.0/10; the 22 low
/// bits are a hash of the destination, so that the connections of a workload
/// to different destinations do not share one supply of source ports.
pub const CAPTURE_NETWORK_V4: Ipv4Addr = Ipv4Addr::new(127, 64, 0, 0);

/// The daemon dials an application from an address of 127.128.0.0/10.
pub const DIAL_NETWORK_V4: Ipv4Addr = Ipv4Addr::new(127, 128, 0, 0);

/// Both networks are /10: 22 bits are free.
pub const HASH_BITS: u32 = 22;

/// The first of 64 ports of a block that IANA has assigned to nobody. Captured
/// IPv4 connections all use this one: keeping the application's port would
/// make that port look taken to an application that wants to listen on it
/// (seen on Linux 6.18).
pub const CAPTURE_PORT: u16 = 29184;

/// A captured connection of a socket that cannot use IPv4 goes to ::1, which
/// has no 22 bits to spare: the hash picks one of this many ports instead.
pub const CAPTURE_PORTS_V6: u16 = 64;

const HASH_MASK: u32 = (1 << HASH_BITS) - 1;
const MAPPED: u32 = 0xffff_u32.to_be();

impl Ip {
    pub const UNSPECIFIED_V4: Self = Self::v4(0);
    pub const UNSPECIFIED_V6: Self = Self([0; 4]);
    pub const LOCALHOST_V6: Self = Self([0, 0, 0, 1_u32.to_be()]);
    /// 100::, of the discard-only network: an address that nobody has.
    pub const DISCARD_V6: Self = Self([0x0100_0000_u32.to_be(), 0, 0, 0]);

    /// From the word that the kernel's contexts hold: network byte order.
    #[inline(always)]
    pub const fn v4(word: u32) -> Self {
        Self([0, 0, MAPPED, word])
    }

    /// IPv4, or IPv6 that stands for it.
    #[inline(always)]
    pub const fn is_v4(self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == MAPPED
    }

    #[inline(always)]
    pub fn is_loopback(self) -> bool {
        if self.is_v4() {
            self.host_word() >> 24 == 127
        } else {
            self == Self::LOCALHOST_V6
        }
    }

    /// 0.0.0.0 and ::, which connect() takes for loopback.
    #[inline(always)]
    pub fn is_unspecified(self) -> bool {
        self == Self::UNSPECIFIED_V6 || self == Self::UNSPECIFIED_V4
    }

    /// Where captured IPv4 connections go.
    #[inline(always)]
    pub const fn is_capture_v4(self) -> bool {
        self.is_v4() && self.host_word() & !HASH_MASK == CAPTURE_NETWORK_V4.to_bits()
    }

    /// Where the daemon dials applications from, over IPv4.
    #[inline(always)]
    pub const fn is_dial_v4(self) -> bool {
        self.is_v4() && self.host_word() & !HASH_MASK == DIAL_NETWORK_V4.to_bits()
    }

    #[inline(always)]
    const fn host_word(self) -> u32 {
        u32::from_be(self.0[3])
    }
}

/// Whether captured connections to ::1 use this port.
#[inline(always)]
pub const fn is_capture_port_v6(port: u16) -> bool {
    port & !(CAPTURE_PORTS_V6 - 1) == CAPTURE_PORT
}

/// Where a connection to `original` goes instead.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the remainder is below 64")]
pub fn capture_endpoint(original: Endpoint, only_v6: bool) -> Endpoint {
    let hash = hash(original);
    if only_v6 {
        Endpoint {
            ip: Ip::LOCALHOST_V6,
            port: CAPTURE_PORT + (hash % CAPTURE_PORTS_V6 as u32) as u16,
        }
    } else {
        let word = CAPTURE_NETWORK_V4.to_bits() | (hash & HASH_MASK);
        Endpoint {
            ip: Ip::v4(word.to_be()),
            port: CAPTURE_PORT,
        }
    }
}

/// An address of 127.128.0.0/10 that stands for a client; `attempt` gives
/// another one when the first cannot be used.
pub fn dial_address(client: IpAddr, attempt: u16) -> Ipv4Addr {
    let hash = hash(Endpoint {
        ip: client.into(),
        port: attempt,
    });
    Ipv4Addr::from_bits(DIAL_NETWORK_V4.to_bits() | (hash & HASH_MASK))
}

/// Spreads every bit of an address and a port over a word: the finalizer of
/// MurmurHash3 after each word. Whoever can choose colliding destinations only
/// slows down itself, so no key is needed.
#[inline(always)]
pub const fn hash(of: Endpoint) -> u32 {
    let [a, b, c, d] = of.ip.0;
    let mut h = mix(of.port as u32 ^ 0x9e37_79b9);
    h = mix(h ^ a);
    h = mix(h ^ b);
    h = mix(h ^ c);
    mix(h ^ d)
}

#[inline(always)]
const fn mix(mut h: u32) -> u32 {
    h ^= h >> 16;
    h = h.wrapping_mul(0x85eb_ca6b);
    h ^= h >> 13;
    h = h.wrapping_mul(0xc2b2_ae35);
    h ^ (h >> 16)
}

impl From<Ipv4Addr> for Ip {
    fn from(ip: Ipv4Addr) -> Self {
        Self::v4(ip.to_bits().to_be())
    }
}

impl From<Ipv6Addr> for Ip {
    fn from(ip: Ipv6Addr) -> Self {
        let [a, b, c, d, e, f, g, h] = ip.segments().map(u32::from);
        Self([a << 16 | b, c << 16 | d, e << 16 | f, g << 16 | h].map(u32::to_be))
    }
}

impl From<IpAddr> for Ip {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => v4.into(),
            IpAddr::V6(v6) => v6.into(),
        }
    }
}

/// A mapped address comes out as the IPv4 address that it means.
impl From<Ip> for IpAddr {
    fn from(ip: Ip) -> Self {
        let [a, b, c, d] = ip.0.map(|word| u128::from(u32::from_be(word)));
        Self::V6(Ipv6Addr::from_bits(a << 96 | b << 64 | c << 32 | d)).to_canonical()
    }
}
