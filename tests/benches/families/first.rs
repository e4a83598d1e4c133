//! The first connection ever between two pods, which makes the tunnel; the one
//! after it; the first to another port, for which connect() waits while its
//! peer is asked over the tunnel that is there; all that once more where
//! connect() waits for nobody; and a TLS handshake alone between the same
//! namespaces.

use mtls_tests::process::Process;
use mtls_tests::{Error, Family, Pod, Result};

use crate::bench::Bench;
use crate::candidates::Candidate::{Direct, Ours};
use crate::course::{Change, Course, PORT, myself, serve, serve_at};
use crate::figures::Value;
use crate::handshake;

/// Passed through by both daemons, so that nothing is between the two ends.
const HANDSHAKES: u16 = 7443;
const OTHER_PORT: u16 = PORT + 1;
/// On each node; each pair of them meets once.
const PODS: u8 = 12;

pub(super) fn run(bench: &mut Bench) -> Result {
    run_as(bench, "truthful", "")?;
    run_as(bench, "early", "_early")
}

/// `suffix` tells measures of that `connect` from the usual ones.
fn run_as(bench: &mut Bench, connect: &str, suffix: &str) -> Result {
    let mut others = Vec::new();
    let mut course = Course::build_as(&[Ours], |a, b| {
        let change = Change::with_others(a, b, PODS)?;
        others.clone_from(&change.others);
        Ok(Change {
            plan: Some(Box::new(|plan, _, _| {
                let port = format!("[{HANDSHAKES}]");
                plan.set("node", "connect", &format!("\"{connect}\""))
                    .set("network", "excluded_outbound_ports", &port)
                    .set("network", "excluded_inbound_ports", &port)
            })),
            ..change
        })
    })?;
    let (clients, servers) = others.split_at(usize::from(PODS));
    let mut serving = Vec::new();
    for server in servers {
        serving.push(serve(server)?);
        serving.push(serve_at(server, OTHER_PORT)?);
        serving.push(serve_handshakes(&mut course, server)?);
    }
    // A round is as many pairs as there are pods: each pod with the one that
    // many places further.
    for round in 0..bench.options.rounds.min(usize::from(PODS)) {
        let (mut first, mut next) = (Vec::new(), Vec::new());
        let (mut other, mut alone) = (Vec::new(), Vec::new());
        for (nth, client) in clients.iter().enumerate() {
            let server = &servers[(nth + round) % servers.len()];
            let told = told_by(client, &["--first-and-next", &at(server, PORT)])?;
            first.push(told[0]);
            next.push(told[1]);
            other.push(told_by(client, &["--first-and-next", &at(server, OTHER_PORT)])?[0]);
            let leaf = leaf_of(&mut course, client)?;
            let words = handshake::words(&leaf);
            let mut all = vec!["--handshake", "TO", &words[0], &words[1], &words[2]];
            let to = at(server, HANDSHAKES);
            all[1] = &to;
            alone.extend(told_by(client, &all)?);
        }
        for (candidate, what, took) in [
            (Ours, "first_connection", first),
            (Ours, "next_connection", next),
            (Ours, "first_at_port", other),
            (Direct, "handshake", alone),
        ] {
            let name = format!("{what}{suffix}_p50_us");
            bench
                .figures
                .add(candidate, Value::new(name, "us", middle(took)));
        }
    }
    Ok(())
}

fn serve_handshakes(course: &mut Course, pod: &Pod) -> Result<Process> {
    let leaf = leaf_of(course, pod)?;
    let serving = pod
        .spawn(myself()?)?
        .args(["--serve-handshakes", &HANDSHAKES.to_string()])
        .args(handshake::words(&leaf))
        .start()?;
    pod.netns().wait_until_listens(HANDSHAKES)?;
    Ok(serving)
}

fn leaf_of(course: &mut Course, pod: &Pod) -> Result<mtls_tests::mesh::Leaf> {
    let ca = course.mesh()?.ca();
    ca.leaf(&format!("bench-{}", pod.name()), &ca.identity(pod.name()))
}

fn at(pod: &Pod, port: u16) -> String {
    pod.at(Family::V4, port).to_string()
}

/// Numbers that a program of ours prints.
fn told_by(pod: &Pod, words: &[&str]) -> Result<Vec<f64>> {
    let said = pod.spawn(myself()?)?.args(words).output()?.success()?;
    let numbers: Option<Vec<f64>> = said
        .split_whitespace()
        .map(|word| word.parse().ok())
        .collect();
    numbers
        .filter(|numbers| numbers.len() > 1)
        .ok_or_else(|| Error::Unreadable {
            what: format!("the report of {words:?}"),
            why: said,
        })
}

fn middle(mut took: Vec<f64>) -> f64 {
    took.sort_by(f64::total_cmp);
    took.get(took.len() / 2).copied().unwrap_or(0.0)
}
