//! One scrape, under construction.

use std::collections::BTreeMap;
use std::sync::Arc;

use prometheus::TextEncoder;
use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType,
};

use crate::reason::{Reason, Use};

use super::Shard;
use super::cells::{BOUNDS, Durations, Table};
use super::families::{Family, Kind};
use super::labels::{Direction, Labels};

#[derive(Default)]
pub(super) struct Sheet(BTreeMap<&'static str, (Family, Vec<Metric>)>);

impl Sheet {
    /// One sample that is a whole number.
    pub(super) fn count(&mut self, family: Family, values: &[&str], count: u64) {
        self.number(family, values, as_float(count));
    }

    pub(super) fn number(&mut self, family: Family, values: &[&str], number: f64) {
        let mut metric = Metric::from_label(label_pairs(&family, values));
        match family.kind {
            Kind::Counter => {
                let mut counter = Counter::default();
                counter.set_value(number);
                metric.set_counter(counter);
            }
            Kind::Gauge | Kind::Histogram => {
                let mut gauge = Gauge::default();
                gauge.set_value(number);
                metric.set_gauge(gauge);
            }
        }
        self.push(family, metric);
    }

    /// Every cell of a table, summed over the threads.
    pub(super) fn table<L: Labels>(
        &mut self,
        family: Family,
        shards: &[Arc<Shard>],
        table: impl Fn(&Shard) -> &Table<L>,
    ) {
        for index in 0..L::COUNT {
            let sum = sum(shards, index, &table);
            self.sample::<L>(family, index, sum);
        }
    }

    /// The cells whose reason is used that way, and any other that was counted nevertheless.
    pub(super) fn reasons(
        &mut self,
        family: Family,
        used: Use,
        shards: &[Arc<Shard>],
        table: impl Fn(&Shard) -> &Table<(Direction, Reason)>,
    ) {
        for index in 0..<(Direction, Reason)>::COUNT {
            let sum = sum(shards, index, &table);
            let reason = Reason::ALL[index % Reason::COUNT];
            if sum > 0 || reason.uses().contains(&used) {
                self.sample::<(Direction, Reason)>(family, index, sum);
            }
        }
    }

    pub(super) fn durations<L: Labels>(
        &mut self,
        family: Family,
        shards: &[Arc<Shard>],
        durations: impl Fn(&Shard) -> &Durations<L>,
    ) {
        for index in 0..L::COUNT {
            let mut counts = [0_u64; BOUNDS.len() + 1];
            let mut nanos = 0_u64;
            for shard in shards {
                let (more, sum) = durations(shard).get(index);
                for (count, more) in counts.iter_mut().zip(more) {
                    *count += more;
                }
                nanos = nanos.saturating_add(sum);
            }
            let mut cumulated = 0;
            let mut buckets = Vec::with_capacity(BOUNDS.len());
            for (bound, count) in BOUNDS.iter().zip(counts) {
                cumulated += count;
                let mut bucket = Bucket::default();
                bucket.set_upper_bound(*bound);
                bucket.set_cumulative_count(cumulated);
                buckets.push(bucket);
            }
            let mut histogram = Histogram::default();
            histogram.set_bucket(buckets);
            histogram.set_sample_count(cumulated + counts[BOUNDS.len()]);
            histogram.set_sample_sum(as_float(nanos) / 1e9);
            let mut values = Vec::new();
            L::values(index, &mut values);
            let mut metric = Metric::from_label(label_pairs(&family, &values));
            metric.set_histogram(histogram);
            self.push(family, metric);
        }
    }

    pub(super) fn encode(self) -> String {
        let families: Vec<MetricFamily> = self
            .0
            .into_values()
            .map(|(family, metrics)| {
                let mut encoded = MetricFamily::default();
                encoded.set_name(family.name.to_owned());
                encoded.set_help(family.help.to_owned());
                encoded.set_field_type(match family.kind {
                    Kind::Counter => MetricType::COUNTER,
                    Kind::Gauge => MetricType::GAUGE,
                    Kind::Histogram => MetricType::HISTOGRAM,
                });
                encoded.set_metric(metrics);
                encoded
            })
            .collect();
        TextEncoder::new()
            .encode_to_string(&families)
            .expect("every family has a name and at least one sample, and a String takes any text")
    }

    fn sample<L: Labels>(&mut self, family: Family, index: usize, value: u64) {
        let mut values = Vec::new();
        L::values(index, &mut values);
        // A gauge that different threads raise and lower is negative in some
        // of them; the wrapped sum is right.
        match family.kind {
            Kind::Gauge => self.number(family, &values, as_float_signed(value.cast_signed())),
            Kind::Counter | Kind::Histogram => self.count(family, &values, value),
        }
    }

    fn push(&mut self, family: Family, metric: Metric) {
        let (_, metrics) = self
            .0
            .entry(family.name)
            .or_insert_with(|| (family, Vec::new()));
        metrics.push(metric);
    }
}

fn sum<L: Labels>(shards: &[Arc<Shard>], index: usize, table: impl Fn(&Shard) -> &Table<L>) -> u64 {
    shards
        .iter()
        .fold(0, |sum, shard| sum.wrapping_add(table(shard).get(index)))
}

fn label_pairs(family: &Family, values: &[&str]) -> Vec<LabelPair> {
    debug_assert_eq!(family.labels.len(), values.len(), "{}", family.name);
    family
        .labels
        .iter()
        .zip(values)
        .map(|(name, value)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        })
        .collect()
}

/// Exact up to 2^53; beyond, a Prometheus sample cannot be either.
fn as_float(count: u64) -> f64 {
    count as f64
}

fn as_float_signed(count: i64) -> f64 {
    count as f64
}
