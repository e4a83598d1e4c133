//! Why a fact did not hold, as far as the daemons know.

use std::collections::BTreeMap;
use std::fmt::Write;

use mtls_tests::Result;
use mtls_tests::mesh::Daemon;
use mtls_tests::process::Output;

use crate::stage::Stage;

/// Metrics whose label `reason` says what went wrong.
const TELLING: &[(&str, &str)] = &[
    ("mtls_handshake_failures_total", "failed handshakes"),
    ("mtls_connections_refused_total", "refused connections"),
];

/// What each daemon counted, with the remedy that it gives.
pub(crate) fn of(stage: &mut Stage) -> String {
    let mut said = String::new();
    for daemon in stage.mesh.daemons() {
        let node = daemon.node().name().to_owned();
        if !daemon.is_running() {
            let _ = writeln!(said, "node {node}: its daemon does not run");
            continue;
        }
        match reasons(daemon) {
            Ok(reasons) => {
                for (reason, counted) in reasons {
                    let _ = writeln!(
                        said,
                        "node {node}: {reason}: {}\n  {}",
                        counted.join(", "),
                        remedy(daemon, &reason)
                    );
                }
            }
            Err(error) => {
                let _ = writeln!(said, "node {node}: its daemon does not answer: {error}");
            }
        }
    }
    if said.is_empty() {
        said.push_str("the daemons counted nothing unusual");
    }
    said.trim_end().to_owned()
}

/// What was counted, by reason.
fn reasons(daemon: &Daemon) -> Result<BTreeMap<String, Vec<String>>> {
    let metrics = daemon.metrics()?;
    let mut reasons: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (metric, what) in TELLING {
        for reason in metrics.above_zero(metric, "reason") {
            let count = metrics.count(metric, &[("reason", &reason)]);
            reasons
                .entry(reason)
                .or_default()
                .push(format!("{count} {what}"));
        }
    }
    Ok(reasons)
}

/// In the daemon's own words.
fn remedy(daemon: &Daemon, reason: &str) -> String {
    let explained = daemon
        .command(&["explain", reason])
        .and_then(Output::success)
        .unwrap_or_default();
    let line = explained
        .lines()
        .find_map(|line| line.split_once("what to do:"));
    line.map(|(_, remedy)| remedy.trim().to_owned())
        .unwrap_or_default()
}
