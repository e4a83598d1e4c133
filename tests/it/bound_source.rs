//! A client may choose its source address and port, and use one source port
//! towards two servers at once. Both servers see that port.

use std::net::SocketAddr;

use mtls_tests::script::{Connect, Step};
use mtls_tests::{Family, Mesh, Plan, Result, ensure_eq, play, two_nodes};

const SOURCE: u16 = 4321;

#[test]
fn bound_source() -> Result {
    play("bound-source", |scene| {
        let (a, b) = two_nodes(scene)?;
        let client = a.pod("client")?;
        let servers = [b.pod("one")?, b.pod("two")?];
        let mut mesh = Mesh::start_as(Plan::of([&client, &servers[0], &servers[1]]))?;
        let mut listening = Vec::new();
        for server in &servers {
            listening.push(server.serve(8080, [Step::Echo])?);
        }
        for family in Family::BOTH {
            // Bound to the pod's address, then to any.
            let own = client.at(family, SOURCE);
            for source in [own, family.any(SOURCE + 1)] {
                let seen_as = SocketAddr::new(own.ip(), source.port());
                let mut talking = Vec::new();
                for server in &servers {
                    let script = [
                        Step::Say("hi".into()),
                        Step::Hear("hi".into()),
                        Step::Hold,
                        Step::Reset, // no TIME_WAIT on the way of the next family
                    ];
                    let task = Connect::to(server.at(family, 8080), script).bind(source);
                    let mut client = client.connect_as(task)?;
                    ensure_eq(client.held()?, 1, "connections open")?;
                    talking.push(client);
                }
                for mut client in talking {
                    client.go()?;
                    let ended = client.ended_well()?.remove(0);
                    ensure_eq(ended.local, Some(seen_as), "the client itself")?;
                }
                for server in &mut listening {
                    let seen = server.ended()?;
                    ensure_eq(seen.peer, Some(seen_as), "whom the server sees")?;
                }
            }
        }
        mesh.wire()?.ensure_only_tls()
    })
}
