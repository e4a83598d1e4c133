//! The clock of one daemon is hours ahead, then hours behind. Certificates that
//! one side holds for current are past or future for the other: nothing
//! passes, nothing is in clear, and when the clock is right again so is the
//! traffic, without help.

use mtls_tests::deadline::{Deadline, wait_for};
use mtls_tests::script::{Connect, Step};
use mtls_tests::{Family, Pair, Result, ensure_eq, play};

#[test]
fn clock_steps() -> Result {
    play("clock-steps", |scene| {
        let mut pair = Pair::start_after(scene, |mesh, a| mesh.daemon(a)?.own_clock())?;
        let _server = pair.server.serve(8080, [Step::Echo])?;

        for offset in ["+3h", "-3h"] {
            wait_for_traffic(&pair)?;
            let held = [
                Step::Say("hi".into()),
                Step::Hear("hi".into()),
                Step::Hold,
                Step::ExpectEnd,
            ];
            let to = pair.server.at(Family::V4, 8080);
            let mut open = pair.client.connect_as(Connect::to(to, held))?;
            open.held()?;
            open.go()?;

            pair.clients_daemon()?.step_clock(offset)?;
            let cut = open.ended_within(Deadline::default())?;
            ensure_eq(cut.error(), "ECONNRESET", "the open connection")?;
            for family in Family::BOTH {
                wait_for(
                    Deadline::default(),
                    || format!("connections to be refused at {offset}"),
                    || Ok((!greets(&pair, family)?).then_some(())),
                )?;
            }
            pair.clients_daemon()?.step_clock("+0")?;
        }
        wait_for_traffic(&pair)?;
        pair.ensure_private().map(drop)
    })
}

fn wait_for_traffic(pair: &Pair) -> Result {
    for family in Family::BOTH {
        wait_for(
            Deadline::default(),
            || "traffic at the right time",
            || Ok(greets(pair, family)?.then_some(())),
        )?;
    }
    Ok(())
}

fn greets(pair: &Pair, family: Family) -> Result<bool> {
    let hello = [Step::Say("hi".into()), Step::Hear("hi".into())];
    let ended = pair.client.connect(pair.server.at(family, 8080), hello)?;
    Ok(ended.is_well())
}
