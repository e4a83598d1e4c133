//! Why a fact did not hold, as far as the daemons know.

use std::fmt::Write;

use mtls_tests::mesh::Daemon;

use crate::stage::Stage;

/// Metrics whose label `reason` says what went wrong.
const TELLING: &[(&str, &str)] = &[
    ("mtls_handshake_failures_total", "handshakes failed"),
    ("mtls_connections_refused_total", "connections were refused"),
];

/// What each daemon counted, with the remedy that it gives.
pub(crate) fn of(stage: &mut Stage) -> String {
    let mut said = String::new();
    for daemon in stage.mesh.daemons() {
        if !daemon.is_running() {
            let _ = writeln!(
                said,
                "node {}: its daemon does not run",
                daemon.node().name()
            );
        } else if let Err(error) = reasons(daemon, &mut said) {
            let _ = writeln!(
                said,
                "node {}: its daemon does not answer: {error}",
                daemon.node().name()
            );
        }
    }
    if said.is_empty() {
        said.push_str("the daemons counted nothing unusual");
    }
    said.truncate(said.trim_end().len());
    said
}

fn reasons(daemon: &Daemon, said: &mut String) -> mtls_tests::Result {
    let metrics = daemon.metrics()?;
    for (metric, what) in TELLING {
        for reason in metrics.above_zero(metric, "reason") {
            let count = metrics.count(metric, &[("reason", &reason)]);
            let node = daemon.node().name();
            let _ = writeln!(said, "node {node}: {count} {what}: {reason}");
            if let Ok(explained) = daemon
                .command(&["explain", &reason])
                .and_then(mtls_tests::process::Output::success)
            {
                for line in explained.lines() {
                    let _ = writeln!(said, "        {line}");
                }
            }
        }
    }
    Ok(())
}
