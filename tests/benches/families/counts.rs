//! System calls of both proxies, counted by the kernel in runs apart from
//! those that measure time.

use std::path::Path;

use mtls_tests::{Doing, Error, Result};

use super::loads::{CRR_64, Load, RR_1, RR_64};
use crate::bench::Bench;
use crate::course::{Course, Way, myself};
use crate::figures::Value;
use crate::load::{Measured, Order};

const EVENT: &str = "raw_syscalls:sys_enter";
const COUNTED: [(Load, &str); 3] = [
    (RR_1, "syscalls_per_request_alone"),
    (RR_64, "syscalls_per_request"),
    (CRR_64, "syscalls_per_connection"),
];

pub(super) fn run(bench: &mut Bench) -> Result {
    let mut course = Course::build(&bench.options.candidates)?;
    for ((_, kind, connections), name) in COUNTED {
        let order = bench.order(kind, connections);
        bench.rounds(&mut course, |course, candidate| {
            let way = course.way(candidate)?;
            if way.accounts().is_empty() {
                return Ok(Vec::new());
            }
            Ok(vec![Value::new(name, "", count(way, order)?)])
        })?;
    }
    Ok(())
}

/// Calls for each unit of the work.
fn count(way: &Way, order: Order) -> Result<f64> {
    let mut pids = Vec::new();
    for account in way.accounts() {
        pids.extend(account.pids()?.iter().map(u32::to_string));
    }
    let file = way.client.node().scene().logs().join("perf.csv");
    // perf counts for as long as the load runs.
    let said = way
        .client
        .spawn("perf")?
        .args(["stat", "--field-separator", ",", "--event", EVENT])
        .args(["--pid", &pids.join(","), "--output"])
        .arg(&file)
        .arg("--")
        .arg(myself()?)
        .args(["--load", &way.to.to_string()])
        .args(order.words())
        .output()?
        .success()?;
    let unreadable = |what: &str, why: String| Error::Unreadable {
        what: what.to_owned(),
        why,
    };
    let measured: Measured =
        serde_json::from_str(&said).map_err(|e| unreadable(&said, e.to_string()))?;
    let calls = calls(&file)?;
    #[expect(clippy::cast_precision_loss, reason = "a figure, for people")]
    let each = calls as f64 / measured.units as f64;
    Ok(each)
}

/// `4711,,raw_syscalls:sys_enter,...` under a comment.
fn calls(file: &Path) -> Result<u64> {
    let text = std::fs::read_to_string(file).doing(|| format!("reading {}", file.display()))?;
    let line = text.lines().find(|line| line.contains(EVENT));
    line.and_then(|line| line.split(',').next()?.parse().ok())
        .ok_or_else(|| Error::Unreadable {
            what: "what perf counted".into(),
            why: text,
        })
}
