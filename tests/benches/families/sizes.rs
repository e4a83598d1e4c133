//! What a large node costs: the same loads with many workloads, many services,
//! many idle connections, each in turn with a course that has none of them.

use std::fmt::Write as _;

use mtls_tests::{Family, Pod, Result};

use super::loads::{BULK_1, CRR_64, RR_64, values};
use super::memory;
use crate::bench::Bench;
use crate::candidates::Candidate;
use crate::course::{Change, Course};

const SERVICES: u16 = 10_000;
const IDLE: usize = 10_000;

pub(super) fn workloads(bench: &mut Bench) -> Result {
    let small = Course::build(&[Candidate::Ours])?;
    let sizes: &[u8] = if bench.options.quick {
        &[5]
    } else {
        &[50, 250]
    };
    for size in sizes {
        let large = Course::build_as(&[Candidate::Ours], |a, b| {
            Change::with_others(a, b, size - 1)
        })?;
        memory::resident(bench, &large, &format!("rss_{size}_mib"))?;
        compare(bench, &small, &large, &format!("_{size}_pods"))?;
    }
    Ok(())
}

pub(super) fn services(bench: &mut Bench) -> Result {
    let small = Course::build(&[Candidate::Ours])?;
    let count = if bench.options.quick { 100 } else { SERVICES };
    let large = Course::build_as(&[Candidate::Ours], |_, _| {
        Ok(Change {
            plan: Some(Box::new(move |plan, client, server| {
                let services = directory(count, server);
                plan.append(client.node(), &services)
                    .append(server.node(), &services)
            })),
            ..Change::default()
        })
    })?;
    compare(bench, &small, &large, "_10k_services")
}

fn directory(count: u16, endpoint: &Pod) -> String {
    let mut text = String::new();
    for nth in 0..count {
        let (high, low) = (64 + nth / 200, 1 + nth % 200);
        let _ = writeln!(
            text,
            "[[service]]\nname = \"service-{nth}\"\naddresses = [\"10.0.{high}.{low}\"]\n\
             ports = [80]\nendpoints = [\"{}\"]\n",
            endpoint.address(Family::V4)
        );
    }
    text
}

pub(super) fn idle(bench: &mut Bench) -> Result {
    let small = Course::build(&[Candidate::Ours])?;
    let large = Course::build(&[Candidate::Ours])?;
    let count = if bench.options.quick { 200 } else { IDLE };
    let _held = memory::hold(large.way(Candidate::Ours)?, count)?;
    compare(bench, &small, &large, "_10k_idle")
}

/// Both in turn, the figures of the small one with `_without` at their end.
fn compare(bench: &mut Bench, small: &Course, large: &Course, change: &str) -> Result {
    let without = format!("{change}_without");
    for (name, kind, connections) in [BULK_1, RR_64, CRR_64] {
        let order = bench.order(kind, connections);
        let mut courses = [(small, without.as_str()), (large, change)];
        for round in 0..=bench.options.rounds {
            for (course, suffix) in courses {
                let (measured, cpu) = course.way(Candidate::Ours)?.measure(order)?;
                // The first round warms up.
                if round > 0 {
                    for value in values(&format!("{name}{suffix}"), kind, &measured, cpu) {
                        bench.figures.add(Candidate::Ours, value);
                    }
                }
            }
            courses.swap(0, 1);
        }
    }
    Ok(())
}
