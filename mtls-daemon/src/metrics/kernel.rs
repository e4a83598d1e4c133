//! What the kernel programs counted, as metrics.

use std::collections::BTreeMap;

use mtls_common::counters::{Hook, Outcome as Answer};

use super::families;
use super::labels::{Direction, Labels, Plaintext};
use super::sheet::Sheet;
use super::{HookCount, KernelFigures};

/// `plaintext`: what the daemon itself carried in clear.
pub(super) fn render(sheet: &mut Sheet, kernel: &KernelFigures, mut plaintext: InClear) {
    // A first event must show as a rise from 0.
    let mut blocked: BTreeMap<&str, u64> = BLOCKING.map(|hook| (hook.word(), 0)).into();
    for &HookCount {
        hook,
        outcome,
        count,
    } in &kernel.counts
    {
        // Without zeroes: most hooks have few of the outcomes.
        let labels = [hook.word(), outcome.word()];
        sheet.count(families::HOOK_EVENTS, &labels, count);
        if is_blocked_bypass(outcome) {
            *blocked.entry(hook.word()).or_default() += count;
        }
        if let Some(labels) = passed_in_clear(hook, outcome) {
            plaintext[labels.index()] += count;
        }
    }
    for (hook, count) in blocked {
        sheet.count(families::BYPASS_BLOCKED, &[hook], count);
    }
    for (index, count) in plaintext.into_iter().enumerate() {
        let mut labels = Vec::new();
        <(Direction, Plaintext)>::values(index, &mut labels);
        sheet.count(families::PLAINTEXT, &labels, count);
    }
    for usage in &kernel.maps {
        sheet.count(families::BPF_MAP_ENTRIES, &[usage.map], usage.entries);
        sheet.count(families::BPF_MAP_CAPACITY, &[usage.map], usage.capacity);
    }
    for state in &kernel.hooks {
        let attached = u64::from(state.attached);
        sheet.count(families::BPF_ATTACHED, &[state.hook.word()], attached);
    }
    sheet.count(families::PINS_RESTORED, &[], kernel.pins_restored);
    for &(state, workloads) in &kernel.veth_gates {
        sheet.count(families::VETH_GATES, &[state], workloads);
    }
}

/// Connections in clear, by direction and reason.
pub(super) type InClear = [u64; <(Direction, Plaintext)>::COUNT];

/// Hooks that stop what gets past the redirection.
const BLOCKING: [Hook; 5] = [
    Hook::SkLookup,
    Hook::Ingress,
    Hook::Egress,
    Hook::SockCreate,
    Hook::Veth,
];

/// Outcomes that stopped something that tried to get past the daemon.
fn is_blocked_bypass(outcome: Answer) -> bool {
    matches!(
        outcome,
        Answer::Dropped | Answer::RefusedPlaintext | Answer::RefusedRaw
    )
}

/// Connections that the kernel let pass in clear, as configured: counted where
/// there is one event a connection, at connect() and at the first SYN.
fn passed_in_clear(hook: Hook, outcome: Answer) -> Option<(Direction, Plaintext)> {
    let direction = match hook {
        Hook::Connect4 | Hook::Connect6 => Direction::Outbound,
        Hook::SkLookup => Direction::Inbound,
        _ => return None,
    };
    let reason = match outcome {
        Answer::PassedOutside => Plaintext::Outside,
        Answer::PassedExcluded => Plaintext::Excluded,
        Answer::PassedUnknown => Plaintext::UnknownWorkload,
        _ => return None,
    };
    Some((direction, reason))
}
