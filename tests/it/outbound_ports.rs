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
        let mut pair = Pair::start(scene)?;
        let range = format!("20000 {}", 20000 + PORTS - 1);
        let sysctl = pair.client.netns();
        sysctl.sysctl("net/ipv4/ip_local_port_range", &range)?;
        let family = Family::V4;
        let mut servers = Vec::new();
        for port in [8081, 8082, 8083] {
            servers.push(pair.server.serve(port, [Step::Echo])?);
        }
        let to = [8081, 8082, 8083].map(|port| pair.server.at(family, port));
        let script = [
            Step::Say("before".into()),
            Step::Hear("before".into()),
            Step::Hold,
            Step::Say("after".into()),
            Step::Hear("after".into()),
        ];
        let task = Connect::to(to[0], script.clone())
            .to_each(&to)
            .many(CONNECTIONS, CONNECTIONS);
        let mut clients = pair.client.connect_as(task)?;
        ensure_eq(clients.held()?, CONNECTIONS, "connections open at once")?;
        clients.go()?;
        clients.ended_well()?;
        for (server, share) in servers.iter_mut().zip([3334, 3333, 3333]) {
            server.ended_well(share)?;
        }
        let report = pair.ensure_private()?;
        ensure(report.tls_connections() < 100, || report.to_string())
    })
}
