//! The kernel's programs alone: attached, between workloads with everything
//! excluded, and between neighbours that nobody enrols, so that connections go
//! straight and the daemon has no part in them. The time is the kernel's own
//! account of its programs (bpf_stats).

use std::collections::HashMap;
use std::time::Duration;

use aya::programs::loaded_programs;
use aya::sys::{Stats, enable_stats};
use mtls_tests::{Error, Plan, Pod, Result, ensure};

use crate::bench::Bench;
use crate::candidates::Candidate;
use crate::course::{Change, Course};
use crate::figures::Value;
use crate::load::Kind;

pub(super) fn run(bench: &mut Bench) -> Result {
    let veth = "veth_gate_ns_per_frame";
    between(
        bench,
        ["hooks_us_per_connection", "hooks_ns_per_packet"],
        Some(veth),
        |plan, _, _| plan.set("network", "excluded", "[\"10.0.1.0/24\", \"10.0.2.0/24\"]"),
    )?;
    between(
        bench,
        ["neighbour_us_per_connection", "neighbour_ns_per_packet"],
        None,
        |plan, client, server| {
            plan.set_workload(client, "mode", "\"off\"")
                .set_workload(server, "mode", "\"off\"")
        },
    )
}

/// Between the two pods of that plan; at their veths is a gate, or none.
fn between(
    bench: &mut Bench,
    [each_connection, each_packet]: [&str; 2],
    each_frame: Option<&str>,
    plan: fn(Plan, &Pod, &Pod) -> Plan,
) -> Result {
    let before = programs()?;
    let mut course = Course::build_as(&[Candidate::Ours], |_, _| {
        Ok(Change {
            plan: Some(Box::new(plan)),
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
        ensure(ran.packets.runs > 0, || "no program saw a packet")?;
        let gated = ran.frames.runs > 0;
        ensure(gated == each_frame.is_some(), || {
            format!("{} frames came by a veth's gate", ran.frames.runs)
        })?;
        let connections = u32::try_from(measured.units).unwrap_or(u32::MAX);
        let time = ran.connections.time.as_secs_f64() * 1e6 / f64::from(connections);
        let mut values = vec![
            Value::new(each_connection, "us", time),
            Value::new(each_packet, "ns", ran.packets.nanos_each()),
        ];
        values.extend(each_frame.map(|name| Value::new(name, "ns", ran.frames.nanos_each())));
        Ok(values)
    })
}

/// What a program is called for.
#[derive(Clone, Copy)]
enum Calls {
    Connections,
    Packets,
    /// Packets, too, once more at the node's end of a veth.
    Frames,
}

/// What a program did so far.
#[derive(Clone, Copy)]
struct Account {
    calls: Calls,
    spent: Spent,
}

#[derive(Clone, Copy, Default)]
struct Spent {
    time: Duration,
    runs: u64,
}

impl Spent {
    fn nanos_each(self) -> f64 {
        let runs = u32::try_from(self.runs).unwrap_or(u32::MAX);
        self.time.as_secs_f64() * 1e9 / f64::from(runs)
    }
}

#[derive(Default)]
struct Ran {
    connections: Spent,
    packets: Spent,
    frames: Spent,
}

impl Ran {
    fn between(
        then: &HashMap<u32, Account>,
        now: &HashMap<u32, Account>,
        is_ours: impl Fn(u32) -> bool,
    ) -> Self {
        let mut ran = Self::default();
        for (id, now) in now.iter().filter(|(id, _)| is_ours(**id)) {
            let then = then.get(id).map(|then| then.spent).unwrap_or_default();
            let spent = match now.calls {
                Calls::Connections => &mut ran.connections,
                Calls::Packets => &mut ran.packets,
                Calls::Frames => &mut ran.frames,
            };
            spent.time += now.spent.time - then.time;
            spent.runs += now.spent.runs - then.runs;
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
            calls: match program.name_as_str() {
                Some("egress" | "ingress") => Calls::Packets,
                Some("veth") => Calls::Frames,
                _ => Calls::Connections,
            },
            spent: Spent {
                time: program.run_time(),
                runs: program.run_count(),
            },
        };
        programs.insert(program.id(), account);
    }
    Ok(programs)
}
