//! SIGTERM: new connections are refused, open ones may finish; what is still
//! open at the deadline is reset.

use std::time::Duration;

use mtls_tests::script::{Connect, Step};
use mtls_tests::{Family, Pair, Result, ensure_eq, play};

#[test]
fn drain_lets_connections_finish() -> Result {
    play("drain-finishes", |scene| {
        let mut pair = Pair::start(scene)?;
        let mut server = pair.server.serve(8080, [Step::Echo])?;
        let script = [
            Step::Say("before".into()),
            Step::Hear("before".into()),
            Step::Hold,
            Step::Exchange {
                bytes: 1 << 20,
                send: 1,
                receive: 1,
            },
        ];
        let to = pair.server.at(Family::V4, 8080);
        let mut open = pair
            .client
            .connect_as(Connect::to(to, script).many(10, 10))?;
        ensure_eq(open.held()?, 10, "connections open")?;

        pair.clients_daemon()?.begin_drain()?;
        pair.clients_daemon()?.wait_for_phase("draining")?;
        let late = pair.client.connect(to, [Step::ExpectEnd])?;
        ensure_eq(late.error(), "ECONNREFUSED", "a new connection")?;

        open.go()?;
        open.ended_well()?;
        server.ended_well(10)?;
        pair.clients_daemon()?
            .ensure_ends_well(Duration::from_secs(10))?;
        pair.ensure_private().map(drop)
    })
}

#[test]
fn drain_resets_at_the_deadline() -> Result {
    play("drain-resets", |scene| {
        let mut pair = Pair::start_as(scene, |plan, _, _| plan.set("limits", "drain", "\"1s\""))?;
        let mut server = pair
            .server
            .serve(8080, [Step::Say("hi".into()), Step::ExpectEnd])?;
        let script = [Step::Hear("hi".into()), Step::Hold, Step::ExpectEnd];
        let to = pair.server.at(Family::V6, 8080);
        let mut open = pair.client.connect_as(Connect::to(to, script))?;
        open.held()?;
        open.go()?;
        pair.clients_daemon()?.begin_drain()?;
        pair.clients_daemon()?
            .ensure_ends_well(Duration::from_secs(10))?;
        ensure_eq(open.ended()?.error(), "ECONNRESET", "the client sees")?;
        ensure_eq(server.ended()?.error(), "ECONNRESET", "the server sees")?;
        pair.ensure_private().map(drop)
    })
}
