//! Somebody removes the pins beside running daemons, or unmounts the file system
//! under them. The daemons hold what was pinned: nothing is in clear, nothing is
//! cut, and they pin it again as soon as there is a place for it, so that a
//! crash after that still opens nothing.

use std::fs;

use mtls_tests::mesh::Daemon;
use mtls_tests::script::{Connect, Step};
use mtls_tests::{Doing, Family, Pair, Result, ensure, ensure_eq, play};

#[test]
fn pins_removed_beside_the_daemon() -> Result {
    play("pins-removed", |scene| {
        let mut pair = Pair::start(scene)?;
        let _server = pair.server.serve(8080, [Step::Echo])?;
        let mut open = pair.client.connect_as(Connect::to(
            pair.server.at(Family::V4, 8080),
            [
                Step::Say("hi".into()),
                Step::Hear("hi".into()),
                Step::Hold,
                Step::Say("still here".into()),
                Step::Hear("still here".into()),
            ],
        ))?;
        open.held()?;

        // All of it, then what a slip of the hand takes.
        for some in [&[""][..], &["links/connect4", "maps/NETNS", "veths"]] {
            for daemon in pair.mesh.daemons() {
                let before = restored(daemon)?;
                for pin in some {
                    remove(daemon, pin)?;
                }
                daemon.wait_for_metrics("pins that are put back", |metrics| {
                    metrics.sum(RESTORED, &[]) > before
                })?;
            }
            pair.greet(8080)?;
            for daemon in pair.mesh.daemons() {
                daemon.wait_until_ready()?;
            }
        }
        ensure(told(pair.clients_daemon()?), || "its log says nothing")?;
        open.go()?;
        let ended = open.ended()?;
        ensure(ended.is_well(), || {
            format!("the open connection: {ended:?}")
        })?;

        survive_a_crash(&mut pair)?;
        pair.ensure_private().map(drop)
    })
}

#[test]
fn bpffs_unmounted_under_the_daemon() -> Result {
    play("bpffs-unmounted", |scene| {
        let mut pair = Pair::start(scene)?;
        let _server = pair.server.serve(8080, [Step::Echo])?;
        for daemon in pair.mesh.daemons() {
            daemon.unmount_bpffs()?;
            daemon.wait_until_not_ready("enforcement would end with this daemon")?;
        }
        pair.greet(8080)?;
        for daemon in pair.mesh.daemons() {
            daemon.mount_bpffs()?;
            daemon.wait_until_ready()?;
            let pins = restored(daemon)?;
            // Twelve of the cgroup's hooks, the workload's two, and the maps.
            ensure(pins > 14.0, || format!("{pins} pins were put back"))?;
        }
        pair.greet(8080)?;
        survive_a_crash(&mut pair)?;
        pair.ensure_private().map(drop)
    })
}

const RESTORED: &str = "mtls_pins_restored_total";

fn restored(daemon: &Daemon) -> Result<f64> {
    Ok(daemon.metrics()?.sum(RESTORED, &[]))
}

fn told(daemon: &Daemon) -> bool {
    daemon.log_events().iter().any(|event| {
        let message = event["message"].as_str().unwrap_or_default();
        event["level"] == "ERROR" && message.contains("pins were removed")
    })
}

fn remove(daemon: &Daemon, pin: &str) -> Result {
    // At once: the daemon would fill a folder again that is being emptied.
    let gone = daemon.pins().with_file_name("gone");
    let path = daemon.pins().join(pin);
    fs::rename(&path, &gone).doing(|| format!("taking {} away", path.display()))?;
    match gone.is_dir() {
        true => fs::remove_dir_all(&gone),
        false => fs::remove_file(&gone),
    }
    .doing(|| format!("removing {}", path.display()))
}

/// What is pinned again is what was in force.
fn survive_a_crash(pair: &mut Pair) -> Result {
    for daemon in pair.mesh.daemons() {
        daemon.kill()?;
    }
    for family in Family::BOTH {
        let to = pair.server.at(family, 8080);
        let ended = pair.client.connect(to, [Step::ExpectEnd])?;
        ensure_eq(ended.error(), "ECONNREFUSED", "without a daemon")?;
    }
    pair.mesh.start_all()?;
    pair.greet(8080)
}
