//! Either side may end its direction and go on listening to the other.

use mtls_tests::script::Step;
use mtls_tests::{Family, Pair, Result, ensure, play};

#[test]
fn half_close() -> Result {
    play("half-close", |scene| {
        let mut pair = Pair::start(scene)?;
        let first = [
            Step::Send {
                bytes: 1 << 20,
                seed: 1,
            },
            Step::HalfClose,
            Step::ReceiveToEnd { seed: 2 },
        ];
        let second = [
            Step::ReceiveToEnd { seed: 1 },
            Step::Send {
                bytes: 3 << 20,
                seed: 2,
            },
        ];
        let mut asked = pair.server.serve(8080, second.clone())?;
        let mut speaking = pair.server.serve(8081, first.clone())?;
        for family in Family::BOTH {
            // The client asks, ends, and hears the answer.
            let ended = pair
                .client
                .connect(pair.server.at(family, 8080), first.clone())?;
            ensure(ended.is_well() && ended.received == 3 << 20, || {
                format!("{ended:?}")
            })?;
            asked.ended_well(1)?;
            // The server speaks and ends first.
            let ended = pair
                .client
                .connect(pair.server.at(family, 8081), second.clone())?;
            ensure(ended.is_well() && ended.received == 1 << 20, || {
                format!("{ended:?}")
            })?;
            let seen = speaking.ended_well(1)?;
            ensure(seen[0].received == 3 << 20, || format!("{seen:?}"))?;
        }
        pair.ensure_private().map(drop)
    })
}
