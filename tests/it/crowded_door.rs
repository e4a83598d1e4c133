//! Strangers open more connections to the tunnel's port than there are places
//! for handshakes, and say nothing. Whoever comes with a handshake of its own,
//! to that workload or to its neighbour on the node, finds a place; and the
//! node's own connections outwards never wait for one of theirs.

use mtls_tests::script::{Connect, Step};
use mtls_tests::{Family, Mesh, Plan, Result, ensure, play, two_nodes};

const PLACES: u64 = 32;

#[test]
fn crowded_door() -> Result {
    play("crowded-door", |scene| {
        let (a, b) = two_nodes(scene)?;
        let client = a.pod("client")?;
        let (wanted, neighbour) = (b.pod("wanted")?, b.pod("neighbour")?);
        let strangers = [a.outsider("far")?, b.outsider("near")?];
        let plan = Plan::of([&client, &wanted, &neighbour])
            .set("node", "workers", "1")
            .set("limits", "handshake", "\"1m\"")
            .set("limits", "handshakes_per_worker", &PLACES.to_string());
        let mut mesh = Mesh::start_as(plan)?;
        let mut crowds = Vec::new();
        for (stranger, family) in strangers.iter().zip(Family::BOTH) {
            let to = wanted.at(family, 15008);
            let silent = Connect::to(to, [Step::Hold]).many(200, 200);
            crowds.push(stranger.connect_as(silent)?);
        }
        mesh.daemon(&b)?
            .wait_for_metrics("all places taken", |metrics| {
                let full = [("limit", "handshakes_per_worker")];
                metrics.count("mtls_limit_reached_total", &full) >= 400 - PLACES
            })?;

        let hello = [Step::Say("hi".into()), Step::Hear("hi".into())];
        let _listening: Vec<_> = [&client, &wanted, &neighbour]
            .iter()
            .map(|pod| pod.serve(8080, [Step::Echo]))
            .collect::<Result<_>>()?;
        for (from, to) in [
            (&client, &wanted),
            (&client, &neighbour),
            (&wanted, &client),
        ] {
            let ended = from.connect(to.at(Family::V4, 8080), hello.clone())?;
            ensure(ended.is_well(), || {
                format!("{} to {}: {ended:?}", from.name(), to.name())
            })?;
        }
        for mut crowd in crowds {
            crowd.process().kill()?;
        }
        mesh.wire()?.ensure_only_tls()
    })
}
