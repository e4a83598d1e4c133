//! What was to be reached, and whether it was.

use std::fmt::Write as _;

use super::terminal::number;
use crate::candidates::Candidate::{self, Chain, Direct, Envoy, Ours};
use crate::figures::{Figures, Rounds};

struct Goal {
    title: &'static str,
    bound: Bound,
    value: fn(&Figures) -> Option<f64>,
}

#[derive(Clone, Copy)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

use Bound::{AtLeast, AtMost};

const GOALS: &[Goal] = &[
    goal("bulk, 1 connection, of the chain", AtLeast(0.80), |f| {
        ratio(f, "bulk_1", Chain)
    }),
    goal("bulk, 1 connection, of Envoy", AtLeast(1.3), |f| {
        ratio(f, "bulk_1", Envoy)
    }),
    goal("bulk, 8 connections, of the chain", AtLeast(0.75), |f| {
        ratio(f, "bulk_8", Chain)
    }),
    goal("bulk, 8 connections, of Envoy", AtLeast(1.3), |f| {
        ratio(f, "bulk_8", Envoy)
    }),
    goal("requests, 64 connections, of direct", AtLeast(0.50), |f| {
        ratio(f, "rr_64_per_s", Direct)
    }),
    goal(
        "requests, 64 connections, of the chain",
        AtLeast(1.6),
        |f| ratio(f, "rr_64_per_s", Chain),
    ),
    goal(
        "request, 1 connection, p50, of the chain's",
        AtMost(0.9),
        |f| ratio(f, "rr_1_p50_us", Chain),
    ),
    goal("connections, 64 at a time, of direct", AtLeast(0.67), |f| {
        ratio(f, "crr_64_per_s", Direct)
    }),
    goal(
        "connections, 64 at a time, of the chain",
        AtLeast(2.0),
        |f| ratio(f, "crr_64_per_s", Chain),
    ),
    goal(
        "connection, 1 at a time, p50, of direct's",
        AtMost(2.3),
        |f| ratio(f, "crr_1_p50_us", Direct),
    ),
    goal(
        "first connection, of the next one + 1.3 handshakes",
        AtMost(1.0),
        |f| {
            let next = f.median("next_connection_p50_us", Ours)?;
            let handshake = f.median("handshake_p50_us", Direct)?;
            Some(f.median("first_connection_p50_us", Ours)? / (next + 1.3 * handshake))
        },
    ),
    goal("processor time a GiB, both daemons, s", AtMost(1.2), |f| {
        f.median("cpu_s_per_gib", Ours)
    }),
    goal(
        "processor time a request, 64 connections, both daemons, us",
        AtMost(14.0),
        |f| f.median("cpu_us_per_request", Ours),
    ),
    goal(
        "memory an idle connection, the larger side, KiB",
        AtMost(0.5),
        |f| f.median("idle_kib_per_connection", Ours),
    ),
    goal(
        "resident memory, idle, 10 workloads, MiB",
        AtMost(10.0),
        |f| f.median("idle_rss_mib", Ours),
    ),
    goal(
        "handshakes for 10,000 connections, a worker",
        AtMost(1.0),
        |f| f.median("handshakes_10k_per_worker", Ours),
    ),
    goal(
        "bulk with 250 workloads a node, of without",
        AtLeast(0.95),
        |f| share(f, "bulk_1", "_250_pods"),
    ),
    goal(
        "requests with 250 workloads a node, of without",
        AtLeast(0.95),
        |f| share(f, "rr_64_per_s", "_250_pods"),
    ),
    goal(
        "connections with 250 workloads a node, of without",
        AtLeast(0.95),
        |f| share(f, "crr_64_per_s", "_250_pods"),
    ),
    goal(
        "bulk with 10,000 services, of without",
        AtLeast(0.95),
        |f| share(f, "bulk_1", "_10k_services"),
    ),
    goal(
        "requests with 10,000 services, of without",
        AtLeast(0.95),
        |f| share(f, "rr_64_per_s", "_10k_services"),
    ),
    goal(
        "connections with 10,000 services, of without",
        AtLeast(0.95),
        |f| share(f, "crr_64_per_s", "_10k_services"),
    ),
    goal(
        "bulk beside 10,000 idle connections, of without",
        AtLeast(0.95),
        |f| share(f, "bulk_1", "_10k_idle"),
    ),
    goal(
        "requests beside 10,000 idle connections, of without",
        AtLeast(0.95),
        |f| share(f, "rr_64_per_s", "_10k_idle"),
    ),
    goal(
        "connections beside 10,000 idle ones, of without",
        AtLeast(0.95),
        |f| share(f, "crr_64_per_s", "_10k_idle"),
    ),
    goal(
        "hooks, everything excluded, us a connection",
        AtMost(1.5),
        |f| f.median("hooks_us_per_connection", Ours),
    ),
    goal(
        "hooks, everything excluded, ns a packet",
        AtMost(120.0),
        |f| f.median("hooks_ns_per_packet", Ours),
    ),
    goal(
        "hooks, an unenrolled neighbour, us a connection",
        AtMost(1.5),
        |f| f.median("neighbour_us_per_connection", Ours),
    ),
    goal(
        "hooks, an unenrolled neighbour, ns a packet",
        AtMost(120.0),
        |f| f.median("neighbour_ns_per_packet", Ours),
    ),
    goal(
        "bulk, 1 connection, 10 ms round trip, of direct",
        AtLeast(0.9),
        |f| ratio(f, "bulk_1_10ms", Direct),
    ),
    goal(
        "bulk, 8 connections, 0.1 % loss, of direct",
        AtLeast(0.5),
        |f| ratio(f, "bulk_8_loss", Direct),
    ),
    goal("p99 of a request beside bulk, of alone", AtMost(3.0), |f| {
        f.median("beside_bulk_p99_ratio", Ours)
    }),
    goal(
        "p99 beside a workload that opens connections, of alone",
        AtMost(2.0),
        |f| f.median("beside_connections_p99_ratio", Ours),
    ),
    goal(
        "p99 beside 100 handshakes a second from strangers, of alone",
        AtMost(2.0),
        |f| f.median("beside_strangers_p99_ratio", Ours),
    ),
    goal(
        "slowest of 8 flows of a tunnel, of the fastest",
        AtLeast(0.8),
        |f| f.median("tunnel_fairness", Ours),
    ),
];

