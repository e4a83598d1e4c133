//! Cells that one thread writes and the scrape reads. With a single writer,
//! adding is a load and a store: no locked instruction and no cache line
//! that two workers fight over.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::labels::Labels;

/// A number with one writing thread.
#[derive(Default)]
pub(super) struct Cell(AtomicU64);

impl Cell {
    /// Adds; a gauge is lowered by adding its negative value, wrapped.
    pub(super) fn add(&self, n: u64) {
        let old = self.0.load(Ordering::Relaxed);
        self.0.store(old.wrapping_add(n), Ordering::Relaxed);
    }

    pub(super) fn lower(&self) {
        self.add(1_u64.wrapping_neg());
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A cell for each combination of label values.
pub(super) struct Table<L: Labels> {
    cells: Box<[Cell]>,
    labels: PhantomData<L>,
}

impl<L: Labels> Table<L> {
    pub(super) fn at(&self, labels: L) -> &Cell {
        &self.cells[labels.index()]
    }

    pub(super) fn get(&self, index: usize) -> u64 {
        self.cells[index].get()
    }
}

impl<L: Labels> Default for Table<L> {
    fn default() -> Self {
        Self {
            cells: (0..L::COUNT).map(|_| Cell::default()).collect(),
            labels: PhantomData,
        }
    }
}

/// Upper bounds of the duration histograms, in seconds: a handshake on one
/// node takes about 1 ms, one across a continent 200 ms, the limit is 5 s.
pub(super) const BOUNDS: [f64; 14] = [
    0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.0, 2.0, 5.0,
];

/// Durations, for each combination of label values.
pub(super) struct Durations<L: Labels> {
    rows: Box<[Row]>,
    labels: PhantomData<L>,
}

#[derive(Default)]
struct Row {
    /// One more than there are bounds: the last takes what is above them all.
    buckets: [Cell; BOUNDS.len() + 1],
    nanos: Cell,
}

impl<L: Labels> Durations<L> {
    pub(super) fn observe(&self, labels: L, took: Duration) {
        let row = &self.rows[labels.index()];
        let seconds = took.as_secs_f64();
        let bucket = BOUNDS.partition_point(|bound| *bound < seconds);
        row.buckets[bucket].add(1);
        row.nanos
            .add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Counts by bucket, not cumulated, and the sum in nanoseconds.
    pub(super) fn get(&self, index: usize) -> ([u64; BOUNDS.len() + 1], u64) {
        let row = &self.rows[index];
        let mut counts = [0; BOUNDS.len() + 1];
        for (count, cell) in counts.iter_mut().zip(&row.buckets) {
            *count = cell.get();
        }
        (counts, row.nanos.get())
    }
}

impl<L: Labels> Default for Durations<L> {
    fn default() -> Self {
        Self {
            rows: (0..L::COUNT).map(|_| Row::default()).collect(),
            labels: PhantomData,
        }
    }
}
