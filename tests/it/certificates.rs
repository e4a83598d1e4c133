//! Certificates from files, and short-lived ones that are renewed under an
//! open connection.

use std::time::Duration;

use mtls_tests::deadline::Stopwatch;
use mtls_tests::mesh::{Ca, Position};
use mtls_tests::script::{Connect, Step};
use mtls_tests::{Family, Mesh, Pair, Plan, Result, ensure, ensure_eq, play, two_nodes};

#[test]
fn certificates_from_files() -> Result {
    play("certificates-from-files", |scene| {
        let (a, b) = two_nodes(scene)?;
        let (client, server) = (a.pod("client")?, b.pod("server")?);
        let ca = Ca::create(scene.dir(), "files", "example.org")?;
        let mut plan = Plan::of([&client, &server]);
        for pod in [&client, &server] {
            let leaf = ca.leaf(pod.name(), &ca.identity(pod.name()))?;
            plan = leaf.of_workload(pod, plan);
        }
        let mut mesh = Mesh::prepare(plan, Position::Below)?;
        mesh.start_all()?;
        let mut listening = server.serve(8080, [Step::Echo])?;
        for family in Family::BOTH {
            let script = [Step::Say("hi".into()), Step::Hear("hi".into())];
            let ended = client.connect(server.at(family, 8080), script)?;
            ensure(ended.is_well(), || format!("{ended:?}"))?;
            listening.ended_well(1)?;
        }
        mesh.wire()?.ensure_only_tls()
    })
}

/// A stream lives through many certificates of both ends, and new connections
/// come all the while.
#[test]
fn certificates_are_renewed() -> Result {
    const ROUNDS: u64 = 150;
    const ROUND: Duration = Duration::from_millis(200);
    play("certificates-renewed", |scene| {
        let mut pair = Pair::start_as(scene, |plan, _, _| {
            plan.set("identity.disk-ca", "svid_ttl", "\"8s\"")
        })?;
        let _server = pair.server.serve(8080, [Step::Echo])?;
        let to = pair.server.at(Family::V4, 8080);
        let rounds = (0..ROUNDS).flat_map(|seed| {
            let bytes = 4 << 10;
            let exchange = [Step::Send { bytes, seed }, Step::Receive { bytes, seed }];
            [Step::Hold].into_iter().chain(exchange)
        });
        let mut stream = pair
            .client
            .connect_as(Connect::to(to, rounds.collect::<Vec<_>>()))?;
        let hello = [Step::Say("hi".into()), Step::Hear("hi".into())];
        let mut load = pair
            .client
            .connect_as(Connect::to(to, hello).many(usize::MAX, 1))?;
        let start = Stopwatch::start();
        for _ in 0..ROUNDS {
            stream.held()?;
            let round = Stopwatch::start();
            while round.elapsed() < ROUND {
                let ended = load.ended()?;
                ensure(ended.is_well(), || {
                    format!("{:?} after the start: {ended:?}", start.elapsed())
                })?;
            }
            stream.go()?;
        }
        let ended = stream.ended()?;
        ensure(ended.is_well(), || format!("the stream: {ended:?}"))?;
        ensure_eq(ended.corrupt_at, None, "corrupt bytes of the stream")?;
        drop(load);
        for daemon in pair.mesh.daemons() {
            let metrics = daemon.metrics()?;
            let count = |name, result| metrics.count(name, &[("result", result)]);
            let renewed = count("mtls_certificate_renewals_total", "ok");
            ensure(renewed >= 6, || format!("{renewed} renewals"))?;
            let proved = count("mtls_tunnel_proofs_total", "ok");
            ensure(proved >= 6, || format!("{proved} proofs"))?;
            for name in [
                "mtls_certificate_renewals_total",
                "mtls_tunnel_proofs_total",
            ] {
                ensure_eq(count(name, "error"), 0, name)?;
            }
        }
        pair.ensure_private().map(drop)
    })
}
