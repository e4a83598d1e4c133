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

#[test]
fn certificates_are_renewed() -> Result {
    play("certificates-renewed", |scene| {
        let mut pair = Pair::start_as(scene, |plan, _, _| {
            plan.set("identity.disk-ca", "svid_ttl", "\"8s\"")
        })?;
        let _server = pair.server.serve(8080, [Step::Echo])?;
        let to = pair.server.at(Family::V4, 8080);
        let hello = [Step::Say("hi".into()), Step::Hear("hi".into())];
        // For more than two lifetimes, a new connection every few milliseconds.
        let watch = Stopwatch::start();
        let mut load = pair
            .client
            .connect_as(Connect::to(to, hello).many(usize::MAX, 1))?;
        while watch.elapsed() < Duration::from_secs(20) {
            let ended = load.ended()?;
            ensure(ended.is_well(), || {
                format!("{:?} after the start: {ended:?}", watch.elapsed())
            })?;
        }
        drop(load);
        let metrics = pair.clients_daemon()?.metrics()?;
        let renewed = metrics.count("mtls_certificate_renewals_total", &[("result", "ok")]);
        ensure(renewed >= 3, || format!("{renewed} renewals"))?;
        let failed = metrics.count("mtls_certificate_renewals_total", &[("result", "error")]);
        ensure_eq(failed, 0, "failed renewals")?;
        pair.ensure_private().map(drop)
    })
}
