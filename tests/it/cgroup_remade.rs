//! The cgroup that enforcement hangs on is removed with all its pods and made
//! again: the daemon notices, says so and attaches anew; nothing is in clear.

use mtls_tests::mesh::Position;
use mtls_tests::script::Step;
use mtls_tests::{Family, Mesh, Plan, Result, ensure, play, two_nodes};

#[test]
fn cgroup_remade() -> Result {
    play("cgroup-remade", |scene| {
        let (a, b) = two_nodes(scene)?;
        let (client, server) = (a.pod("client")?, b.pod("server")?);
        let mut mesh = Mesh::prepare(Plan::of([&client, &server]), Position::Outside)?;
        mesh.start_all()?;
        let mut listening = server.serve(8080, [Step::Echo])?;
        let script = [
            Step::Send {
                bytes: 1000,
                seed: 1,
            },
            Step::Receive {
                bytes: 1000,
                seed: 1,
            },
        ];
        for family in Family::BOTH {
            let to = server.at(family, 8080);
            let ended = client.connect(to, script.clone())?;
            ensure(ended.is_well(), || format!("{ended:?}"))?;
            listening.ended_well(1)?;

            a.cgroup().remake()?;
            client.remake_cgroup()?;
            mesh.daemon(&a)?.wait_for_log("attached_again", |event| {
                event["message"]
                    .as_str()
                    .is_some_and(|text| text.contains("attached again"))
            })?;
            mesh.daemon(&a)?.wait_until_ready()?;
            let ended = client.connect(to, script.clone())?;
            ensure(ended.is_well(), || {
                format!("after the cgroup came back: {ended:?}")
            })?;
            listening.ended_well(1)?;
        }
        let report = mesh.wire()?;
        report.ensure_only_tls()?;
        report.ensure_absent(&[b"mtls-tests-plaintext-"])
    })
}
