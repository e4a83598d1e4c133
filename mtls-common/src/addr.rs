//! Addresses as the maps hold them, and the ranges that the mesh uses for
//! itself inside of a workload's network namespace.

/// IPv6 as it is, IPv4 in its mapped form, in network byte order: one type of
/// key for both families, so that no hook can forget one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(target_arch = "bpf"), derive(Hash, PartialOrd, Ord))]
#[repr(C)]
pub struct Ip(pub [u8; 16]);

/// A captured IPv4 connection goes to an address of 127.64.0.0/10; the 22 low
/// bits are a hash of the destination, so that the connections of a workload
/// to different destinations do not share one supply of source ports.
pub const CAPTURE_NETWORK_V4: [u8; 4] = [127, 64, 0, 0];

/// The first of 64 ports of a block that IANA has assigned to nobody. Captured
/// IPv4 connections all use this one: keeping the application's port would
/// make that port look taken to an application that wants to listen on it.
pub const CAPTURE_PORT: u16 = 29184;

/// A captured connection of a socket that cannot use IPv4 goes to ::1, which
/// has no 22 bits to spare: the hash picks one of these ports instead.
pub const CAPTURE_PORTS_V6: u16 = 64;

/// The daemon dials an application from an address of 127.128.0.0/10.
pub const DIAL_NETWORK_V4: [u8; 4] = [127, 128, 0, 0];

/// Both networks are /10: 22 bits are free.
pub const HASH_BITS: u32 = 22;

impl Ip {
    pub const fn v4(octets: [u8; 4]) -> Self {
        let [a, b, c, d] = octets;
        Self([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d])
    }

    pub const fn v6(octets: [u8; 16]) -> Self {
        Self(octets)
    }
}
