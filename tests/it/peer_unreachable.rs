//! The peer's node has no daemon yet, or cannot be reached at all: the client
//! is told within the limit, with the reason in the metrics, and nothing is
//! sent in clear in the tunnel's stead. When the peer is back, so is traffic.

use std::time::Duration;

use mtls_tests::deadline::Stopwatch;
use mtls_tests::mesh::Position;
use mtls_tests::node::WIRE;
use mtls_tests::script::Step;
use mtls_tests::{Family, Mesh, Plan, Result, ensure, play, two_nodes};

#[test]
fn peer_unreachable() -> Result {
    play("peer-unreachable", |scene| {
        let (a, b) = two_nodes(scene)?;
        let (client, server) = (a.pod("client")?, b.pod("server")?);
        let plan = Plan::of([&client, &server]).set("limits", "connect", "\"500ms\"");
        let mut mesh = Mesh::prepare(plan, Position::Below)?;
        mesh.daemon(&a)?.start()?;
        let mut listening = server.serve(8080, [Step::Echo])?;
        let script = [Step::Say("hi".into()), Step::Hear("hi".into())];
        let ask = |family| client.connect(server.at(family, 8080), script.clone());

        for family in Family::BOTH {
            let ended = ask(family)?;
            let told = matches!(ended.error(), "ECONNRESET" | "ECONNREFUSED");
            ensure(told, || format!("no daemon there: {ended:?}"))?;
        }
        mesh.daemon(&b)?.start()?;
        for family in Family::BOTH {
            until_well(Duration::from_secs(2), || ask(family).map(|e| e.is_well()))?;
            listening.ended_well(1)?;
        }

        b.netns().ip(&format!("link set {WIRE} down\n"))?;
        mesh.daemon(&a)?.kill()?; // its tunnels go, or their death would be the answer
        mesh.daemon(&a)?.start()?;
        for family in Family::BOTH {
            let watch = Stopwatch::start();
            let ended = ask(family)?;
            let told = matches!(ended.error(), "ECONNRESET" | "ECONNREFUSED");
            ensure(told, || format!("no way there: {ended:?}"))?;
            ensure(watch.elapsed() < Duration::from_secs(3), || {
                format!("it took {:?} to say so", watch.elapsed())
            })?;
        }
        let metrics = mesh.daemon(&a)?.metrics()?;
        let reasons = metrics.above_zero("mtls_connections_refused_total", "reason");
        ensure(
            reasons
                .iter()
                .all(|r| r == "peer_unreachable" || r == "timeout")
                && !reasons.is_empty(),
            || format!("{reasons:?}"),
        )?;
        let report = mesh.wire()?;
        report.ensure_only_tls()?;
        report.ensure_absent(&[b"mtls-tests-plaintext-"])
    })
}

/// Tries until it works: a destination that was refused is refused for a
/// second more, without a new attempt.
fn until_well(within: Duration, mut attempt: impl FnMut() -> Result<bool>) -> Result {
    let watch = Stopwatch::start();
    while !attempt()? {
        ensure(
            watch.elapsed() < within,
            || "no traffic when the peer came back",
        )?;
    }
    Ok(())
}
