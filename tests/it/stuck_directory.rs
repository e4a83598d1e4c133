//! The API server is there and says nothing: connections to it stand, and no
//! answer comes. What is known goes on, what is not is refused within a limit,
//! a daemon that starts meanwhile goes on with what its predecessor knew, and
//! when the API server speaks again everything that happened is known.

use std::time::Duration;

use mtls_tests::cluster::{ControlPlane, Kubelets, StandIn, namespace, plan};
use mtls_tests::deadline::{Deadline, Stopwatch, wait_for};
use mtls_tests::script::Step;
use mtls_tests::{Family, Mesh, Result, ensure, play, two_nodes};
use serde_json::json;

use crate::kubernetes::{
    account, answers, one_connection, pod, refused, wait_for_mode, wait_until_saved,
};

#[test]
fn stuck_directory() -> Result {
    play("stuck-directory", |scene| {
        let (a, b) = two_nodes(scene)?;
        let plane = ControlPlane::start(&a, Kubelets::Played)?;
        namespace(&plane, "shop", &json!({"mtls-daemon.io/mode": "strict"}))?;
        account(&plane, "shop", "web")?;
        let (on_a, on_b) = (
            StandIn::register(&a, &plane)?,
            StandIn::register(&b, &plane)?,
        );
        let mut mesh = Mesh::start_as(plan(&plane, &[&a, &b])?)?;
        let client = on_a.pod(&plane, &pod("shop", "client", "web"))?;
        let known = on_b.pod(&plane, &pod("shop", "known", "web"))?;
        let later = on_b.pod(&plane, &pod("shop", "later", "web"))?;
        let _known = known.pod.serve(8080, [Step::Say("known".into())])?;
        let _later = later.pod.serve(8080, [Step::Say("later".into())])?;
        for (node, pod) in [(&a, &client), (&b, &known), (&b, &later)] {
            wait_for_mode(mesh.daemon(node)?, pod, "strict")?;
            pod.report(&plane, true)?;
        }
        let (to_known, to_later) = (
            known.pod.at(Family::V4, 8080),
            later.pod.at(Family::V4, 8080),
        );
        answers(&client, to_known, "known")?;
        wait_until_saved(&a, &known)?;

        plane.api_server()?.freeze()?;
        for _ in 0..3 {
            let ended = one_connection(&client, to_known, "known")?;
            ensure(ended.is_well(), || format!("who is known: {ended:?}"))?;
        }
        // The client's node has never asked about that one.
        let watch = Stopwatch::start();
        refused(&client, to_later, "later")?;
        ensure(watch.elapsed() < Duration::from_secs(10), || {
            format!("the refusal took {:?}", watch.elapsed())
        })?;
        mesh.daemon(&a)?
            .wait_for_access("whom nobody could tell about", |line| {
                line["reason"] == "unknown_destination"
            })?;

        mesh.daemon(&a)?.kill()?;
        mesh.daemon(&a)?.start()?;
        answers(&client, to_known, "known")?;
        refused(&client, to_later, "later")?;

        plane.api_server()?.thaw()?;
        // It waits longer before each attempt, up to half a minute.
        wait_for(
            Deadline::after(Duration::from_secs(120)),
            || "the later pod to be known",
            || {
                Ok(one_connection(&client, to_later, "later")?
                    .is_well()
                    .then_some(()))
            },
        )?;
        answers(&client, to_known, "known")?;
        mesh.wire()?.ensure_only_tls()
    })
}
