//! Figures: what was measured, by measure and candidate, round by round; and
//! the file that holds them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use mtls_tests::{Doing, Error, Result};
use serde::{Deserialize, Serialize};

use crate::candidates::Candidate;
use crate::machine::Machine;

/// Everything that was measured on one machine.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Figures {
    pub(crate) machine: Machine,
    pub(crate) measures: BTreeMap<String, Measure>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Measure {
    pub(crate) unit: String,
    #[serde(flatten)]
    of: BTreeMap<String, Rounds>,
}

/// Of one candidate.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Rounds {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    /// In the order in which they were run, so that those of one round can be
    /// compared: what disturbs a round disturbs all candidates.
    rounds: Vec<f64>,
}

/// One value, of one round.
#[derive(Clone, Debug)]
pub(crate) struct Value {
    pub(crate) measure: String,
    pub(crate) unit: &'static str,
    pub(crate) value: f64,
}

impl Value {
    pub(crate) fn new(measure: impl Into<String>, unit: &'static str, value: f64) -> Self {
        Self {
            measure: measure.into(),
            unit,
            value,
        }
    }
}

impl Figures {
    pub(crate) fn new(machine: Machine) -> Self {
        Self {
            machine,
            measures: BTreeMap::new(),
        }
    }

    pub(crate) fn add(&mut self, candidate: Candidate, value: Value) {
        let measure = self
            .measures
            .entry(value.measure)
            .or_insert_with(|| Measure {
                unit: value.unit.to_owned(),
                of: BTreeMap::new(),
            });
        let rounds = measure.of.entry(candidate.name().to_owned()).or_default();
        rounds.add(value.value);
    }

    pub(crate) fn of(&self, measure: &str, candidate: Candidate) -> Option<&Rounds> {
        self.measures.get(measure)?.of(candidate)
    }

    pub(crate) fn median(&self, measure: &str, candidate: Candidate) -> Option<f64> {
        Some(self.of(measure, candidate)?.median)
    }

    /// One candidate's figure over another's, round by round.
    pub(crate) fn ratio(&self, measure: &str, of: Candidate, to: Candidate) -> Option<Rounds> {
        self.measures.get(measure)?.ratio(of, to)
    }

    /// One measure's figures over another's, round by round.
    pub(crate) fn change(&self, of: &str, to: &str, candidate: Candidate) -> Option<Rounds> {
        Some(self.of(of, candidate)?.over(self.of(to, candidate)?))
    }

    /// Those of a file. Not a mistake if it is not there yet.
    pub(crate) fn read(file: &Path) -> Result<Option<Self>> {
        let text = match fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).doing(|| format!("reading {}", file.display())),
        };
        serde_json::from_str(&text)
            .map(Some)
            .map_err(|e| Error::Unreadable {
                what: file.display().to_string(),
                why: e.to_string(),
            })
    }

    /// Puts them into a file. Measures that it has, and that were not measured
    /// now, stay: a long run may be made in parts.
    pub(crate) fn write(mut self, file: &Path) -> Result {
        if let Some(before) = Self::read(file)?
            && before.machine.is_same_as(&self.machine)
        {
            for (name, measure) in before.measures {
                self.measures.entry(name).or_insert(measure);
            }
        }
        let text = serde_json::to_string_pretty(&self)
            .map_err(|e| Error::Unexpected(format!("writing the figures: {e}")))?;
        fs::write(file, text + "\n").doing(|| format!("writing {}", file.display()))
    }
}

impl Measure {
    pub(crate) fn of(&self, candidate: Candidate) -> Option<&Rounds> {
        self.of.get(candidate.name())
    }

    pub(crate) fn ratio(&self, of: Candidate, to: Candidate) -> Option<Rounds> {
        Some(self.of(of)?.over(self.of(to)?))
    }
}

impl Rounds {
    fn over(&self, other: &Self) -> Self {
        let mut ratios = Self::default();
        for (value, other) in self.rounds.iter().zip(&other.rounds) {
            ratios.add(value / other);
        }
        ratios
    }

    fn add(&mut self, value: f64) {
        self.rounds.push(value);
        self.median = median(self.rounds.clone());
        self.min = self.rounds.iter().copied().fold(f64::INFINITY, f64::min);
        self.max = self.rounds.iter().copied().fold(0.0, f64::max);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn rounds(values: &[f64]) -> Rounds {
        let mut rounds = Rounds::default();
        values.iter().for_each(|value| rounds.add(*value));
        rounds
    }

    #[test]
    fn medians_and_extremes() {
        let odd = rounds(&[3.0, 1.0, 2.0]);
        assert_eq!((odd.median, odd.min, odd.max), (2.0, 1.0, 3.0));
        assert_eq!(rounds(&[4.0, 1.0, 2.0, 3.0]).median, 2.5);
    }

    #[test]
    fn ratios_are_of_the_same_round() {
        let mut figures = Figures::new(Machine::default());
        // A round in which the machine was ten times slower for both.
        for (direct, ours) in [(10.0, 5.0), (1.0, 0.5), (10.0, 5.0)] {
            figures.add(Candidate::Direct, Value::new("bulk_1", "Gbit/s", direct));
            figures.add(Candidate::Ours, Value::new("bulk_1", "Gbit/s", ours));
        }
        let ratio = figures
            .ratio("bulk_1", Candidate::Ours, Candidate::Direct)
            .unwrap();
        assert_eq!((ratio.median, ratio.min, ratio.max), (0.5, 0.5, 0.5));
        assert!(
            figures
                .ratio("bulk_1", Candidate::Envoy, Candidate::Direct)
                .is_none()
        );
    }

    #[test]
    fn the_file_has_the_form_that_others_read() {
        let mut figures = Figures::new(Machine::default());
        figures.add(Candidate::Direct, Value::new("bulk_1", "Gbit/s", 2.0));
        let json = serde_json::to_value(&figures).unwrap();
        let measure = &json["measures"]["bulk_1"];
        assert_eq!(measure["unit"], "Gbit/s");
        assert_eq!(measure["direct"]["median"], 2.0);
        let back: Figures = serde_json::from_value(json).unwrap();
        assert_eq!(back.median("bulk_1", Candidate::Direct), Some(2.0));
    }
}
