//! connect4 and connect6: an application opens a connection. sendmsg4 and
//! sendmsg6: it sends a datagram.

use core::ffi::c_void;
use core::ptr::read_volatile;

use aya_ebpf::Global;
use aya_ebpf::bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock, bpf_sock_addr};
use aya_ebpf::helpers::generated::{
    bpf_get_current_cgroup_id, bpf_get_current_pid_tgid, bpf_get_netns_cookie, bpf_ktime_get_ns,
    bpf_set_retval, bpf_setsockopt, bpf_sk_storage_get, bpf_skc_to_mptcp_sock,
    bpf_skc_to_tcp6_sock,
};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use aya_log_ebpf::warn;
use mtls_common::addr::{Endpoint, Ip};
use mtls_common::capture::{self, Answered, Connecting, Surroundings, Verdict};
use mtls_common::counters::{Hook, Outcome};
use mtls_common::maps::{Answer, Netns, PortKey, Socket};
use mtls_common::reports::Event;
use mtls_ebpf::context::{IPPROTO_TCP, IPPROTO_UDP, set_user_endpoint, user_endpoint};
use mtls_ebpf::maps::SOCKETS;
use mtls_ebpf::{facts, pending, report};

/// Where the kernel keeps IPV6_V6ONLY in its `sock_common`, from its own type
/// information: bpf_getsockopt does not know that option.
#[unsafe(no_mangle)]
static V6ONLY_OFFSET: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static V6ONLY_MASK: Global<u8> = Global::new(0);
/// 1 if the kernel knows MPTCP; else the verifier knows no such socket.
#[unsafe(no_mangle)]
static HAS_MPTCP: Global<u8> = Global::new(0);

const ECONNREFUSED: i32 = 111;
const SOL_SOCKET: i32 = 1;
const SO_BINDTODEVICE: i32 = 25;
const GO_ON: i32 = 1;
const FAIL: i32 = 0;

#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    connect(ctx.sock_addr, Hook::Connect4, false)
}

#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    connect(ctx.sock_addr, Hook::Connect6, true)
}

#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(ctx: SockAddrContext) -> i32 {
    datagram(ctx.sock_addr, Hook::SendMsg4, false)
}

#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(ctx: SockAddrContext) -> i32 {
    datagram(ctx.sock_addr, Hook::SendMsg6, true)
}

#[inline(always)]
fn connect(ctx: *mut bpf_sock_addr, hook: Hook, v6: bool) -> i32 {
    // SAFETY: the kernel's context. MPTCP asks for each of its TCP subflows.
    let protocol = unsafe { read_volatile(&raw const (*ctx).protocol) };
    if protocol == IPPROTO_UDP {
        return datagram(ctx, hook, v6);
    }
    if protocol != IPPROTO_TCP {
        return GO_ON;
    }
    // SAFETY: the kernel's context, of this family.
    let to = unsafe { user_endpoint(ctx, v6) };
    let caller = Caller(ctx);
    match capture::connect(&caller, to, v6) {
        Verdict::Pass(why) => {
            report::count(hook, why);
            GO_ON
        }
        Verdict::Refuse(why) => {
            if why as u8 == Outcome::RefusedUnknown as u8 {
                caller.report_unknown();
            }
            if why as u8 == Outcome::RefusedPending as u8 {
                caller.warn_of_pending();
            }
            refuse(hook, why)
        }
        Verdict::Capture(socket) => turn(ctx, hook, v6, &socket),
    }
}

/// Sends the connection to the daemon.
#[inline(always)]
fn turn(ctx: *mut bpf_sock_addr, hook: Hook, v6: bool, socket: &Socket) -> i32 {
    // SAFETY: the kernel's context has the connecting socket. A subflow of
    // MPTCP has a second socket, the one that the application knows.
    unsafe {
        let sk = (*ctx).__bindgen_anon_1.sk;
        if !remember(sk.cast(), socket) {
            return refuse(hook, Outcome::RefusedNoMemory);
        }
        if HAS_MPTCP.load() == 1 {
            let whole = bpf_skc_to_mptcp_sock(sk.cast());
            if !whole.is_null() {
                // Without it only the names are missing.
                remember(whole.cast(), socket);
            }
        }
        let captured = Endpoint {
            ip: socket.captured,
            port: socket.captured_port,
        };
        set_user_endpoint(ctx, v6, captured);
        unbind_device(ctx, sk);
    }
    report::count(hook, Outcome::Captured);
    GO_ON
}

/// Leaves a note with a socket, in place of one of an earlier connection.
///
/// # Safety
///
/// `sk` is a socket that the verifier knows as one.
#[inline(always)]
unsafe fn remember(sk: *mut c_void, socket: &Socket) -> bool {
    // SAFETY: the storage is this socket's alone as long as the program runs.
    unsafe {
        let storage = bpf_sk_storage_get(
            (&raw const SOCKETS).cast_mut().cast(),
            sk,
            core::ptr::from_ref(socket).cast_mut().cast(),
            u64::from(BPF_SK_STORAGE_GET_F_CREATE),
        )
        .cast::<Socket>();
        if storage.is_null() {
            return false;
        }
        *storage = *socket;
        true
    }
}

