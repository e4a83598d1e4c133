//! Nobody listens at the far end: the client gets a reset or a refusal, never
//! silence and never an orderly end; the next attempt within a second is
//! refused by connect(2) itself.

use mtls_tests::script::Step;
use mtls_tests::{Family, Pair, Result, ensure, ensure_eq, play};

#[test]
fn not_listening() -> Result {
    play("not-listening", |scene| {
        let mut pair = Pair::start(scene)?;
        // A tunnel stands already, or not: the answer is the same.
        let _other = pair.server.serve(8080, [Step::Echo])?;
        for (family, warm) in [(Family::V4, false), (Family::V4, true), (Family::V6, true)] {
            if warm {
                let script = [Step::Say("hi".into()), Step::Hear("hi".into())];
                pair.client.connect(pair.server.at(family, 8080), script)?;
            }
            let closed = pair.server.at(family, if warm { 9 } else { 7 });
            let first = pair
                .client
                .connect(closed, [Step::ReceiveToEnd { seed: 1 }])?;
            ensure(
                matches!(first.error(), "ECONNRESET" | "ECONNREFUSED"),
                || format!("the first attempt: {first:?}"),
            )?;
            let second = pair
                .client
                .connect(closed, [Step::ReceiveToEnd { seed: 1 }])?;
            ensure(second.failed_to_connect(), || format!("{second:?}"))?;
            ensure_eq(second.error(), "ECONNREFUSED", "the second attempt")?;
        }
        let refused = [("direction", "inbound"), ("reason", "dial_failed")];
        pair.servers_daemon()?
            .wait_for_metrics("dials that failed", |metrics| {
                metrics.count("mtls_connections_refused_total", &refused) >= 3
            })?;
        pair.ensure_private().map(drop)
    })
}
