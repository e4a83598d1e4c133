//! getpeername and getsockname, 4 and 6: an application asks who is at the
//! ends of its connection. accept() asks for the peer as well.

use core::ffi::c_void;
use core::ptr::{null_mut, read_volatile};

use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_sk_storage_get};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use mtls_common::counters::{Hook, Outcome};
use mtls_common::maps::{Netns, Socket};
use mtls_common::names::{self, Ends, Name};
use mtls_ebpf::context::{IPPROTO_UDP, set_user_endpoint, socket_ends, user_endpoint};
use mtls_ebpf::maps::{CLIENT_NAMES, SOCKETS};
use mtls_ebpf::{facts, report};

const ANSWERED: i32 = 1;

#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(ctx: SockAddrContext) -> i32 {
    peer(ctx.sock_addr, Hook::GetPeerName4, false)
}

#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(ctx: SockAddrContext) -> i32 {
    peer(ctx.sock_addr, Hook::GetPeerName6, true)
}

#[cgroup_sock_addr(getsockname4)]
pub fn getsockname4(ctx: SockAddrContext) -> i32 {
    own(ctx.sock_addr, Hook::GetSockName4, false)
}

#[cgroup_sock_addr(getsockname6)]
pub fn getsockname6(ctx: SockAddrContext) -> i32 {
    own(ctx.sock_addr, Hook::GetSockName6, true)
}

#[inline(always)]
fn peer(ctx: *mut bpf_sock_addr, hook: Hook, v6: bool) -> i32 {
    if is_udp(ctx) {
        return ANSWERED;
    }
    // SAFETY: the kernel's context, of this family: the answer is the peer.
    let answer = unsafe { user_endpoint(ctx, v6) };
    let local = ends(ctx, v6).local;
    let enrolled = || {
        // SAFETY: the kernel's context.
        let cookie = unsafe { bpf_get_netns_cookie(ctx.cast::<c_void>()) };
        facts::netns(cookie)
            .filter(|(_, netns)| netns.standing == Netns::ENROLLED)
            .map(|(cookie, _)| cookie)
    };
    // SAFETY: the daemon writes an entry once, before the connection exists.
    let client = |flow: &_| unsafe { CLIENT_NAMES.get(flow) }.map(|place| place.endpoint());
    let name = names::peer(
        storage(ctx).as_ref(),
        Ends {
            local,
            peer: answer,
        },
        enrolled,
        client,
    );
    tell(ctx, hook, v6, name)
}

#[inline(always)]
fn own(ctx: *mut bpf_sock_addr, hook: Hook, v6: bool) -> i32 {
    if is_udp(ctx) {
        return ANSWERED;
    }
    // SAFETY: the kernel's context, of this family: the answer is this end.
    let answer = unsafe { user_endpoint(ctx, v6) };
    let peer = ends(ctx, v6).peer;
    let netns = |cookie| facts::netns(cookie).map(|(_, netns)| netns);
    let name = names::own(
        storage(ctx).as_ref(),
        Ends {
            local: answer,
            peer,
        },
        netns,
    );
    tell(ctx, hook, v6, name)
}

#[inline(always)]
fn tell(ctx: *mut bpf_sock_addr, hook: Hook, v6: bool, name: Name) -> i32 {
    let (outcome, endpoint) = match name {
        Name::Keep => return ANSWERED,
        Name::Tell(endpoint) => (Outcome::Named, endpoint),
        Name::Unknown(endpoint) => (Outcome::NameUnknown, endpoint),
    };
    report::count(hook, outcome);
    // SAFETY: the kernel's context, of this family.
    unsafe { set_user_endpoint(ctx, v6, endpoint) };
    ANSWERED
}

#[inline(always)]
fn is_udp(ctx: *mut bpf_sock_addr) -> bool {
    // SAFETY: the kernel's context.
    unsafe { read_volatile(&raw const (*ctx).protocol) == IPPROTO_UDP }
}

#[inline(always)]
fn ends(ctx: *mut bpf_sock_addr, v6: bool) -> Ends {
    // SAFETY: the kernel's context has the socket.
    unsafe { socket_ends((*ctx).__bindgen_anon_1.sk, v6) }
}

#[inline(always)]
fn storage(ctx: *mut bpf_sock_addr) -> Option<Socket> {
    // SAFETY: the kernel's context has the socket; its storage is copied.
    unsafe {
        let storage = bpf_sk_storage_get(
            (&raw const SOCKETS).cast_mut().cast(),
            (*ctx).__bindgen_anon_1.sk.cast(),
            null_mut(),
            0,
        )
        .cast::<Socket>();
        storage.as_ref().copied()
    }
}
