//! The maps' answers to what decisions ask.

use aya_ebpf::btf_maps::lpm_trie::Key;
use mtls_common::addr::{Endpoint, Ip};
use mtls_common::maps::{AddressKey, Answer, AnswerKey, Netns, NetworkKey, PortKey};
use mtls_common::probe::{Probe, ProbeKey};

use aya_ebpf::helpers::generated::{bpf_ktime_get_ns, bpf_map_lookup_elem, bpf_sk_release};

use crate::maps::{ADDRESSES, ANSWERS, EXEMPT, LISTENERS, NETNS, NETWORKS, NODE, PORTS, PROBES};

#[inline(always)]
pub fn netns(cookie: u64) -> Option<(u64, Netns)> {
    // SAFETY: the daemon replaces entries as a whole; the copy is of one.
    unsafe { NETNS.get(cookie) }.map(|netns| (cookie, *netns))
}

#[inline(always)]
pub fn exempt(cgroup_id: u64) -> bool {
    EXEMPT.get_ptr(cgroup_id).is_some()
}

#[inline(always)]
pub fn own_address(cookie: u64, ip: Ip) -> bool {
    ADDRESSES.get_ptr(AddressKey { cookie, ip }).is_some()
}

#[inline(always)]
pub fn port_is(cookie: u64, port: u16, direction: u16) -> bool {
    PORTS
        .get_ptr(PortKey::new(cookie, port, direction))
        .is_some()
}

/// The port first: few ports are meant for probes.
#[inline(always)]
pub fn probed(cookie: u64, probe: &ProbeKey) -> Option<Probe> {
    if !port_is(cookie, probe.target_port, PortKey::PROBED) {
        return None;
    }
    // SAFETY: an aligned word; whichever value is read was written.
    let ended = *unsafe { PROBES.get(probe) }?;
    if ended == 0 {
        return Some(Probe::Open);
    }
    // SAFETY: a helper without arguments.
    let since = unsafe { bpf_ktime_get_ns() }.saturating_sub(ended);
    (since < ProbeKey::LINGERS).then_some(Probe::Ended)
}

#[inline(always)]
pub fn networks(cookie: u64, ip: Ip) -> u32 {
    let key = Key::new(NetworkKey::BITS, NetworkKey::new(cookie, ip));
    NETWORKS.get(&key).copied().unwrap_or(0)
}

#[inline(always)]
pub fn pass_unknown() -> bool {
    NODE.get(0).is_some_and(|node| node.pass_unknown == 1)
}

#[inline(always)]
pub fn pass_outside() -> bool {
    NODE.get(0).is_some_and(|node| node.pass_outside == 1)
}

#[inline(always)]
pub fn refuse_udp() -> bool {
    NODE.get(0).is_none_or(|node| node.refuse_udp == 1)
}

#[inline(always)]
pub fn answer(cookie: u64, to: Endpoint) -> Option<Answer> {
    // SAFETY: the daemon replaces entries as a whole; the copy is of one.
    unsafe { ANSWERS.get(AnswerKey::new(cookie, to)) }.copied()
}

/// Whether a listener of the daemon is in that place.
#[inline(always)]
pub fn listening(slot: u32) -> bool {
    // SAFETY: the map is a map; the socket it gives is given back at once.
    unsafe {
        let listener = bpf_map_lookup_elem(
            (&raw const LISTENERS).cast_mut().cast(),
            (&raw const slot).cast(),
        );
        if listener.is_null() {
            return false;
        }
        bpf_sk_release(listener);
        true
    }
}
