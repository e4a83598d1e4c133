//! One node has its certificates from another authority: the client is reset,
//! then refused; the reason stands in the metrics; nothing is in clear.

use mtls_tests::mesh::{Ca, Position};
use mtls_tests::script::Step;
use mtls_tests::{Family, Mesh, Plan, Result, ensure, play, two_nodes};

#[test]
fn wrong_root() -> Result {
    play("wrong-root", |scene| {
        let (a, b) = two_nodes(scene)?;
        let (client, server) = (a.pod("client")?, b.pod("server")?);
        let other = Ca::create(scene.dir(), "other", "example.org")?;
        let plan = other.on(&b, Plan::of([&client, &server]));
        let mut mesh = Mesh::prepare(plan, Position::Below)?;
        mesh.start_all()?;
        let mut listening = server.serve(8080, [Step::Echo])?;
        for family in Family::BOTH {
            let ended = client.connect(
                server.at(family, 8080),
                [Step::Say("secret".into()), Step::Hear("secret".into())],
            )?;
            ensure(
                matches!(ended.error(), "ECONNRESET" | "ECONNREFUSED"),
                || format!("{ended:?}"),
            )?;
        }
        ensure(
            listening.has_nothing_to_tell()?,
            || "the server was reached",
        )?;
        let reason = [("direction", "outbound"), ("reason", "unknown_issuer")];
        mesh.daemon(&a)?
            .wait_for_metrics("refused certificates", |metrics| {
                metrics.count("mtls_handshake_failures_total", &reason) >= 1
            })?;
        let report = mesh.wire()?;
        report.ensure_only_tls()?;
        report.ensure_absent(&[b"secret"])
    })
}
