//! A thousand connections open at once, each with its own bytes, over a
//! handful of tunnels.

use mtls_tests::script::{Connect, Step};
use mtls_tests::{Family, Pair, Result, ensure, ensure_eq, play};

#[test]
fn thousand_connections() -> Result {
    play("thousand-connections", |scene| {
        let mut pair = Pair::start(scene)?;
        let mut server = pair.server.serve(8080, [Step::Echo])?;
        for family in Family::BOTH {
            let script = [
                Step::Say("before".into()),
                Step::Hear("before".into()),
                Step::Hold,
                Step::Exchange {
                    bytes: 20_000,
                    send: 1,
                    receive: 1,
                },
            ];
            let task = Connect::to(pair.server.at(family, 8080), script).many(1000, 1000);
            let mut clients = pair.client.connect_as(task)?;
            ensure_eq(clients.held()?, 1000, "connections open at once")?;
            let open = [("direction", "outbound")];
            let metrics = pair.clients_daemon()?.metrics()?;
            let open = metrics.count("mtls_connections_open", &open);
            ensure_eq(open, 1000, "connections that the daemon counts")?;
            clients.go()?;
            clients.ended_well()?;
            server.ended_well(1000)?;
        }
        let report = pair.ensure_private()?;
        ensure(report.tls_connections() <= 8, || report.to_string())
    })
}
