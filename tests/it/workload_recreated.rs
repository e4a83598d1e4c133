//! A pod is deleted and comes back with the same name and addresses: the old
//! one's connections are cut, the new one is enrolled by itself.

use mtls_tests::script::{Connect, Step};
use mtls_tests::{Family, Mesh, Result, ensure, play, two_nodes};

#[test]
fn workload_recreated() -> Result {
    play("workload-recreated", |scene| {
        let (a, b) = two_nodes(scene)?;
        let (client, mut server) = (a.pod("client")?, b.pod("server")?);
        let mut mesh = Mesh::start([&client, &server])?;
        let hello = [Step::Say("hi".into()), Step::Hear("hi".into())];
        for family in Family::BOTH {
            let listening = server.serve(8080, [Step::Echo])?;
            let script = [&hello[..], &[Step::Hold, Step::ExpectEnd]].concat();
            let to = server.at(family, 8080);
            let mut open = client.connect_as(Connect::to(to, script))?;
            open.held()?;
            open.go()?;

            let number = server.number();
            drop(listening);
            mesh.forget(&server);
            drop(server);
            let cut = open.ended()?;
            ensure(matches!(cut.error(), "ECONNRESET" | ""), || {
                format!("{cut:?}")
            })?;

            server = b.pod_at("server", number)?;
            mesh.remember(&server);
            mesh.daemon(&b)?.enrol_and_wait(&server)?;
            let mut listening = server.serve(8080, [Step::Echo])?;
            let ended = client.connect(to, hello.clone())?;
            ensure(ended.is_well(), || format!("to the new pod: {ended:?}"))?;
            listening.ended_well(1)?;
        }
        mesh.wire()?.ensure_only_tls()
    })
}
