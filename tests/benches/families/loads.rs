//! The plain loads: bulk, requests and answers, connections.

use mtls_tests::Result;

use crate::account::Cpu;
use crate::bench::Bench;
use crate::course::Course;
use crate::figures::Value;
use crate::load::{Kind, Measured};

/// A load by the name that its measures begin with.
pub(super) type Load = (&'static str, Kind, usize);

pub(super) const BULK_1: Load = ("bulk_1", Kind::Bulk, 1);
pub(super) const BULK_8: Load = ("bulk_8", Kind::Bulk, 8);
pub(super) const RR_1: Load = ("rr_1", Kind::RequestResponse, 1);
pub(super) const RR_64: Load = ("rr_64", Kind::RequestResponse, 64);
pub(super) const CRR_1: Load = ("crr_1", Kind::ConnectRequestClose, 1);
pub(super) const CRR_64: Load = ("crr_64", Kind::ConnectRequestClose, 64);

pub(super) fn bulk(bench: &mut Bench) -> Result {
    let back = [
        ("bulk_1_back", Kind::BulkBack, 1),
        ("bulk_8_back", Kind::BulkBack, 8),
    ];
    run(bench, &[BULK_1, BULK_8, back[0], back[1]])
}

pub(super) fn requests(bench: &mut Bench) -> Result {
    run(bench, &[RR_1, RR_64])
}

pub(super) fn connections(bench: &mut Bench) -> Result {
    run(bench, &[CRR_1, CRR_64])
}

fn run(bench: &mut Bench, loads: &[Load]) -> Result {
    let mut course = Course::build(&bench.options.candidates)?;
    run_on(bench, &mut course, loads, "")
}

/// On a course that is there; `suffix` tells it from the usual one.
pub(super) fn run_on(
    bench: &mut Bench,
    course: &mut Course,
    loads: &[Load],
    suffix: &str,
) -> Result {
    for (name, kind, connections) in loads {
        let order = bench.order(*kind, *connections);
        bench.rounds(course, |course, candidate| {
            let (measured, cpu) = course.way(candidate)?.measure(order)?;
            Ok(values(&format!("{name}{suffix}"), *kind, &measured, cpu))
        })?;
    }
    Ok(())
}

pub(super) fn values(name: &str, kind: Kind, measured: &Measured, cpu: Cpu) -> Vec<Value> {
    let mut values = match kind {
        Kind::Bulk | Kind::BulkBack => bulk_values(name, measured),
        Kind::RequestResponse | Kind::ConnectRequestClose => vec![
            Value::new(format!("{name}_per_s"), "/s", measured.rate()),
            Value::new(format!("{name}_p50_us"), "us", measured.p50),
            Value::new(format!("{name}_p99_us"), "us", measured.p99),
            Value::new(format!("{name}_p999_us"), "us", measured.p999),
        ],
    };
    if cpu != Cpu::default() {
        values.extend(cost(name, measured, cpu));
    }
    values
}

fn bulk_values(name: &str, measured: &Measured) -> Vec<Value> {
    let mut values = vec![Value::new(name, "Gbit/s", measured.gbits())];
    if name == "bulk_8" {
        values.extend(fairness("bulk_8_fairness", measured));
    }
    values
}

/// The slowest connection's share, over the fastest one's.
#[expect(clippy::cast_precision_loss, reason = "a share, for people")]
pub(super) fn fairness(name: &str, measured: &Measured) -> Option<Value> {
    let (least, most) = (
        measured.streams.iter().min()?,
        measured.streams.iter().max()?,
    );
    Some(Value::new(name, "", *least as f64 / *most as f64))
}

/// Of both proxies together.
#[expect(clippy::cast_precision_loss, reason = "figures, for people")]
fn cost(name: &str, measured: &Measured, cpu: Cpu) -> Vec<Value> {
    let (unit, what, scale) = match name {
        "bulk_1" => ("s", "s_per_gib", (1_u64 << 30) as f64),
        "rr_64" => ("us", "us_per_request", 1e6),
        "crr_64" => ("us", "us_per_connection", 1e6),
        _ => return Vec::new(),
    };
    let each = scale / measured.units as f64;
    vec![
        Value::new(
            format!("cpu_{what}"),
            unit,
            cpu.total().as_secs_f64() * each,
        ),
        Value::new(
            format!("cpu_user_{what}"),
            unit,
            cpu.user.as_secs_f64() * each,
        ),
        Value::new(
            format!("cpu_system_{what}"),
            unit,
            cpu.system.as_secs_f64() * each,
        ),
    ]
}
