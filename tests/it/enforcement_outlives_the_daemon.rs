//! Only `detach`, or removing the pins where no daemon runs, removes enforcement:
//! not the daemon's end, however it ends. A second daemon on the same pins is
//! refused.

use std::time::Duration;

use mtls_tests::deadline::{Deadline, wait_for};
use mtls_tests::script::Step;
use mtls_tests::{Family, Pair, Pod, Result, ensure, ensure_eq, play};

#[test]
fn enforcement_outlives_the_daemon() -> Result {
    play("enforcement-outlives", |scene| {
        let mut pair = Pair::start(scene)?;
        let stranger = pair.a.outsider("stranger")?;
        let mut server = pair.server.serve(8080, [Step::Echo])?;

        for crash in [true, false] {
            for daemon in pair.mesh.daemons() {
                if crash {
                    daemon.kill()?;
                } else {
                    daemon.terminate(Duration::from_secs(10))?;
                }
            }
            for family in Family::BOTH {
                refused(&pair.client, &pair.server, family)?;
                refused(&stranger, &pair.server, family)?;
            }
            ensure(server.has_nothing_to_tell()?, || "the server was reached")?;
            pair.mesh.start_all()?;
        }

        let config = pair.clients_daemon()?.config().display().to_string();
        let second = pair
            .clients_daemon()?
            .command(&["run", "--config", &config])?;
        ensure(!second.status.success(), || "a second daemon took over")?;
        pair.ensure_nothing_in_clear().map(drop)
    })
}

#[test]
fn detach_removes_enforcement() -> Result {
    play("detach", |scene| {
        let mut pair = Pair::start(scene)?;
        let mut server = pair.server.serve(8080, [Step::Echo])?;
        for daemon in pair.mesh.daemons() {
            daemon.kill()?;
            daemon.detach()?;
        }
        let script = [Step::Say("hi".into()), Step::Hear("hi".into())];
        for family in Family::BOTH {
            let ended = pair
                .client
                .connect(pair.server.at(family, 8080), script.clone())?;
            ensure(ended.is_well(), || format!("after detach: {ended:?}"))?;
            server.ended_well(1)?;
        }
        // And it comes back.
        pair.mesh.start_all()?;
        let before = pair.mesh.wire()?.outside();
        ensure(before > 0, || "the capture saw no plain text")?;
        let wire = pair.a.capture_wire()?;
        let ended = pair
            .client
            .connect(pair.server.at(Family::V4, 8080), script)?;
        ensure(ended.is_well(), || format!("attached again: {ended:?}"))?;
        wire.finish()?.ensure_only_tls()
    })
}

#[test]
fn removing_the_pins_removes_enforcement() -> Result {
    play("break-glass", |scene| {
        let mut pair = Pair::start(scene)?;
        let _server = pair.server.serve(8080, [Step::Echo])?;
        for daemon in pair.mesh.daemons() {
            daemon.kill()?;
            daemon.remove_pins()?;
        }
        let script = [Step::Say("hi".into()), Step::Hear("hi".into())];
        for family in Family::BOTH {
            let to = pair.server.at(family, 8080);
            // The kernel lets go of what was pinned a moment after the pin.
            wait_for(
                Deadline::default(),
                || "connections to pass without pins",
                || {
                    let ended = pair.client.connect(to, script.clone())?;
                    Ok(ended.is_well().then_some(()))
                },
            )?;
        }
        Ok(())
    })
}

fn refused(from: &Pod, to: &Pod, family: Family) -> Result {
    let ended = from.connect(to.at(family, 8080), [Step::ExpectEnd])?;
    ensure(ended.failed_to_connect(), || {
        format!("{}: {ended:?}", from.name())
    })?;
    ensure_eq(ended.error(), "ECONNREFUSED", from.name())
}
