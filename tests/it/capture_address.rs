//! Nobody reaches the daemon by dialling the addresses to which captured
//! connections are turned: without a record of an original destination there
//! is nothing to carry.

use mtls_tests::script::Step;
use mtls_tests::{AddressChecks, Family, Pair, Result, ensure, play};

#[test]
fn capture_address() -> Result {
    play("capture-address", |scene| {
        let mut pair = Pair::start(scene)?;
        // What a captured connection dials can be seen by a packet capture in
        // the pod, so that it is no secret.
        let file = scene.logs().join("loopback.pcap");
        let loopback = mtls_tests::capture::Capture::start(pair.client.netns(), "lo", &file)?;
        let _server = pair.server.serve(8080, [Step::Echo])?;
        let script = [Step::Say("hi".into()), Step::Hear("hi".into())];
        pair.client
            .connect(pair.server.at(Family::V4, 8080), script.clone())?;
        let captured = loopback.finish()?;
        let at = captured.connections.first().map(|c| c.server);
        let Some(at) = at.filter(|at| at.ip().is_loopback()) else {
            return Err(mtls_tests::Error::Unexpected(captured.to_string()));
        };

        for checks in AddressChecks::BOTH {
            pair.check_addresses(checks)?;
            let ended = pair.client.connect(at, script.clone())?;
            let told = matches!(ended.error(), "ECONNRESET" | "ECONNREFUSED");
            ensure(told, || format!("dialling {at}, {checks:?}: {ended:?}"))?;
        }
        pair.clients_daemon()?.wait_for_metrics(
            "connections without a destination",
            |metrics| {
                let reason = [("reason", "no_original_dst")];
                metrics.count("mtls_connections_refused_total", &reason) >= 2
            },
        )?;
        pair.ensure_private().map(drop)
    })
}
