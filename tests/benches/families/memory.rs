//! Memory: of connections that do nothing, and of proxies that do nothing.
//! Only the processes' own; what the kernel keeps for a socket is not in it.

use std::time::Duration;

use mtls_tests::deadline::Deadline;
use mtls_tests::{Error, Result, ensure_eq};

use crate::bench::Bench;
use crate::candidates::Candidate;
use crate::course::{Change, Course, Way, myself};
use crate::figures::Value;

const IDLE: usize = 10_000;
/// Ours gives back what it does not need any more every ten seconds: by then
/// whoever does nothing is at rest.
const AT_REST: Duration = Duration::from_secs(12);
/// Of those that need a descriptor more at either side for each: a process may
/// have 20,000 on many machines.
const IDLE_OF_OTHERS: usize = 4_000;

pub(super) fn idle_connections(bench: &mut Bench) -> Result {
    let mut course = Course::build(&bench.options.candidates)?;
    for candidate in course.candidates() {
        let way = course.way(candidate)?;
        if way.accounts().is_empty() {
            continue;
        }
        let count = match (bench.options.quick, candidate.has_a_wire_connection_each()) {
            (true, _) => 200,
            (false, true) => IDLE_OF_OTHERS,
            (false, false) => IDLE,
        };
        // What the first connections ever cost is not theirs.
        way.load(bench.order(crate::load::Kind::RequestResponse, 64))?;
        drop(hold(way, count / 10)?);
        come_to_rest();
        let before = own_memory(way)?;
        let held = hold(way, count)?;
        come_to_rest();
        let after = own_memory(way)?;
        drop(held);
        let each: Vec<f64> = before
            .iter()
            .zip(&after)
            .map(|(before, after)| kib(after.saturating_sub(*before)) / to_float(count))
            .collect();
        let largest = each.iter().copied().fold(0.0, f64::max);
        for (name, value) in [
            ("idle_kib_per_connection", largest),
            ("idle_kib_at_client", each[0]),
            ("idle_kib_at_server", each[1]),
        ] {
            bench.figures.add(candidate, Value::new(name, "KiB", value));
        }
    }
    // Ten thousand connections at the least, over a pair that knows no tunnel yet.
    if course.mesh.is_some() {
        drop(course);
        course = Course::build(&[Candidate::Ours])?;
        handshakes(bench, &mut course)?;
    }
    Ok(())
}

fn come_to_rest() {
    #[expect(
        clippy::disallowed_methods,
        reason = "that nothing happens is the point"
    )]
    std::thread::sleep(AT_REST);
}

/// Opens them, and holds them until it is dropped.
pub(super) fn hold(way: &Way, count: usize) -> Result<mtls_tests::talker::Talker> {
    let mut held = way
        .client
        .spawn(myself()?)?
        .args(["--hold", &way.to.to_string(), &count.to_string()])
        .start_talking()?;
    let opened = held.line(Deadline::default())?;
    let Some(opened) = opened else {
        return Err(Error::Unexpected(format!(
            "{}: idle connections: {}",
            way.candidate.name(),
            held.process().log()
        )));
    };
    ensure_eq(opened, count.to_string(), "idle connections")?;
    Ok(held)
}

fn own_memory(way: &Way) -> Result<Vec<u64>> {
    way.accounts()
        .iter()
        .map(crate::account::Account::anonymous)
        .collect()
}

fn handshakes(bench: &mut Bench, course: &mut Course) -> Result {
    let opened = hold_in_turn(course.way(Candidate::Ours)?, IDLE)?;
    ensure_eq(opened, IDLE, "connections")?;
    let mut count = 0;
    for daemon in course.mesh()?.daemons() {
        let metrics = daemon.metrics()?;
        count += metrics.count(
            "mtls_handshakes_total",
            &[("direction", "outbound"), ("result", "ok")],
        );
    }
    let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    for (name, value) in [
        ("handshakes_10k", f64::from(count)),
        (
            "handshakes_10k_per_worker",
            f64::from(count) / to_float(workers),
        ),
    ] {
        bench
            .figures
            .add(Candidate::Ours, Value::new(name, "", value));
    }
    Ok(())
}

/// Opens and closes that many connections, 64 at a time.
fn hold_in_turn(way: &Way, count: usize) -> Result<usize> {
    let said = way
        .client
        .spawn(myself()?)?
        .args(["--in-turn", &way.to.to_string(), &count.to_string()])
        .output()?
        .success()?;
    said.trim().parse().map_err(|e| Error::Unreadable {
        what: format!("the client's report {said:?}"),
        why: format!("{e}"),
    })
}

/// Of proxies that have nothing to do; ours with ten workloads a node.
pub(super) fn at_rest(bench: &mut Bench) -> Result {
    let others = if bench.options.quick { 1 } else { 9 };
    let course = Course::build_as(&bench.options.candidates, |a, b| {
        Change::with_others(a, b, others)
    })?;
    come_to_rest();
    resident(bench, &course, "idle_rss_mib")
}

/// The larger of both sides, now.
pub(super) fn resident(bench: &mut Bench, course: &Course, name: &str) -> Result {
    for candidate in course.candidates() {
        let mut largest = 0;
        for account in course.way(candidate)?.accounts() {
            largest = largest.max(account.resident()?);
        }
        if largest > 0 {
            let value = Value::new(name, "MiB", kib(largest) / 1024.0);
            bench.figures.add(candidate, value);
        }
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "a figure, for people")]
fn kib(bytes: u64) -> f64 {
    bytes as f64 / 1024.0
}

#[expect(clippy::cast_precision_loss, reason = "a figure, for people")]
fn to_float(count: usize) -> f64 {
    count as f64
}