const fn goal(title: &'static str, bound: Bound, value: fn(&Figures) -> Option<f64>) -> Goal {
    Goal {
        title,
        bound,
        value,
    }
}

fn ratio(figures: &Figures, measure: &str, to: Candidate) -> Option<f64> {
    Some(figures.ratio(measure, Ours, to)?.median)
}

/// A figure of a changed course, of that of the usual one in the same round.
/// The names of both say which load it was before they say what of it.
pub(super) fn kept(figures: &Figures, measure: &str, change: &str) -> Option<Rounds> {
    let (load, what) = match measure.split_once("_per_s") {
        Some((load, _)) => (load, "_per_s"),
        None => (measure, ""),
    };
    figures.change(
        &format!("{load}{change}{what}"),
        &format!("{load}{change}_without{what}"),
        Ours,
    )
}

fn share(figures: &Figures, measure: &str, change: &str) -> Option<f64> {
    Some(kept(figures, measure, change)?.median)
}

/// Those that were measured.
pub(super) fn table(figures: &Figures) -> String {
    let mut text = String::from("| goal | | measured | |\n|---|--:|--:|---|\n");
    for goal in GOALS {
        if let Some(value) = (goal.value)(figures) {
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} |",
                goal.title,
                goal.bound,
                number(value),
                goal.bound.judge(value)
            );
        }
    }
    text
}

impl Bound {
    fn judge(self, value: f64) -> String {
        let (met, off) = match self {
            AtLeast(bound) => (value >= bound, bound / value - 1.0),
            AtMost(bound) => (value <= bound, value / bound - 1.0),
        };
        if met {
            "met".into()
        } else {
            format!("**not met**, off by {:.0} %", off * 100.0)
        }
    }
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            AtLeast(bound) => write!(f, "≥ {bound}"),
            AtMost(bound) => write!(f, "≤ {bound}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_by_how_much_a_goal_is_missed() {
        assert_eq!(AtLeast(0.6).judge(0.6), "met");
        assert_eq!(AtLeast(0.6).judge(0.5), "**not met**, off by 20 %");
        assert_eq!(AtMost(2.0).judge(3.0), "**not met**, off by 50 %");
    }
}
