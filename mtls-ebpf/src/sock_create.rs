//! sock_create: an application makes a socket.

use core::ffi::c_void;
use core::ptr::read_volatile;

use aya_ebpf::bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock};
use aya_ebpf::helpers::generated::{
    bpf_get_current_cgroup_id, bpf_get_netns_cookie, bpf_set_retval, bpf_sk_storage_get,
};
use aya_ebpf::macros::cgroup_sock;
use aya_ebpf::programs::SockContext;
use mtls_common::addr::Ip;
use mtls_common::capture::Surroundings;
use mtls_common::counters::{Hook, Outcome};
use mtls_common::gate::{self, Creation};
use mtls_common::maps::{Netns, Socket};
use mtls_ebpf::maps::SOCKETS;
use mtls_ebpf::{facts, report};

const EACCES: i32 = 13;
const GO_ON: i32 = 1;
const FAIL: i32 = 0;

#[cgroup_sock(sock_create)]
pub fn sock_create(ctx: SockContext) -> i32 {
    let sk = ctx.sock;
    // SAFETY: the kernel's context.
    let (kind, protocol) = unsafe {
        (
            read_volatile(&raw const (*sk).type_),
            read_volatile(&raw const (*sk).protocol),
        )
    };
    let maker = Maker(sk);
    match gate::create(&maker, kind, protocol) {
        Creation::Pass => GO_ON,
        Creation::Watch { cookie } if mark(sk, cookie) => GO_ON,
        // A socket that cannot be marked cannot be watched.
        Creation::Watch { .. } | Creation::Refuse => {
            report::count(Hook::SockCreate, Outcome::RefusedRaw);
            // SAFETY: only sets what the system call returns.
            unsafe { bpf_set_retval(-EACCES) };
            FAIL
        }
    }
}

#[inline(always)]
fn mark(sk: *mut bpf_sock, cookie: u64) -> bool {
    let mut mark = Socket::raw(cookie);
    // SAFETY: the kernel's context is the new socket; the value is copied.
    unsafe {
        !bpf_sk_storage_get(
            (&raw const SOCKETS).cast_mut().cast(),
            sk.cast(),
            (&raw mut mark).cast(),
            u64::from(BPF_SK_STORAGE_GET_F_CREATE),
        )
        .is_null()
    }
}

/// The task that makes the socket.
struct Maker(*mut bpf_sock);

impl Surroundings for Maker {
    #[inline(always)]
    fn netns(&self) -> Option<(u64, Netns)> {
        // SAFETY: the kernel's context.
        facts::netns(unsafe { bpf_get_netns_cookie(self.0.cast::<c_void>()) })
    }

    #[inline(always)]
    fn exempt(&self) -> bool {
        // SAFETY: only tells about the current task.
        facts::exempt(unsafe { bpf_get_current_cgroup_id() })
    }

    #[inline(always)]
    fn own_address(&self, _cookie: u64, _ip: Ip) -> bool {
        false
    }

    #[inline(always)]
    fn port_excluded(&self, _cookie: u64, _port: u16) -> bool {
        false
    }

    #[inline(always)]
    fn networks(&self, _cookie: u64, _ip: Ip) -> u32 {
        0
    }

    #[inline(always)]
    fn pass_unknown(&self) -> bool {
        facts::pass_unknown()
    }

    #[inline(always)]
    fn pass_outside(&self) -> bool {
        facts::pass_outside()
    }
}
