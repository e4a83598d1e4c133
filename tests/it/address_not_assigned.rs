//! A workload whose address its network namespace does not have cannot be
//! served, and `unknown = "pass"` is no way out for it: it is refused until it
//! fits its configuration.

use mtls_tests::deadline::{Deadline, wait_for};
use mtls_tests::mesh::{Position, workloads};
use mtls_tests::script::Step;
use mtls_tests::{Family, Mesh, Plan, Result, ensure, ensure_eq, play, two_nodes};

#[test]
fn address_not_assigned() -> Result {
    play("not-assigned", |scene| {
        let (a, b) = two_nodes(scene)?;
        let (client, server) = (a.pod("client")?, b.pod("server")?);
        let later = "10.0.1.99";
        let addresses = format!("[\"{}\", \"{later}\"]", client.address(Family::V4));
        let plan = Plan::of([&client, &server])
            .set_on(&a, "node", "unknown", "\"pass\"")
            .set_workload(&client, "addresses", &addresses);
        let mut mesh = Mesh::prepare(plan, Position::default())?;
        mesh.daemon(&b)?.start()?;
        let daemon = mesh.daemon(&a)?;
        daemon.launch()?;
        let wait_for_state = |state: &str| {
            wait_for(
                Deadline::default(),
                || format!("the workload to be {state}"),
                || {
                    // Its socket may not be there yet.
                    let is_so = daemon.status().is_ok_and(|status| {
                        status["status"]["phase"] == "serving"
                            && workloads(&status).all(|workload| workload["state"] == state)
                    });
                    Ok(is_so.then_some(()))
                },
            )
        };
        wait_for_state("failed")?;

        // Nobody would hold plain text up there.
        let outside = b.outsider("outside")?;
        let mut listening = outside.serve(8080, [Step::Echo])?;
        let hello = [Step::Say("hi".into()), Step::Hear("hi".into())];
        let ended = client.connect(outside.at(Family::V4, 8080), hello.clone())?;
        ensure_eq(ended.error(), "ECONNREFUSED", "before it fits")?;
        ensure(listening.has_nothing_to_tell()?, || "it was reached")?;

        client
            .netns()
            .ip(&format!("addr add {later}/24 dev eth0\n"))?;
        wait_for_state("ready")?;
        let _served = server.serve(8080, [Step::Echo])?;
        let ended = client.connect(server.at(Family::V4, 8080), hello)?;
        ensure(ended.is_well(), || format!("once it fits: {ended:?}"))?;
        mesh.wire()?.ensure_only_tls()
    })
}
