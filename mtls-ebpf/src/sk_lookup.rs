//! sk_lookup: a SYN arrives in an enrolled workload's network namespace, from
//! outside or from a captured connection.
#![no_std]
#![no_main]

use core::ptr::read_volatile;

use aya_ebpf::bindings::{
    BPF_SK_LOOKUP_F_NO_REUSEPORT,
    sk_action::{SK_DROP, SK_PASS},
};
use aya_ebpf::btf_maps::Array;
use aya_ebpf::macros::{btf_map, sk_lookup};
use aya_ebpf::programs::SkLookupContext;
use mtls_common::addr::{Endpoint, Ip};
use mtls_common::counters::{Hook, Outcome};
use mtls_common::maps::{FlowKey, Instance};
use mtls_common::probe::ProbeKey;
use mtls_common::reports::Event;
use mtls_common::steer::{self, Arriving, Steering};
use mtls_ebpf::context::{AF_INET6, IPPROTO_TCP, arriving_ends};
use mtls_ebpf::maps::{LISTENERS, ORIGINAL_DST};
use mtls_ebpf::{facts, report};

mtls_ebpf::object!();

/// Where this program runs: each instance has a map of its own.
#[btf_map]
static INSTANCE: Array<Instance, 1> = Array::new();

#[sk_lookup]
pub fn steer(ctx: SkLookupContext) -> u32 {
    // SAFETY: the kernel's context.
    let (protocol, family) = unsafe {
        (
            read_volatile(&raw const (*ctx.lookup).protocol),
            read_volatile(&raw const (*ctx.lookup).family),
        )
    };
    if protocol != IPPROTO_TCP {
        return SK_PASS;
    }
    let Some(here) = INSTANCE.get(0) else {
        return SK_DROP;
    };
    let v6 = family == AF_INET6;
    // SAFETY: the kernel's context, of this family.
    let ends = unsafe { arriving_ends(ctx.lookup, v6) };
    match steer::syn(&Maps, here, ends.peer, ends.local, v6) {
        Steering::Pass(why) => {
            report::count(Hook::SkLookup, why);
            SK_PASS
        }
        Steering::Drop(why) => {
            report_plaintext(here, ends.peer, ends.local.port);
            report::count(Hook::SkLookup, why);
            SK_DROP
        }
        Steering::Steer { slot, outcome } => give(&ctx, slot, outcome),
    }
}

/// To the listener in `slot`; the workload's own users could join its
/// SO_REUSEPORT group, so the choice within one is not left to the kernel.
#[inline(always)]
fn give(ctx: &SkLookupContext, slot: u32, outcome: Outcome) -> u32 {
    let flags = u64::from(BPF_SK_LOOKUP_F_NO_REUSEPORT);
    if LISTENERS.redirect_sk_lookup(ctx, slot, flags).is_ok() {
        report::count(Hook::SkLookup, outcome);
        SK_PASS
    } else {
        report::count(Hook::SkLookup, Outcome::RefusedNoListener);
        SK_DROP
    }
}

#[inline(always)]
fn report_plaintext(here: &Instance, source: Endpoint, port: u16) {
    if report::due(
        here.cookie,
        u64::from(Event::PLAINTEXT_REFUSED),
        report::SECOND / 10,
    ) {
        report::send(&Event::plaintext_refused(here.cookie, source, port));
    }
}

/// The maps that this hook shares with the cgroup's.
struct Maps;

impl Arriving for Maps {
    #[inline(always)]
    fn captured(&self, flow: &FlowKey) -> bool {
        ORIGINAL_DST.get_ptr(flow).is_some()
    }

    #[inline(always)]
    fn own_address(&self, cookie: u64, ip: Ip) -> bool {
        facts::own_address(cookie, ip)
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
    fn probed(&self, cookie: u64, probe: &ProbeKey) -> bool {
        facts::probed(cookie, probe).is_some()
    }
}
