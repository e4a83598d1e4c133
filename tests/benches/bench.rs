//! One run: the candidates in turn, round after round.

use mtls_tests::Result;

use crate::candidates::Candidate;
use crate::course::Course;
use crate::figures::{Figures, Value};
use crate::load::{Kind, Order};
use crate::options::Options;
use crate::{families, report};

pub(crate) struct Bench {
    pub(crate) options: Options,
    pub(crate) figures: Figures,
}

impl Bench {
    /// All families that were asked for.
    pub(crate) fn run(&mut self) -> Result {
        for family in families::ALL {
            if !self.options.wants(family.name) {
                continue;
            }
            println!("\n{}: {}", family.name, family.about);
            let known: Vec<_> = self.figures.measures.keys().cloned().collect();
            (family.run)(self)?;
            let new = self
                .figures
                .measures
                .iter()
                .filter(|(name, _)| !known.contains(name));
            print!("{}", report::for_terminal(new));
        }
        Ok(())
    }

    pub(crate) fn order(&self, kind: Kind, connections: usize) -> Order {
        Order {
            kind,
            connections,
            span: self.options.span,
        }
    }

    /// Each candidate of the course in turn, as many rounds as were asked for;
    /// whoever is first in one round is last in the next. One before them is
    /// not counted: tunnels are made, caches are warm.
    pub(crate) fn rounds(
        &mut self,
        course: &mut Course,
        mut measure: impl FnMut(&mut Course, Candidate) -> Result<Vec<Value>>,
    ) -> Result {
        let mut turn = course.candidates();
        for candidate in &turn {
            measure(course, *candidate)?;
        }
        for _ in 0..self.options.rounds {
            for candidate in &turn {
                for value in measure(course, *candidate)? {
                    self.figures.add(*candidate, value);
                }
            }
            turn.rotate_left(1);
        }
        Ok(())
    }
}
