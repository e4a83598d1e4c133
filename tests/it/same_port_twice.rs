//! A client uses one source port for a server and for a service in front of
//! that server: to the client these are two destinations, to the server's node
//! two connections from one port to one application. Both are carried.

use mtls_tests::script::{Connect, Step};
use mtls_tests::{Error, Family, Mesh, Plan, Result, ensure, ensure_eq, play, two_nodes};

const SOURCE: u16 = 4321;

#[test]
fn same_port_twice() -> Result {
    play("same-port-twice", |scene| {
        let (a, b) = two_nodes(scene)?;
        let (client, server) = (a.pod("client")?, b.pod("server")?);
        let services = ["10.96.0.10", "fd96::10"];
        let ports = "[{ port = 8080, target = 8080 }]";
        let plan = Plan::of([&client, &server]).service("front", &services, ports, &[&server]);
        let mut mesh = Mesh::start_as(plan)?;
        let mut listening = server.serve(8080, [Step::Echo])?;
        for (family, service) in Family::BOTH.into_iter().zip(["10.96.0.10", "[fd96::10]"]) {
            let service = format!("{service}:8080")
                .parse()
                .map_err(|e| Error::Unexpected(format!("{service}: {e}")))?;
            let mut talking = Vec::new();
            for to in [server.at(family, 8080), service] {
                let script = [
                    Step::Say("hi".into()),
                    Step::Hear("hi".into()),
                    Step::Hold,
                    Step::Reset, // no TIME_WAIT on the way of the next family
                ];
                let task = Connect::to(to, script).bind(client.at(family, SOURCE));
                let mut client = client.connect_as(task)?;
                ensure_eq(client.held()?, 1, "connections open")?;
                talking.push(client);
            }
            for mut client in talking {
                client.go()?;
                client.ended_well()?;
            }
            for ended in listening.ended_all(2)? {
                let port = ended.peer.map(|peer| peer.port());
                ensure_eq(
                    port,
                    Some(SOURCE),
                    "the client's port, as the server sees it",
                )?;
                ensure(ended.received == 2, || format!("{ended:?}"))?;
            }
        }
        mesh.wire()?.ensure_only_tls()
    })
}
