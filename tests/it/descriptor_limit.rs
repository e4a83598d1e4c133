//! At its limit of descriptors the daemon refuses new connections, counts
//! them and says so; those that are open go on, and it recovers.

use mtls_tests::mesh::Position;
use mtls_tests::script::{Connect, Step};
use mtls_tests::{Family, Mesh, Plan, Result, ensure, ensure_eq, play, two_nodes};

const LIMIT: u64 = 480;

#[test]
fn descriptor_limit() -> Result {
    play("descriptor-limit", |scene| {
        let (a, b) = two_nodes(scene)?;
        let (client, server) = (a.pod("client")?, b.pod("server")?);
        let mut mesh = Mesh::prepare(Plan::of([&client, &server]), Position::Below)?;
        mesh.daemon(&a)?.limit_descriptors(LIMIT);
        mesh.start_all()?;
        let _server = server.serve(8080, [Step::Echo])?;
        let to = server.at(Family::V4, 8080);
        let hello = [Step::Say("hi".into()), Step::Hear("hi".into())];
        let held = [&hello[..], &[Step::Hold], &hello[..]].concat();

        let mut first = client.connect_as(Connect::to(to, held.clone()).many(100, 100))?;
        ensure_eq(first.held()?, 100, "connections open at once")?;
        let mut crowd = client.connect_as(Connect::to(to, held).many(600, 600))?;
        let refused =
            mesh.daemon(&a)?
                .wait_for_metrics("connections refused at the limit", |metrics| {
                    let limit = [("limit", "descriptors")];
                    metrics.count("mtls_limit_reached_total", &limit) > 0
                });
        crowd.process().kill()?;
        refused?;
        mesh.daemon(&a)?
            .wait_for_log("the reason, by its word", |event| {
                event["reason"] == "no_descriptors"
            })?;

        first.go()?;
        first.ended_well()?;
        // Closing takes a moment after the crowd has gone.
        mesh.daemon(&a)?
            .wait_for_metrics("nothing open", |metrics| {
                metrics.sum("mtls_connections_open", &[]) == 0.0
            })?;
        let ended = client.connect(to, hello)?;
        ensure(ended.is_well(), || format!("after the crowd: {ended:?}"))?;
        mesh.wire()?.ensure_only_tls()
    })
}