/// A socket bound to a device would send what goes to loopback out of that.
///
/// # Safety
///
/// `ctx` is the kernel's and `sk` its socket.
#[inline(always)]
unsafe fn unbind_device(ctx: *mut bpf_sock_addr, sk: *const bpf_sock) {
    // SAFETY: by this function's contract; the option's value lives until the
    // helper returns.
    unsafe {
        if read_volatile(&raw const (*sk).bound_dev_if) != 0 {
            let mut none = 0_u32;
            // If it fails the connection fails: nothing leaves in the clear.
            let _ = bpf_setsockopt(
                ctx.cast(),
                SOL_SOCKET,
                SO_BINDTODEVICE,
                (&raw mut none).cast(),
                4,
            );
        }
    }
}

#[inline(always)]
fn datagram(ctx: *mut bpf_sock_addr, hook: Hook, v6: bool) -> i32 {
    // SAFETY: the kernel's context.
    let protocol = unsafe { read_volatile(&raw const (*ctx).protocol) };
    if protocol != IPPROTO_UDP || !facts::refuse_udp() {
        return GO_ON;
    }
    // SAFETY: the kernel's context, of this family.
    let to = unsafe { user_endpoint(ctx, v6) };
    match capture::datagram(&Caller(ctx), to) {
        Verdict::Pass(why) => {
            report::count(hook, why);
            GO_ON
        }
        Verdict::Refuse(why) => refuse(hook, why),
        Verdict::Capture(_) => FAIL,
    }
}

/// Without an errno of ours the application would get EPERM, which nobody
/// expects of a network.
#[inline(always)]
fn refuse(hook: Hook, why: Outcome) -> i32 {
    report::count(hook, why);
    // SAFETY: only sets what the system call returns.
    unsafe { bpf_set_retval(-ECONNREFUSED) };
    FAIL
}

/// The socket that connects, and the task that asks for it.
struct Caller(*mut bpf_sock_addr);

impl Caller {
    #[inline(always)]
    fn cookie(&self) -> u64 {
        // SAFETY: the kernel's context.
        unsafe { bpf_get_netns_cookie(self.0.cast::<c_void>()) }
    }

    #[inline(always)]
    fn warn_of_pending(&self) {
        let cookie = self.cookie();
        if report::due(cookie, 1 << 32 | Hook::Connect4 as u64, report::SECOND) {
            warn!(
                &SockAddrContext::new(self.0),
                "as many connections of network namespace {} as have room wait for the daemon: more are refused",
                cookie
            );
        }
    }

    #[inline(always)]
    fn report_unknown(&self) {
        let cookie = self.cookie();
        if report::due(cookie, u64::from(Event::UNKNOWN_NETNS), report::SECOND) {
            // SAFETY: both only tell about the current task.
            let (cgroup, pid) = unsafe {
                (
                    bpf_get_current_cgroup_id(),
                    bpf_get_current_pid_tgid() >> 32,
                )
            };
            report::send(&Event::unknown_netns(cookie, cgroup, pid as u32));
        }
    }
}

impl Surroundings for Caller {
    #[inline(always)]
    fn netns(&self) -> Option<(u64, Netns)> {
        facts::netns(self.cookie())
    }

    #[inline(always)]
    fn exempt(&self) -> bool {
        // SAFETY: only tells about the current task.
        facts::exempt(unsafe { bpf_get_current_cgroup_id() })
    }

    #[inline(always)]
    fn own_address(&self, cookie: u64, ip: Ip) -> bool {
        facts::own_address(cookie, ip)
    }

    #[inline(always)]
    fn port_excluded(&self, cookie: u64, port: u16) -> bool {
        facts::port_is(cookie, port, PortKey::OUT)
    }

    #[inline(always)]
    fn networks(&self, cookie: u64, ip: Ip) -> u32 {
        facts::networks(cookie, ip)
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

impl Connecting for Caller {
    #[inline(always)]
    fn answered(&self, cookie: u64, to: Endpoint) -> Answered {
        let Some(answer) = facts::answer(cookie, to) else {
            return Answered::Nothing;
        };
        // SAFETY: takes nothing, changes nothing.
        let now = unsafe { bpf_ktime_get_ns() };
        if answer.counts(Answer::ACCEPTED, now) {
            Answered::Accepted
        } else if answer.counts(Answer::REFUSED, now) {
            Answered::Refused
        } else {
            Answered::Nothing
        }
    }

    #[inline(always)]
    fn listening(&self, slot: u32) -> bool {
        facts::listening(slot)
    }

    #[inline(always)]
    fn has_room(&self, account: u32) -> bool {
        pending::has_room(account)
    }

    #[inline(always)]
    fn only_v6(&self) -> bool {
        // SAFETY: the kernel's context has a socket; the helper gives null or
        // a socket that may be read where its type says there is a field,
        // which is where the offset comes from.
        unsafe {
            let sk = bpf_skc_to_tcp6_sock((*self.0).__bindgen_anon_1.sk.cast());
            // Nothing else is a TCP socket of this family: do what always works.
            if sk.is_null() {
                return true;
            }
            let bits = sk.cast::<u8>().add(V6ONLY_OFFSET.load() as usize);
            read_volatile(bits) & V6ONLY_MASK.load() != 0
        }
    }
}
