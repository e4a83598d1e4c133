//! sock_ops at the cgroup of whoever probes the workloads: each connection that
//! it opens is noted before its SYN leaves, for the network namespace where it
//! arrives, and so is its end.

use aya_ebpf::bindings::{BPF_ANY, BPF_EXIST};
use aya_ebpf::helpers::generated::{bpf_ktime_get_ns, bpf_sock_ops_cb_flags_set};
use aya_ebpf::macros::sock_ops;
use aya_ebpf::programs::SockOpsContext;
use mtls_common::counters::{Hook, Outcome};
use mtls_common::probe::ProbeKey;
use mtls_ebpf::context::{DONE, STATE_CB, STATE_CB_FLAG, TCP_CLOSE, TCP_CONNECT_CB, sock_ops_ends};
use mtls_ebpf::maps::PROBES;
use mtls_ebpf::report;

#[sock_ops]
pub fn prober(ctx: SockOpsContext) -> u32 {
    match ctx.op() {
        TCP_CONNECT_CB => {
            let noted = PROBES.insert(key(&ctx), 0, u64::from(BPF_ANY)).is_ok();
            report::count(
                Hook::Prober,
                if noted {
                    Outcome::Recorded
                } else {
                    Outcome::RecordFailed
                },
            );
            // SAFETY: the kernel's context.
            unsafe { bpf_sock_ops_cb_flags_set(ctx.ops, STATE_CB_FLAG) };
        }
        STATE_CB if ctx.arg(1) == TCP_CLOSE => {
            // SAFETY: a helper without arguments.
            let now = unsafe { bpf_ktime_get_ns() };
            // One that is forgotten already needs no end.
            let _ = PROBES.insert(key(&ctx), now, u64::from(BPF_EXIST));
        }
        _ => {}
    }
    DONE
}

#[inline(always)]
fn key(ctx: &SockOpsContext) -> ProbeKey {
    // SAFETY: the kernel's context.
    let ends = unsafe { sock_ops_ends(ctx.ops) };
    ProbeKey::new(ends.local, ends.peer)
}
