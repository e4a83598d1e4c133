//! The same loads over a distance, and over a wire that loses packets.

use std::time::Duration;

use mtls_tests::Result;

use super::loads::{BULK_1, BULK_8, RR_64, run_on};
use crate::bench::Bench;
use crate::course::Course;
use crate::relay::{Distance, Relay};

const DISTANCES: [(&str, Distance); 3] = [
    (
        "_1ms",
        Distance {
            round_trip: Duration::from_millis(1),
            one_lost_in: 0,
        },
    ),
    (
        "_10ms",
        Distance {
            round_trip: Duration::from_millis(10),
            one_lost_in: 0,
        },
    ),
    (
        "_loss",
        Distance {
            round_trip: Duration::from_millis(1),
            one_lost_in: 1000,
        },
    ),
];

pub(super) fn run(bench: &mut Bench) -> Result {
    for (name, distance) in DISTANCES {
        // Whoever measures the distance does it once.
        let mut course = Course::build(&bench.options.candidates)?;
        let (a, b) = (course.a.clone(), course.b.clone());
        let _relay = Relay::between(&a, &b, distance)?;
        run_on(bench, &mut course, &[BULK_1, BULK_8, RR_64], name)?;
    }
    Ok(())
}
