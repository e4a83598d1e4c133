//! The node's prober comes in in clear, at the ports that are meant for it and
//! by its cgroup alone, whether or not the daemon runs.

use aya::maps::{HashMap, Map, MapData};
use mtls_daemon::kernel::{Hook, Outcome};
use mtls_tests::deadline::{Deadline, wait_for};
use mtls_tests::{Error, Family, Pod, Result, ensure, ensure_eq, play, two_nodes};

use super::stage::{Said, Stage, chat, ensure_refused, meet};

#[test]
fn kernel_lets_the_nodes_prober_in() -> Result {
    play("kernel-probes", |scene| {
        let (a, _b) = two_nodes(scene)?;
        let server = a.pod("server")?;
        // Its cgroup is what the stage's daemon was told of.
        let (prober, other) = (a.pod("prober")?, a.pod("other")?);
        meet(&prober, &server)?;
        let mut stage = Stage::attached(&a)?;
        for pod in [&prober, &other] {
            let cookie = pod.netns().cookie()?;
            stage.kernel().not_enrolled(cookie).said()?;
        }
        let _post = stage.enrol_as(&server, |enrolment| {
            enrolment.probe_ports = vec![8081];
        })?;
        let (ask, answer) = chat();
        let _application = server.serve(8080, answer.clone())?;
        let _health = server.serve(8081, answer)?;
        let probe = |pod: &Pod, family, port| pod.connect(server.at(family, port), ask.clone());

        for family in Family::BOTH {
            let ended = probe(&prober, family, 8081)?;
            ensure(ended.is_well(), || format!("a probe: {ended:?}"))?;
            ensure_refused(&probe(&prober, family, 8080)?, "at another port")?;
            ensure_refused(&probe(&other, family, 8081)?, "somebody else")?;
        }
        for hook in [Hook::SkLookup, Hook::Ingress] {
            let passed = stage.count(hook, Outcome::PassedProbe)?;
            ensure(passed >= 2, || format!("{hook:?} counted {passed}"))?;
        }
        ensure_eq(
            stage.count(Hook::Prober, Outcome::Recorded)?,
            4,
            "connections of the prober",
        )?;

        stage.stop();
        let ended = probe(&prober, Family::V4, 8081)?;
        ensure(ended.is_well(), || format!("without a daemon: {ended:?}"))?;
        ensure_refused(&probe(&other, Family::V4, 8081)?, "without a daemon")?;
        wait_for(
            Deadline::default(),
            || "the end of the probes to be noted",
            || Ok((open_probes(&stage)? == 0).then_some(())),
        )?;

        // The kubelet is started again: its cgroup is another one.
        stage.start()?;
        stage.kernel().attach().said()?;
        prober.cgroup().remake()?;
        stage.kernel().repair().said()?;
        let ended = probe(&prober, Family::V4, 8081)?;
        ensure(ended.is_well(), || format!("in another cgroup: {ended:?}"))
    })
}

fn open_probes(stage: &Stage) -> Result<usize> {
    let pin = stage.pins().join("maps/PROBES");
    let map = MapData::from_pin(&pin)
        .map_err(|e| Error::Unexpected(format!("{}: {e}", pin.display())))?;
    let map: HashMap<_, [u8; 36], u64> =
        HashMap::try_from(Map::LruHashMap(map)).map_err(|e| Error::Unexpected(e.to_string()))?;
    let open = map.iter().filter(|entry| matches!(entry, Ok((_, 0))));
    Ok(open.count())
}
