//! More connections than a pod has source ports: 10,000 open at once over
//! three destinations, from a pod with 4,000 ports. Towards one destination
//! the ports are the limit, as without a daemon.

use mtls_tests::script::{Connect, Step};
use mtls_tests::{Family, Pair, Result, ensure, ensure_eq, play};

const PORTS: usize = 4000;
const CONNECTIONS: usize = 10_000;

#[test]
fn outbound_ports() -> Result {
    play("outbound-ports", |scene| {
        // All are dialled at the same moment, more than a workload may by default.
        let mut pair = Pair::start_as(scene, |plan, _, _| {
            plan.set("limits", "pending_per_workload", "20000")
        })?;
        let range = format!("20000 {}", 20_000 + PORTS - 1);
        let netns = pair.client.netns();
        netns.sysctl("net/ipv4/ip_local_port_range", &range)?;
        let mut servers = Vec::new();
        for port in [8081, 8082, 8083] {
            servers.push(pair.server.serve(port, [Step::Echo])?);
        }
        for family in Family::BOTH {
            let to = [8081, 8082, 8083].map(|port| pair.server.at(family, port));
            let script = [
                Step::Say("before".into()),
                Step::Hear("before".into()),
                Step::Hold,
                Step::Say("after".into()),
                Step::Hear("after".into()),
                Step::Reset, // no TIME_WAIT in the way of the other family
            ];
            let task = Connect::to(to[0], script)
                .to_each(&to)
                .many(CONNECTIONS, CONNECTIONS);
            let mut clients = pair.client.connect_as(task)?;
            ensure_eq(clients.held()?, CONNECTIONS, "connections open at once")?;
            clients.go()?;
            clients.ended_well()?;
            for (server, share) in servers.iter_mut().zip([3334, 3333, 3333]) {
                server.ended_all(share)?;
            }
        }
        let report = pair.ensure_private()?;
        ensure(report.tls_connections() < 100, || report.to_string())
    })
}
