//! `cargo xtask soak MINUTES`: the demo's applications over and over, with a
//! crash of a daemon now and then. Nothing may grow, nothing may be on the
//! wire in clear.

use std::time::Duration;

use mtls_tests::deadline::Deadline;
use mtls_tests::mesh::Daemon;
use mtls_tests::{Family, Result, ensure};

use crate::screen::{Screen, bytes};
use crate::stage::Stage;
use crate::talk;

/// Cycles between two crashes; the daemons take turns.
const CRASH_EVERY: usize = 10;
const REQUESTS: usize = 500;

pub(crate) fn run(stage: &mut Stage, span: Duration, screen: &mut Screen) -> Result {
    screen.heading(&format!("Soaking for {} minutes", span.as_secs() / 60));
    // Each cycle watches the wire for itself, so that no file grows without end.
    drop(stage.mesh.wire()?);
    let end = Deadline::after(span);
    let mut rested: Option<Vec<Figures>> = None;
    let mut cycle = 0_usize;
    while !end.passed() {
        cycle += 1;
        screen.fact(&format!("cycle {cycle}"), || {
            let wire = stage.a.capture_wire()?;
            work(stage)?;
            let report = wire.finish()?;
            report.ensure_only_tls()?;
            let now = figures(stage)?;
            let found = now
                .iter()
                .map(Figures::to_string)
                .collect::<Vec<_>>()
                .join("; ");
            if let Some(then) = &rested {
                for (now, then) in now.iter().zip(then) {
                    now.ensure_no_growth_since(then)?;
                }
            }
            rested.get_or_insert(now);
            Ok(format!("{} in TLS; {found}", bytes(report.inside())))
        })?;
        if cycle.is_multiple_of(CRASH_EVERY) {
            let node = if (cycle / CRASH_EVERY).is_multiple_of(2) {
                stage.a.clone()
            } else {
                stage.b.clone()
            };
            screen.fact(&format!("crash on node {}", node.name()), || {
                let daemon = stage.mesh.daemon(&node)?;
                daemon.kill()?;
                let output = talk::request(&stage.frontend, stage, Family::V4)?;
                ensure(!output.status.success(), || "a request got through")?;
                stage.mesh.daemon(&node)?.start()?;
                Ok("nothing got through while it was gone; ready again".into())
            })?;
            rested = None;
        }
    }
    screen.done();
    Ok(())
}

fn work(stage: &Stage) -> Result {
    for family in Family::BOTH {
        talk::requests(stage, family, REQUESTS)?;
        talk::download(stage, family)?;
        talk::pgbench(stage, family)?;
        talk::redis_benchmark(stage, family)?;
    }
    Ok(())
}

/// What a daemon holds when no connection is open.
struct Figures {
    node: String,
    descriptors: u64,
    memory: u64,
    /// Notes of original destinations that nobody took.
    notes: u64,
}

fn figures(stage: &mut Stage) -> Result<Vec<Figures>> {
    stage.mesh.daemons().iter().map(Figures::of).collect()
}

impl Figures {
    fn of(daemon: &Daemon) -> Result<Self> {
        let metrics = daemon.wait_for_metrics("all connections have ended", |metrics| {
            metrics.sum("mtls_connections_open", &[]) == 0.0
        })?;
        Ok(Self {
            node: daemon.node().name().to_owned(),
            descriptors: metrics.count("mtls_process_open_fds", &[]),
            memory: metrics.count("mtls_process_resident_memory_bytes", &[]),
            notes: metrics.count("mtls_bpf_map_entries", &[("map", "original_dst")]),
        })
    }

    /// Memory may breathe by a tenth; the rest is as it was.
    fn ensure_no_growth_since(&self, then: &Self) -> Result {
        ensure(self.descriptors <= then.descriptors + 8, || {
            format!("descriptors grew from {} to {self}", then.descriptors)
        })?;
        ensure(
            self.memory <= then.memory + then.memory / 10 + (4 << 20),
            || format!("memory grew from {} to {self}", bytes(then.memory)),
        )?;
        ensure(self.notes == 0, || {
            format!("notes of the kernel were left: {self}")
        })
    }
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "node {}: {} descriptors, {}, {} notes",
            self.node,
            self.descriptors,
            bytes(self.memory),
            self.notes
        )
    }
}
