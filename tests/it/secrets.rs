//! What a daemon knows of keys stays in it: nothing that it says holds any,
//! and a crash leaves no memory on a disk.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::process::Command;

use mtls_tests::deadline::Deadline;
use mtls_tests::error::Doing;
use mtls_tests::script::Step;
use mtls_tests::{Family, Pair, Result, ensure, ensure_eq, play};
use nix::sys::signal::Signal;

#[test]
fn secrets() -> Result {
    play("secrets", |scene| {
        let mut pair = Pair::start_as(scene, |plan, _, _| plan.set("log", "filter", "\"trace\""))?;
        let _server = pair.server.serve(8080, [Step::Echo])?;
        let hello = [Step::Say("hi".into()), Step::Hear("hi".into())];
        let ended = pair
            .client
            .connect(pair.server.at(Family::V4, 8080), hello)?;
        ensure(ended.is_well(), || format!("{ended:?}"))?;

        let key =
            fs::read_to_string(&pair.mesh.ca().key).doing(|| "reading the authority's key")?;
        let daemon = pair.clients_daemon()?;
        daemon.wait_for_log("the warning that the key lies here", |event| {
            let message = event["message"].as_str().unwrap_or_default();
            message.contains("the authority's key lies on this node")
        })?;
        let (_, metrics) = daemon.get("/metrics")?;
        let mut said = vec![daemon.log(), metrics];
        for word in ["status", "certificates", "connections"] {
            said.push(daemon.ask(word)?.to_string());
        }
        let secret = key.lines().filter(|line| !line.starts_with('-'));
        for line in secret {
            ensure(
                said.iter().all(|text| !text.contains(line)),
                || "a line of the authority's key is told",
            )?;
        }
        let is_key = |text: &String| text.contains("PRIVATE KEY");
        ensure(!said.iter().any(is_key), || "a private key is told")?;

        // What crashes here leaves its memory behind.
        let crash = "ulimit -c unlimited; kill -ABRT $$";
        let mut usual = Command::new("sh");
        let usual = usual.args(["-c", crash]).current_dir(scene.dir()).status();
        let usual = usual.doing(|| "running sh")?;
        ensure(usual.core_dumped(), || {
            format!("core dumps are switched off on this machine: {usual}")
        })?;
        let process = daemon.process()?;
        let pid = process.pid().to_string();
        let raised = Command::new("prlimit")
            .args(["--core=unlimited", "--pid", &pid])
            .status()
            .doing(|| "running prlimit")?;
        ensure(raised.success(), || format!("prlimit: {raised}"))?;
        let folder = fs::read_link(format!("/proc/{pid}/cwd")).doing(|| "asking where it runs")?;
        process.signal(Signal::SIGABRT)?;
        let ended = process.wait(Deadline::default())?;
        ensure_eq(ended.signal(), Some(Signal::SIGABRT as i32), "its end")?;
        if ended.core_dumped() {
            // Where the kernel puts it, unless somebody else collects them.
            let _ = fs::remove_file(folder.join("core"));
        }
        ensure(!ended.core_dumped(), || "a daemon's memory was dumped")?;
        pair.ensure_nothing_in_clear().map(drop)
    })
}
