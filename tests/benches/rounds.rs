//! Rounds put together: medians, and how far apart the rounds were.

use std::fmt;
use std::time::Duration;

use crate::course::Sample;
use crate::load::{Kind, Measured};

/// A line of the table.
pub(crate) struct Row {
    kind: Kind,
    connections: usize,
    direct: Vec<Measured>,
    mesh: Vec<Sample>,
}

impl Row {
    pub(crate) fn new(kind: Kind, connections: usize) -> Self {
        Self {
            kind,
            connections,
            direct: Vec::new(),
            mesh: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, direct: Measured, mesh: Sample) {
        self.direct.push(direct);
        self.mesh.push(mesh);
    }

    pub(crate) fn heading() -> String {
        format!(
            "{:<32} {:>14} {:>14} {:>6} {:>13}  {:>15} {:>15}  {}",
            "",
            "direct",
            "daemons",
            "ratio",
            "min..max",
            "p50/p99 direct",
            "p50/p99 daemons",
            "CPU of both daemons"
        )
    }

    /// Of each round, rather than of the medians: what disturbs a round
    /// disturbs both its halves.
    fn ratios(&self) -> Vec<f64> {
        self.direct
            .iter()
            .zip(&self.mesh)
            .map(|(direct, mesh)| mesh.measured.rate() / direct.rate())
            .collect()
    }

    fn rate(&self, rate: f64) -> String {
        match self.kind {
            Kind::Bulk => format!("{:.2} Gbit/s", rate * 8.0 / 1e9),
            Kind::RequestResponse | Kind::ConnectRequestClose => format!("{rate:.0} /s"),
        }
    }

    fn latency(&self, of: impl Iterator<Item = Measured> + Clone) -> String {
        if self.kind == Kind::Bulk {
            return String::new();
        }
        let median_of = |part: fn(Measured) -> u64| {
            median(
                of.clone()
                    .map(|measured| to_float(part(measured)))
                    .collect(),
            )
        };
        format!("{:.0}/{:.0} us", median_of(|m| m.p50), median_of(|m| m.p99))
    }

    fn cpu(&self) -> String {
        let of_unit = |sample: &Sample| sample.cpu.as_secs_f64() / to_float(sample.measured.units);
        let each = median(self.mesh.iter().map(of_unit).collect());
        match self.kind {
            Kind::Bulk => format!("{:.2} s/GiB", each * to_float(1 << 30)),
            Kind::RequestResponse | Kind::ConnectRequestClose => {
                format!(
                    "{:.1} us each",
                    each / Duration::from_micros(1).as_secs_f64()
                )
            }
        }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            Kind::Bulk => "bulk",
            Kind::RequestResponse => "request-response",
            Kind::ConnectRequestClose => "connect-request-close",
        };
        let title = format!("{what}, {} at once", self.connections);
        let ratios = self.ratios();
        let (least, most) = extremes(&ratios);
        write!(
            f,
            "{title:<32} {:>14} {:>14} {:>6.2} {:>13}  {:>15} {:>15}  {}",
            self.rate(median(self.direct.iter().map(Measured::rate).collect())),
            self.rate(median(
                self.mesh
                    .iter()
                    .map(|sample| sample.measured.rate())
                    .collect()
            )),
            median(ratios),
            format!("{least:.2}..{most:.2}"),
            self.latency(self.direct.iter().copied()),
            self.latency(self.mesh.iter().map(|sample| sample.measured)),
            self.cpu(),
        )
    }
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    let middle = numbers.len() / 2;
    match numbers.as_slice() {
        [] => 0.0,
        all if all.len() % 2 == 1 => all[middle],
        all => f64::midpoint(all[middle - 1], all[middle]),
    }
}

fn extremes(numbers: &[f64]) -> (f64, f64) {
    numbers
        .iter()
        .fold((f64::INFINITY, 0.0), |(least, most), number| {
            (number.min(least), number.max(most))
        })
}

#[expect(clippy::cast_precision_loss, reason = "a figure, for people")]
fn to_float(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_extremes() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(Vec::new()), 0.0);
        assert_eq!(extremes(&[0.5, 0.2, 0.9]), (0.2, 0.9));
    }
}
