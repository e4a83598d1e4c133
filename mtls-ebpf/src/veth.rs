//! tcx at the node's end of an enrolled workload's veth: every frame that the
//! workload's namespace sends comes by here, and the daemon's own leave after
//! two look-ups.

use core::ptr::read_volatile;

use aya_ebpf::helpers::generated::bpf_skb_cgroup_id;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use aya_log_ebpf::warn;
use mtls_common::addr::Ip;
use mtls_common::counters::{Hook, Outcome};
use mtls_common::gate::Gate;
use mtls_common::maps::Netns;
use mtls_common::probe::ProbeKey;
use mtls_common::veth::{self, Frame, Leaving};
use mtls_ebpf::maps::VETHS;
use mtls_ebpf::{facts, report};

/// Whoever stands behind decides: foreign programs, and the kernel.
const NEXT: i32 = -1;
const DROP: i32 = 2;
/// The frame is read from its Ethernet header on; a tag is not in it.
const ETHERNET: u32 = 14;

#[classifier]
pub fn veth(ctx: TcContext) -> i32 {
    // SAFETY: the kernel's context. The socket of a frame survives the veth
    // (seen on Linux 6.1 and 6.18), a packet socket's too.
    let cgroup = unsafe { bpf_skb_cgroup_id(ctx.skb.skb) };
    if cgroup != 0 && facts::exempt(cgroup) {
        return NEXT;
    }
    let sent = Sent { ctx: &ctx };
    match veth::leaving(&sent, veth::content(&sent)) {
        Gate::Pass(_) => NEXT,
        Gate::Drop(why) => {
            refuse(&ctx, why);
            DROP
        }
    }
}

#[inline(always)]
fn refuse(ctx: &TcContext, why: Outcome) {
    report::count(Hook::Veth, why);
    let cookie = cookie(ctx).unwrap_or(0);
    if report::due(cookie, 1 << 32 | Hook::Veth as u64, report::SECOND) {
        warn!(
            ctx,
            "the veth gate stopped a frame of network namespace {} that was not the daemon's",
            cookie
        );
    }
}

/// Whose veth this is.
#[inline(always)]
fn cookie(ctx: &TcContext) -> Option<u64> {
    // SAFETY: the kernel's context; whichever value is read was written.
    unsafe {
        let interface = read_volatile(&raw const (*ctx.skb.skb).ifindex);
        VETHS.get(interface).copied()
    }
}

struct Sent<'a> {
    ctx: &'a TcContext,
}

impl Frame for Sent<'_> {
    #[inline(always)]
    fn ethertype(&self) -> u16 {
        // SAFETY: the kernel's context.
        u16::from_be(unsafe { read_volatile(&raw const (*self.ctx.skb.skb).protocol) } as u16)
    }

    #[inline(always)]
    fn length(&self) -> u32 {
        self.ctx.len().saturating_sub(ETHERNET)
    }

    #[inline(always)]
    fn load<const N: usize>(&self, at: u32) -> Option<[u8; N]> {
        self.ctx.load::<[u8; N]>((ETHERNET + at) as usize).ok()
    }
}

impl Leaving for Sent<'_> {
    #[inline(always)]
    fn netns(&self) -> Option<(u64, Netns)> {
        cookie(self.ctx).and_then(facts::netns)
    }

    #[inline(always)]
    fn port_is(&self, cookie: u64, port: u16, direction: u16) -> bool {
        facts::port_is(cookie, port, direction)
    }

    #[inline(always)]
    fn networks(&self, cookie: u64, ip: Ip) -> u32 {
        facts::networks(cookie, ip)
    }

    #[inline(always)]
    fn pass_outside(&self) -> bool {
        facts::pass_outside()
    }

    #[inline(always)]
    fn pass_unknown(&self) -> bool {
        facts::pass_unknown()
    }

    #[inline(always)]
    fn probed(&self, cookie: u64, probe: &ProbeKey) -> bool {
        facts::probed(cookie, probe).is_some()
    }
}
