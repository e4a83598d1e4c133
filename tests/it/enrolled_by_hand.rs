//! `enrol --wait` takes a pod in charge that no file names, tells why when it
//! cannot, and its work outlives a reload of the file.

use mtls_tests::script::Step;
use mtls_tests::{Family, Pair, Result, ensure, ensure_eq, play};

const JOB: &str = "spiffe://example.org/job";

#[test]
fn enrolled_by_hand() -> Result {
    play("enrolled-by-hand", |scene| {
        let mut pair = Pair::start(scene)?;
        let job = pair.a.pod("job")?;
        let mut listening = pair.client.serve(8080, [Step::Echo])?;
        let hello = [Step::Say("hi".into()), Step::Hear("hi".into())];
        let to = |family| pair.client.at(family, 8080);
        let refused = job.connect(to(Family::V4), [Step::ExpectEnd])?;
        ensure_eq(refused.error(), "ECONNREFUSED", "before it is enrolled")?;

        let socket = pair.clients_daemon()?.admin_socket();
        let netns = job.netns().path().to_string_lossy().into_owned();
        let nowhere = format!("{netns}-of-nobody");
        let (a, mesh) = (&pair.a, &mut pair.mesh);
        let mut enrol = |words: &[&str]| {
            let common = ["enrol", "--wait", "--socket", &socket];
            mesh.daemon(a)?.command(&[&common[..], words].concat())
        };
        let unnamed = enrol(&["--netns", &netns])?;
        ensure_eq(unnamed.status.code(), Some(1), "without an identity")?;
        ensure(unnamed.stderr.starts_with("not_configured: "), || {
            unnamed.stderr.clone()
        })?;
        let absent = enrol(&["--netns", &nowhere, "--spiffe-id", JOB])?;
        ensure_eq(absent.status.code(), Some(1), "without a namespace")?;
        ensure(absent.stderr.starts_with("place_not_found: "), || {
            absent.stderr.clone()
        })?;
        let said = enrol(&["--netns", &netns, "--spiffe-id", JOB])?.success()?;
        ensure_eq(said.as_str(), "workload job is ready\n", "its answer")?;

        for family in Family::BOTH {
            let ended = job.connect(pair.client.at(family, 8080), hello.clone())?;
            ensure(ended.is_well(), || format!("enrolled: {ended:?}"))?;
            listening.ended_well(1)?;
        }
        let daemon = pair.mesh.daemon(&pair.a)?;
        daemon.reload()?;
        daemon.wait_for_metrics("a reload", |metrics| {
            metrics.count("mtls_config_reloads_total", &[("result", "ok")]) == 1
        })?;
        let ended = job.connect(pair.client.at(Family::V4, 8080), hello)?;
        ensure(ended.is_well(), || format!("after a reload: {ended:?}"))?;
        listening.ended_well(1)?;
        daemon
            .wait_for_access("the job's connection", |line| {
                line["direction"] == "inbound" && line["source"] == JOB
            })
            .map(drop)
    })
}
