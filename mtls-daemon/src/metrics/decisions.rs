//! Decisions of the policies, by rule: the only counter of the data path whose
//! labels are not known when the daemon is compiled. They are those of the
//! operator's own policies.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::labels::Decided;
use super::sheet::Sheet;
use super::{Shard, ThreadMetrics, families, lock};

/// Of one thread: the lock is its own but for a scrape.
#[derive(Default)]
pub(super) struct Decisions(Mutex<BTreeMap<Arc<str>, [u64; Decided::ALL.len()]>>);

impl ThreadMetrics {
    /// A rule decided about a connection, or would have.
    pub fn policy_decided(&self, rule: &Arc<str>, decided: Decided) {
        let mut counts = lock(&self.shard.decisions.0);
        if let Some(counts) = counts.get_mut(rule) {
            counts[decided as usize] += 1;
        } else {
            counts.entry(Arc::clone(rule)).or_default()[decided as usize] += 1;
        }
    }
}

pub(super) fn render(sheet: &mut Sheet, shards: &[Arc<Shard>]) {
    let mut sums: BTreeMap<Arc<str>, [u64; Decided::ALL.len()]> = BTreeMap::new();
    for shard in shards {
        for (rule, counts) in &*lock(&shard.decisions.0) {
            let sums = sums.entry(Arc::clone(rule)).or_default();
            for (sum, count) in sums.iter_mut().zip(counts) {
                *sum += count;
            }
        }
    }
    for (rule, counts) in &sums {
        for (decided, &count) in Decided::ALL.iter().zip(counts) {
            // Without zeroes: a rule has one action.
            if count > 0 {
                sheet.count(families::POLICY_DECISIONS, &[rule, decided.word()], count);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::metrics::{KernelFigures, Metrics, NodeFigures};

    #[test]
    fn decisions_are_counted_by_rule_over_all_threads() {
        let metrics = Metrics::new(SystemTime::now());
        let rule = Arc::from("callers[0]");
        for thread in [metrics.thread(), metrics.thread()] {
            thread.policy_decided(&rule, Decided::Allowed);
            thread.policy_decided(&rule, Decided::WouldDeny);
        }
        let text = metrics.render(&KernelFigures::default(), &NodeFigures::default());
        for decision in ["allowed", "dry_run_denied"] {
            let line = format!(
                "mtls_policy_decisions_total{{rule=\"callers[0]\",decision=\"{decision}\"}} 2"
            );
            assert!(text.contains(&line), "{line} is not in\n{text}");
        }
    }
}
