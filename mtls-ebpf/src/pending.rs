//! Original destinations that wait for the daemon, and how many they are.

use core::arch::asm;
use core::ptr::read_volatile;

use aya_ebpf::bindings::{BPF_EXIST, BPF_NOEXIST};
use mtls_common::handoff;
use mtls_common::maps::{Dialled, FlowKey};

use crate::maps::{ORIGINAL_DST, PENDING};

const ALL: u32 = 0;

#[inline(always)]
pub fn has_room(account: u32) -> bool {
    let (Some(own), Some(all)) = (PENDING.get_ptr(account), PENDING.get_ptr(ALL)) else {
        return false;
    };
    // SAFETY: the map gave these entries, which live as long as the map.
    unsafe { handoff::has_room(read_volatile(own), read_volatile(all)) }
}

/// Whether there was room. connect() asked before, but it need not be long ago
/// that others did, too: fast open can put a SYN off.
#[inline(always)]
pub fn add(flow: &FlowKey, dialled: &Dialled) -> bool {
    if !has_room(dialled.account) {
        return false;
    }
    if ORIGINAL_DST
        .insert(flow, dialled, u64::from(BPF_NOEXIST))
        .is_ok()
    {
        count(dialled.account, 1);
        true
    } else {
        // Left by an earlier connection from the same port, and counted.
        ORIGINAL_DST
            .insert(flow, dialled, u64::from(BPF_EXIST))
            .is_ok()
    }
}

/// Usually the daemon has taken it already.
#[inline(always)]
pub fn remove(flow: &FlowKey, account: u32) {
    if ORIGINAL_DST.remove(flow).is_ok() {
        count(account, -1);
    }
}

#[inline(always)]
fn count(account: u32, by: i64) {
    for place in [ALL, account] {
        if let Some(counter) = PENDING.get_ptr_mut(place) {
            // SAFETY: an aligned word of a map, which lives as long as the map.
            // The language has no atomic addition for this target.
            unsafe {
                asm!("lock *(u64 *)({counter} + 0) += {by}", counter = in(reg) counter, by = in(reg) by)
            }
        }
    }
}
