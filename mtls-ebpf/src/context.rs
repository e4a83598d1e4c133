//! Reading what the kernel hands to a hook.
//!
//! Every field is read by itself: the verifier allows contexts to be read only
//! by whole fields, and the compiler would like to merge or split them. Where
//! the family is known only at run time the fields of both are read: of two
//! loads of which one is needed the compiler makes one load from a computed
//! offset, which the verifier refuses.

use core::ptr::{read_volatile, write_volatile};

use aya_ebpf::bindings::{bpf_sk_lookup, bpf_sock, bpf_sock_addr, bpf_sock_ops};
use mtls_common::addr::{Endpoint, Ip};
use mtls_common::names::Ends;

pub const AF_INET: u32 = 2;
pub const AF_INET6: u32 = 10;
pub const IPPROTO_TCP: u32 = 6;
pub const IPPROTO_UDP: u32 = 17;
pub const SOCK_RAW: u32 = 3;
// What a sock_ops program is called for, and the flag that asks to be.
pub const TCP_CONNECT_CB: u32 = 3;
pub const STATE_CB: u32 = 10;
pub const STATE_CB_FLAG: i32 = 1 << 2;
pub const TCP_CLOSE: u32 = 7;
/// What it returns.
pub const DONE: u32 = 1;
/// The loopback interface is the first of every network namespace.
pub const LOOPBACK: u32 = 1;

/// Four words, one by one.
///
/// # Safety
///
/// `from` points to a field of a context.
#[inline(always)]
unsafe fn words(from: *const [u32; 4]) -> Ip {
    let word = from.cast::<u32>();
    // SAFETY: the field has four words.
    unsafe {
        Ip([
            read_volatile(word),
            read_volatile(word.add(1)),
            read_volatile(word.add(2)),
            read_volatile(word.add(3)),
        ])
    }
}

/// An address's fields of both families; one of them means something.
struct Both {
    v4: Ip,
    v6: Ip,
}

impl Both {
    #[inline(always)]
    fn of(self, v6: bool) -> Ip {
        if v6 { self.v6 } else { self.v4 }
    }
}

/// # Safety
///
/// Both point to fields of a context.
#[inline(always)]
unsafe fn both(v4: *const u32, v6: *const [u32; 4]) -> Both {
    // SAFETY: by this function's contract.
    unsafe {
        Both {
            v4: Ip::v4(read_volatile(v4)),
            v6: words(v6),
        }
    }
}

/// The address that an application gave, or is about to be told.
///
/// # Safety
///
/// `ctx` is the context of a cgroup socket address program.
#[inline(always)]
pub unsafe fn user_endpoint(ctx: *const bpf_sock_addr, v6: bool) -> Endpoint {
    // SAFETY: by this function's contract.
    unsafe {
        let ip = if v6 {
            words(&raw const (*ctx).user_ip6)
        } else {
            Ip::v4(read_volatile(&raw const (*ctx).user_ip4))
        };
        Endpoint {
            ip,
            port: u16::from_be(read_volatile(&raw const (*ctx).user_port) as u16),
        }
    }
}

/// Writes another address in place of that.
///
/// # Safety
///
/// As of [`user_endpoint`].
#[inline(always)]
pub unsafe fn set_user_endpoint(ctx: *mut bpf_sock_addr, v6: bool, to: Endpoint) {
    // SAFETY: by this function's contract.
    unsafe {
        if v6 {
            let word = (&raw mut (*ctx).user_ip6).cast::<u32>();
            write_volatile(word, to.ip.0[0]);
            write_volatile(word.add(1), to.ip.0[1]);
            write_volatile(word.add(2), to.ip.0[2]);
            write_volatile(word.add(3), to.ip.0[3]);
        } else {
            write_volatile(&raw mut (*ctx).user_ip4, to.ip.0[3]);
        }
        write_volatile(&raw mut (*ctx).user_port, u32::from(to.port.to_be()));
    }
}

/// A socket's two ends; mapped addresses for IPv4 in both families.
///
/// # Safety
///
/// `sk` is a full socket that the verifier knows as one.
#[inline(always)]
pub unsafe fn socket_ends(sk: *const bpf_sock, v6: bool) -> Ends {
    // SAFETY: by this function's contract.
    unsafe {
        let local = both(&raw const (*sk).src_ip4, &raw const (*sk).src_ip6);
        let peer = both(&raw const (*sk).dst_ip4, &raw const (*sk).dst_ip6);
        Ends {
            local: Endpoint {
                ip: local.of(v6),
                port: read_volatile(&raw const (*sk).src_port) as u16,
            },
            peer: Endpoint {
                ip: peer.of(v6),
                port: u16::from_be(read_volatile(&raw const (*sk).dst_port)),
            },
        }
    }
}

/// The ends of the socket that a sock_ops program is called for.
///
/// # Safety
///
/// `ctx` is the context of a sock_ops program.
#[inline(always)]
pub unsafe fn sock_ops_ends(ctx: *const bpf_sock_ops) -> Ends {
    // SAFETY: by this function's contract.
    unsafe {
        let v6 = read_volatile(&raw const (*ctx).family) == AF_INET6;
        let local = both(&raw const (*ctx).local_ip4, &raw const (*ctx).local_ip6);
        let peer = both(&raw const (*ctx).remote_ip4, &raw const (*ctx).remote_ip6);
        Ends {
            local: Endpoint {
                ip: local.of(v6),
                port: read_volatile(&raw const (*ctx).local_port) as u16,
            },
            peer: Endpoint {
                ip: peer.of(v6),
                port: u32::from_be(read_volatile(&raw const (*ctx).remote_port)) as u16,
            },
        }
    }
}

/// Where a packet comes from and goes to, in sk_lookup.
///
/// # Safety
///
/// `ctx` is the context of an sk_lookup program.
#[inline(always)]
pub unsafe fn arriving_ends(ctx: *const bpf_sk_lookup, v6: bool) -> Ends {
    // SAFETY: by this function's contract.
    unsafe {
        let local = both(&raw const (*ctx).local_ip4, &raw const (*ctx).local_ip6);
        let peer = both(&raw const (*ctx).remote_ip4, &raw const (*ctx).remote_ip6);
        Ends {
            local: Endpoint {
                ip: local.of(v6),
                port: read_volatile(&raw const (*ctx).local_port) as u16,
            },
            peer: Endpoint {
                ip: peer.of(v6),
                port: u16::from_be(read_volatile(&raw const (*ctx).remote_port)),
            },
        }
    }
}
