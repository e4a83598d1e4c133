//! A reset arrives as a reset, never as an orderly end, from either side.

use mtls_tests::script::Step;
use mtls_tests::{Family, Pair, Result, ensure_eq, play};

#[test]
fn reset() -> Result {
    play("reset", |scene| {
        let mut pair = Pair::start(scene)?;
        let resets = [
            Step::Say("on".into()),
            Step::Hear("off".into()),
            Step::Reset,
        ];
        let waits = [
            Step::Hear("on".into()),
            Step::Say("off".into()),
            Step::ReceiveToEnd { seed: 1 },
        ];
        let mut waiting = pair.server.serve(8080, waits.clone())?;
        let _resetting = pair.server.serve(8081, resets.clone())?;
        for family in Family::BOTH {
            pair.client
                .connect(pair.server.at(family, 8080), resets.clone())?;
            ensure_eq(waiting.ended()?.error(), "ECONNRESET", "the server sees")?;

            let ended = pair
                .client
                .connect(pair.server.at(family, 8081), waits.clone())?;
            ensure_eq(ended.error(), "ECONNRESET", "the client sees")?;
        }
        pair.ensure_private().map(drop)
    })
}
