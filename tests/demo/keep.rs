//! `--keep`: the nodes stay, with what to try on them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use mtls_tests::{Doing, Error, Family, Pod, Result, programs, run};

use crate::screen::Screen;
use crate::stage::{Stage, WEB_PORT};

/// Leaves everything running and ends this program.
pub(crate) fn running(stage: Stage, screen: &mut Screen) -> Result {
    let scene = stage.a.scene().dir().to_owned();
    let enter = scene.join("in");
    write_enter(
        &enter,
        [
            &stage.frontend,
            &stage.jobs,
            &stage.web,
            &stage.store,
            &stage.stranger,
        ],
    )?;
    let daemon = programs::daemon()?;
    let (enter, daemon) = (enter.display(), daemon.display());
    let admin = |node| format!("{}/daemon-{node}/admin.sock", scene.display());
    let web = stage.web.at(Family::V4, WEB_PORT);
    screen.heading("Left running. Try:");
    screen.say(format!("  {enter} frontend curl -s http://{web}/hello"));
    screen.say(format!(
        "  {enter} stranger curl -s http://{web}/hello     # refused"
    ));
    screen.say(format!(
        "  {enter} frontend bash                           # a shell in the pod"
    ));
    for node in ["a", "b"] {
        screen.say(format!("  {daemon} status --socket {}", admin(node)));
    }
    screen.say(format!("  {daemon} connections --socket {}", admin("a")));
    screen.say("\nand when you have seen enough:\n  cargo xtask demo --stop");
    run::current()?.keep()?;
    // Ending without dropping the stage is what leaves it running.
    std::process::exit(0);
}

/// A command that runs another one inside of a pod: in its cgroup and its
/// network namespace, as the kernel's hooks go by both.
fn write_enter(path: &Path, pods: [&Pod; 5]) -> Result {
    let cases: Vec<String> = pods
        .iter()
        .map(|pod| {
            format!(
                "{}) cgroup={} netns={} ;;",
                pod.name(),
                pod.cgroup().path().display(),
                pod.netns().path().display()
            )
        })
        .collect();
    let names: Vec<_> = pods.iter().map(|pod| pod.name()).collect();
    let script = format!(
        "#!/bin/sh\ncase \"$1\" in\n{}\n*) echo \"usage: in {} COMMAND\" >&2; exit 2 ;;\nesac\nshift\necho $$ >\"$cgroup/cgroup.procs\" && exec nsenter --net=\"$netns\" \"$@\"\n",
        cases.join("\n"),
        names.join("|"),
    );
    let written = fs::write(path, script)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o755)));
    written
        .doing(|| format!("writing {}", path.display()))
        .map_err(|error: Error| error)
}
