//! A daemon is killed and started again under load, several times. Every
//! connection either carries all its bytes or fails with an error that an
//! application understands; none ends early in silence, nothing is in clear.

use mtls_tests::script::{Connect, Ended, Step};
use mtls_tests::{Family, Pair, Result, ensure, play};

#[test]
fn daemon_restarted_under_load() -> Result {
    play("restarted-under-load", |scene| {
        let mut pair = Pair::start(scene)?;
        let _echo = pair.server.serve(8080, [Step::Echo])?;
        let script = [Step::Exchange {
            bytes: 50_000,
            send: 1,
            receive: 1,
        }];
        let servers = Family::BOTH.map(|family| pair.server.at(family, 8080));
        let task = Connect::to(servers[0], script)
            .to_each(&servers)
            .many(usize::MAX, 16);
        let mut load = pair.client.connect_as(task)?;
        for node in [pair.a.clone(), pair.b.clone(), pair.a.clone()] {
            until_well(50, || load.ended())?;
            pair.mesh.daemon(&node)?.kill()?;
            for _ in 0..50 {
                judge(&load.ended()?)?;
            }
            pair.mesh.daemon(&node)?.start()?;
        }
        until_well(50, || load.ended())?;
        load.process().kill()?;
        pair.ensure_private().map(drop)
    })
}

/// Reads on until so many in a row ended well.
fn until_well(count: usize, mut next: impl FnMut() -> Result<Ended>) -> Result {
    let mut in_a_row = 0;
    while in_a_row < count {
        let ended = next()?;
        judge(&ended)?;
        in_a_row = if ended.is_well() { in_a_row + 1 } else { 0 };
    }
    Ok(())
}

fn judge(ended: &Ended) -> Result {
    let understood = matches!(ended.error(), "" | "ECONNREFUSED" | "ECONNRESET" | "EPIPE");
    ensure(understood && ended.corrupt_at.is_none(), || {
        format!("{ended:?}")
    })
}
