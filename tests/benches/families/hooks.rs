//! The kernel's programs alone: attached, with everything excluded, so that
//! connections go straight and the daemon has no part in them. The time is the
//! kernel's own account of its programs (bpf_stats).

use std::collections::HashMap;
use std::time::Duration;

use aya::programs::loaded_programs;
use aya::sys::{Stats, enable_stats};
use mtls_tests::{Error, Result, ensure};

use crate::bench::Bench;
use crate::candidates::Candidate;
use crate::course::{Change, Course};
use crate::figures::Value;
use crate::load::Kind;

pub(super) fn run(bench: &mut Bench) -> Result {
    let before = programs()?;
    let mut course = Course::build_as(&[Candidate::Ours], |_, _| {
        Ok(Change {
            plan: Some(Box::new(|plan, _, _| {
                plan.set("network", "excluded", "[\"10.0.1.0/24\", \"10.0.2.0/24\"]")
            })),
            ..Change::default()
        })
    })?;
    // Off again when it is closed.
    let _counting =
        enable_stats(Stats::RunTime).map_err(|e| Error::Unexpected(format!("bpf_stats: {e}")))?;
    let order = bench.order(Kind::ConnectRequestClose, 1);
    bench.rounds(&mut course, |course, candidate| {
        let then = programs()?;
        let (measured, _) = course.way(candidate)?.measure(order)?;
        let ran = Ran::between(&then, &programs()?, |id| !before.contains_key(&id));
        ensure(ran.packets > 0, || "no program saw a packet")?;
        let connections = u32::try_from(measured.units).unwrap_or(u32::MAX);
        Ok(vec![
            Value::new(
                "hooks_us_per_connection",
                "us",
                ran.of_connections.as_secs_f64() * 1e6 / f64::from(connections),
            ),
            Value::new(
                "hooks_ns_per_packet",
                "ns",
                ran.of_packets.as_secs_f64() * 1e9 / f64::from(ran.packets),
            ),
        ])
    })
}

/// What a program did so far.
#[derive(Clone, Copy)]
struct Account {
    sees_packets: bool,
    time: Duration,
    runs: u64,
}

#[derive(Default)]
struct Ran {
    of_connections: Duration,
    of_packets: Duration,
    packets: u32,
}

impl Ran {
    fn between(
        then: &HashMap<u32, Account>,
        now: &HashMap<u32, Account>,
        is_ours: impl Fn(u32) -> bool,
    ) -> Self {
        let mut ran = Self::default();
        for (id, now) in now.iter().filter(|(id, _)| is_ours(**id)) {
            let then = then.get(id);
            let time = now.time - then.map_or(Duration::ZERO, |then| then.time);
            if now.sees_packets {
                ran.of_packets += time;
                let runs = now.runs - then.map_or(0, |then| then.runs);
                ran.packets += u32::try_from(runs).unwrap_or(u32::MAX);
            } else {
                ran.of_connections += time;
            }
        }
        ran
    }
}

fn programs() -> Result<HashMap<u32, Account>> {
    let unreadable = |e: &dyn std::fmt::Display| Error::Unreadable {
        what: "the list of loaded BPF programs".into(),
        why: e.to_string(),
    };
    let mut programs = HashMap::new();
    for program in loaded_programs() {
        let program = program.map_err(|e| unreadable(&e))?;
        let account = Account {
            sees_packets: matches!(program.name_as_str(), Some("egress" | "ingress")),
            time: program.run_time(),
            runs: program.run_count(),
        };
        programs.insert(program.id(), account);
    }
    Ok(programs)
}
