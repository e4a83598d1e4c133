//! A process below the attach point, in a network namespace that nobody
//! classified, is refused and reported; `unknown = "pass"` lets it through.

use mtls_tests::script::Step;
use mtls_tests::{Family, Mesh, Plan, Result, ensure, ensure_eq, play, two_nodes};

#[test]
fn unknown_namespace_is_refused() -> Result {
    play("unknown-refused", |scene| {
        let (a, b) = two_nodes(scene)?;
        let (client, server) = (a.pod("client")?, b.pod("server")?);
        let mut mesh = Mesh::start([&client, &server])?;
        let stray = a.pod("stray")?;
        let outside = b.outsider("outside")?;
        let _listening = outside.serve(8080, [Step::Echo])?;
        for family in Family::BOTH {
            let ended = stray.connect(outside.at(family, 8080), [Step::ExpectEnd])?;
            ensure(ended.failed_to_connect(), || format!("{ended:?}"))?;
            ensure_eq(ended.error(), "ECONNREFUSED", "an unknown pod's connection")?;
        }
        mesh.daemon(&a)?
            .wait_for_metrics("unknown workloads", |metrics| {
                metrics.count("mtls_unknown_workloads_total", &[]) >= 1
            })?;
        mesh.wire()?.ensure_nothing_in_clear()
    })
}

#[test]
fn unknown_namespace_passes_if_it_may() -> Result {
    play("unknown-passes", |scene| {
        let (a, b) = two_nodes(scene)?;
        let (client, server) = (a.pod("client")?, b.pod("server")?);
        let plan = Plan::of([&client, &server]).set_on(&a, "node", "unknown", "\"pass\"");
        let _mesh = Mesh::start_as(plan)?;
        let stray = a.pod("stray")?;
        let outside = b.outsider("outside")?;
        let _listening = outside.serve(8080, [Step::Echo])?;
        let script = [Step::Say("hi".into()), Step::Hear("hi".into())];
        for family in Family::BOTH {
            let ended = stray.connect(outside.at(family, 8080), script.clone())?;
            ensure(ended.is_well(), || format!("{ended:?}"))?;
        }
        Ok(())
    })
}
