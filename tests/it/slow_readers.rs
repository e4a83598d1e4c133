//! Readers that read nothing stop their own senders and nobody else, and cost
//! the daemons a bounded amount of memory.

use mtls_tests::script::{Connect, Step};
use mtls_tests::{Family, Pair, Result, ensure, play};

const STALLED: usize = 32;
const MIB: u64 = 1 << 20;

#[test]
fn slow_readers() -> Result {
    play("slow-readers", |scene| {
        let mut pair = Pair::start(scene)?;
        let _endless = pair.server.serve(8081, [Step::SendForEver { seed: 1 }])?;
        let mut echo = pair.server.serve(8080, [Step::Echo])?;
        let talk = [Step::Exchange {
            bytes: MIB,
            send: 2,
            receive: 2,
        }];
        for family in Family::BOTH {
            let to = pair.server.at(family, 8080);
            pair.client.connect(to, talk.clone())?;
            echo.ended_well(1)?;
            let before = memory(&mut pair)?;

            // Each hears a little, so that its flow stands, and then no more.
            let script = [
                Step::Receive {
                    bytes: 1000,
                    seed: 1,
                },
                Step::Hold,
            ];
            let task = Connect::to(pair.server.at(family, 8081), script).many(STALLED, STALLED);
            let mut stalled = pair.client.connect_as(task)?;
            stalled.held()?;

            for _ in 0..20 {
                let ended = pair.client.connect(to, talk.clone())?;
                ensure(ended.is_well(), || {
                    format!("beside slow readers: {ended:?}")
                })?;
                echo.ended_well(1)?;
            }
            for (before, after) in before.into_iter().zip(memory(&mut pair)?) {
                ensure(after < before + 32 * MIB, || {
                    format!("memory for {STALLED} slow readers: {before} before, {after} now")
                })?;
            }
            stalled.process().kill()?;
        }
        pair.ensure_private().map(drop)
    })
}

fn memory(pair: &mut Pair) -> Result<Vec<u64>> {
    let daemons = pair.mesh.daemons().iter_mut();
    daemons.map(|daemon| daemon.process()?.resident()).collect()
}
