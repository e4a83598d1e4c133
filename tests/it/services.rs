//! A service stands for several workloads: connections go round over those
//! that answer.

use mtls_tests::script::{Connect, Step};
use mtls_tests::{Error, Mesh, Plan, Result, ensure, ensure_eq, play, two_nodes};

#[test]
fn services() -> Result {
    play("services", |scene| {
        let (a, b) = two_nodes(scene)?;
        let client = a.pod("client")?;
        let pods = [b.pod("one")?, b.pod("two")?];
        let plan = Plan::of([&client, &pods[0], &pods[1]]).service(
            "web",
            &["10.96.0.10", "fd96::10"],
            "[{ port = 80, target = 8080 }]",
            &[&pods[0], &pods[1]],
        );
        let mut mesh = Mesh::start_as(plan)?;
        let mut one = pods[0].serve(8080, [Step::Say("one".into())])?;
        let mut two = pods[1].serve(8080, [Step::Say("two".into())])?;
        for address in ["10.96.0.10:80", "[fd96::10]:80"] {
            let to = address
                .parse()
                .map_err(|e| Error::Unexpected(format!("{address}: {e}")))?;
            let task = Connect::to(to, [Step::Receive { bytes: 3, seed: 1 }]).many(20, 1);
            for ended in client.connect_as(task)?.ended_all()? {
                ensure(ended.failure.is_none(), || format!("{ended:?}"))?;
                ensure_eq(ended.peer, Some(to), "whom the client sees")?;
            }
            one.ended_well(10)?;
            two.ended_well(10)?;
        }

        // One of them stops listening: soon everything goes to the other.
        drop(two);
        let to = "10.96.0.10:80"
            .parse()
            .map_err(|e| Error::Unexpected(format!("{e}")))?;
        let script = [Step::Hear("one".into())];
        let task = Connect::to(to, script).many(usize::MAX, 1);
        let mut clients = client.connect_as(task)?;
        let (mut in_a_row, mut attempts) = (0, 0);
        while in_a_row < 20 {
            let ended = clients.ended()?;
            in_a_row = if ended.is_well() { in_a_row + 1 } else { 0 };
            attempts += 1;
            ensure(attempts < 60, || format!("still failing: {ended:?}"))?;
        }
        drop(clients);
        mesh.wire()?.ensure_only_tls()
    })
}
