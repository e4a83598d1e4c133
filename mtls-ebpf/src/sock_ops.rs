//! sock_ops: a captured connection gets its source port, right before its SYN
//! leaves; later it ends.

use core::ptr::{null_mut, read_volatile};

use aya_ebpf::bindings::bpf_sock_ops;
use aya_ebpf::helpers::generated::{bpf_sk_storage_get, bpf_sock_ops_cb_flags_set};
use aya_ebpf::macros::sock_ops;
use aya_ebpf::programs::SockOpsContext;
use aya_log_ebpf::warn;
use mtls_common::counters::{Hook, Outcome};
use mtls_common::handoff::outlives;
use mtls_common::maps::{Dialled, Socket};
use mtls_ebpf::context::{DONE, STATE_CB, STATE_CB_FLAG, TCP_CLOSE, TCP_CONNECT_CB, sock_ops_ends};
use mtls_ebpf::maps::SOCKETS;
use mtls_ebpf::{pending, report};

#[sock_ops]
pub fn sock_ops(ctx: SockOpsContext) -> u32 {
    match ctx.op() {
        TCP_CONNECT_CB => connecting(&ctx),
        STATE_CB if ctx.arg(1) == TCP_CLOSE => closed(&ctx),
        _ => {}
    }
    DONE
}

#[inline(always)]
fn connecting(ctx: &SockOpsContext) {
    let Some(socket) = storage(ctx.ops) else {
        return;
    };
    // SAFETY: the kernel's context, and this socket's own storage.
    let (ends, socket) = unsafe { (sock_ops_ends(ctx.ops), &mut *socket) };
    let Some(dialled) = socket.dialled_through(ends.peer) else {
        return;
    };
    socket.source = ends.local.ip;
    socket.source_port = ends.local.port;
    if pending::add(&socket.flow(), &Dialled::new(dialled, socket.account)) {
        socket.state = Socket::RECORDED;
        report::count(Hook::SockOps, Outcome::Recorded);
        // SAFETY: the kernel's context.
        unsafe { bpf_sock_ops_cb_flags_set(ctx.ops, STATE_CB_FLAG) };
    } else {
        // The egress gate or the daemon drops it.
        report::count(Hook::SockOps, Outcome::RecordFailed);
        if report::due(socket.cookie, u64::from(TCP_CONNECT_CB), report::SECOND) {
            warn!(
                ctx,
                "no room in ORIGINAL_DST: a connection of network namespace {} is lost",
                socket.cookie
            );
        }
    }
}

#[inline(always)]
fn closed(ctx: &SockOpsContext) {
    if outlives(ctx.arg(0)) {
        return;
    }
    let Some(socket) = storage(ctx.ops) else {
        return;
    };
    // SAFETY: this socket's own storage.
    let socket = unsafe { &mut *socket };
    if socket.state == Socket::RECORDED {
        pending::remove(&socket.flow(), socket.account);
        socket.state = Socket::CAPTURED;
    }
}

/// What the connect hook left with the socket.
#[inline(always)]
fn storage(ctx: *mut bpf_sock_ops) -> Option<*mut Socket> {
    // SAFETY: the kernel's context; without a socket there is nothing to ask.
    unsafe {
        let sk = read_volatile(&raw const (*ctx).__bindgen_anon_2.sk);
        if sk.is_null() {
            return None;
        }
        let storage = bpf_sk_storage_get(
            (&raw const SOCKETS).cast_mut().cast(),
            sk.cast(),
            null_mut(),
            0,
        )
        .cast::<Socket>();
        (!storage.is_null()).then_some(storage)
    }
}
