//! 64 connections at the same moment between two pods that never spoke: at
//! most one handshake a worker, because dials are single-flight.

use mtls_tests::script::{Connect, Step};
use mtls_tests::{Family, Pair, Result, ensure, ensure_eq, play};

const WORKERS: u64 = 2;

#[test]
fn handshakes() -> Result {
    play("handshakes", |scene| {
        let mut pair = Pair::start_as(scene, |plan, _, _| {
            plan.set("node", "workers", &WORKERS.to_string())
        })?;
        let mut server = pair.server.serve(8080, [Step::Echo])?;
        let script = [Step::Say("hi".into()), Step::Hear("hi".into()), Step::Hold];
        let task = Connect::to(pair.server.at(Family::V4, 8080), script).many(64, 64);
        let mut clients = pair.client.connect_as(task)?;
        ensure_eq(clients.held()?, 64, "connections open at once")?;

        let metrics = pair.clients_daemon()?.metrics()?;
        let made = metrics.count(
            "mtls_handshakes_total",
            &[("direction", "outbound"), ("result", "ok")],
        );
        ensure((1..=WORKERS).contains(&made), || {
            format!("{made} handshakes")
        })?;
        let avoided = metrics.count("mtls_handshakes_avoided_total", &[]);
        ensure_eq(avoided, 64 - made, "handshakes avoided")?;
        clients.go()?;
        clients.ended_well()?;
        server.ended_well(64)?;

        // The wire agrees with the counters.
        let report = pair.ensure_private()?;
        ensure_eq(
            report.tls_connections() as u64,
            made,
            "handshakes on the wire",
        )
    })
}
