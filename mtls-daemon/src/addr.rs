//! Addresses with a meaning: two of them cannot be swapped by mistake.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// The address and port that the application dialled, before the kernel
/// turned the connection towards the daemon. Never v4-mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OriginalDst(pub SocketAddr);

/// The address and port of the application that opened the connection, as its
/// server must see it. Never v4-mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientAddr(pub SocketAddr);

/// Where a peer's daemon takes tunnels for one workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TunnelAddr(pub SocketAddr);

/// `addr` with a v4-mapped IPv6 address written as the IPv4 address it means.
pub fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

/// Sixteen bytes for a kernel map: IPv6 as it is, IPv4 in its mapped form.
pub fn octets(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

macro_rules! display_inner {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}
display_inner!(OriginalDst, ClientAddr, TunnelAddr);
