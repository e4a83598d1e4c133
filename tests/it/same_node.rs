//! Two pods of one node: their bridge is a wire like any other, and what is
//! on it is TLS.

use mtls_tests::capture::Capture;
use mtls_tests::script::Step;
use mtls_tests::{Family, Mesh, Result, ensure, ensure_eq, play, two_nodes};

#[test]
fn same_node() -> Result {
    play("same-node", |scene| {
        let (a, _b) = two_nodes(scene)?;
        let (client, server) = (a.pod("client")?, a.pod("server")?);
        let file = scene.logs().join("veth.pcap");
        let veth = Capture::start(a.netns(), &client.node_interface(), &file)?;
        let mut mesh = Mesh::start([&client, &server])?;
        let mut listening = server.serve(8080, [Step::Echo])?;
        for family in Family::BOTH {
            let to = server.at(family, 8080);
            let exchange = Step::Exchange {
                bytes: 1 << 20,
                send: 1,
                receive: 1,
            };
            let ended = client.connect(to, [exchange])?;
            ensure(ended.is_well(), || format!("{ended:?}"))?;
            ensure_eq(ended.peer, Some(to), "whom the client sees")?;
            let seen = &listening.ended_well(1)?[0];
            ensure_eq(seen.peer, ended.local, "whom the server sees")?;
        }
        let report = veth.finish()?;
        report.ensure_only_tls()?;
        report.ensure_absent(&[b"mtls-tests-plaintext-"])?;
        mesh.wire()?.ensure_nothing_in_clear()
    })
}
