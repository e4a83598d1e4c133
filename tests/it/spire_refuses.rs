//! What a SPIRE agent refuses, and what it does not have, is explained: by
//! `check` before the daemon runs, and in its status.

use mtls_tests::authorities::{Entry, Spire};
use mtls_tests::deadline::{Deadline, wait_for};
use mtls_tests::mesh::{Daemon, Position, workloads};
use mtls_tests::script::Step;
use mtls_tests::{Mesh, Plan, Result, ensure, play, two_nodes};
use serde_json::Value;

#[test]
fn spire_refuses() -> Result {
    play("spire-refuses", |scene| {
        let (a, _b) = two_nodes(scene)?;
        let client = a.pod("client")?;
        let spire = Spire::start(&a)?;
        let mut agent = spire.agent("a")?;
        agent.authorize("spiffe://example.org/somebody-else")?;
        agent.start()?;

        // The socket of the Workload API is the wrong one.
        let socket = |path: std::path::PathBuf| format!("{:?}", path.display().to_string());
        let plan =
            Plan::of([&client]).set("identity.spire", "socket", &socket(agent.workload_api()));
        let mut mesh = Mesh::prepare(plan, Position::Below)?;
        check(&mut mesh, "not the socket of the Workload API")?;

        // The right one, for a daemon that is no delegate.
        let right = socket(agent.socket());
        mesh.replan(|plan| plan.set("identity.spire", "socket", &right))?;
        check(&mut mesh, "authorized_delegates = [")?;
        let daemon = &mut mesh.daemons()[0];
        daemon.launch()?;
        wait_for_error(daemon, "authorized_delegates = [")?;

        // The operator does as it says: the workload has no entry yet.
        agent.kill()?;
        agent.authorize("spiffe://example.org/mtls-daemon")?;
        agent.start()?;
        let daemon = &mut mesh.daemons()[0];
        wait_for_error(daemon, "-selector mtls-daemon:workload:client")?;

        // An entry of another identity, then one of its own beside it.
        let entry = |id| Entry {
            id,
            selectors: &["mtls-daemon:workload:client"],
            ttl: 600,
            federates_with: None,
        };
        spire.register(&agent, &entry("spiffe://example.org/client2"))?;
        wait_for_error(daemon, "it offers spiffe://example.org/client2, and not")?;
        spire.register(&agent, &entry("spiffe://example.org/client"))?;
        wait_for_workload(daemon, |one| {
            one["state"] == "ready" && one["renewal_error"].is_null()
        })?;
        check_is_good(&mut mesh)?;

        // Selected by its process, which is there only after a while.
        mesh.replan(|plan| {
            plan.set("identity.spire", "select", "\"pid\"")
                .set_workload(&client, "spire.select", "\"pid\"")
        })?;
        let daemon = &mut mesh.daemons()[0];
        daemon.reload()?;
        wait_for_error(
            daemon,
            "no process runs in the workload's network namespace",
        )?;
        let listening = client.serve(8080, [Step::Echo])?;
        wait_for_error(
            daemon,
            "it offers spiffe://example.org/mtls-daemon, and not",
        )?;
        let by_user = Entry {
            selectors: &["unix:user:root"],
            ..entry("spiffe://example.org/client")
        };
        spire.register(&agent, &by_user)?;
        wait_for_workload(daemon, |one| {
            one["state"] == "ready" && one["renewal_error"].is_null()
        })?;
        // Its certificate outlives the process that it was given for.
        drop(listening);
        wait_for_error(
            daemon,
            "no process runs in the workload's network namespace",
        )?;
        let one = wait_for_workload(daemon, |one| one["state"] == "ready")?;
        ensure(one["svid"]["serial"].is_string(), || one.to_string())?;
        let _listening = client.serve(8080, [Step::Echo])?;
        wait_for_workload(daemon, |one| one["renewal_error"].is_null())?;
        Ok(())
    })
}

/// `check` fails, and says so.
fn check(mesh: &mut Mesh, remedy: &str) -> Result {
    let daemon = &mut mesh.daemons()[0];
    let config = daemon.config().display().to_string();
    let checked = daemon.command(&["check", "--config", &config])?;
    ensure(checked.status.code() == Some(1), || format!("{checked:?}"))?;
    ensure(checked.stderr.contains(remedy), || checked.stderr.clone())
}

fn check_is_good(mesh: &mut Mesh) -> Result {
    let daemon = &mut mesh.daemons()[0];
    let config = daemon.config().display().to_string();
    let said = daemon.command(&["check", "--config", &config])?.success()?;
    ensure(said.contains("good: spiffe://example.org/client"), || {
        said.clone()
    })
}

fn wait_for_error(daemon: &mut Daemon, words: &str) -> Result {
    wait_for_workload(daemon, |one| {
        one["renewal_error"]
            .as_str()
            .is_some_and(|error| error.contains(words))
    })
    .map(drop)
    .map_err(|error| mtls_tests::Error::Unexpected(format!("waiting for {words:?}: {error}")))
}

fn wait_for_workload(daemon: &mut Daemon, is_so: impl Fn(&Value) -> bool) -> Result<Value> {
    let mut last = Value::Null;
    let found = wait_for(
        Deadline::default(),
        || "the workload",
        || {
            // Its socket may not be there yet.
            if let Ok(status) = daemon.status() {
                last = workloads(&status).next().cloned().unwrap_or_default();
            }
            Ok(is_so(&last).then(|| last.clone()))
        },
    );
    match found {
        Err(mtls_tests::Error::TimedOut { waiting_for, .. }) => Err(mtls_tests::Error::TimedOut {
            waiting_for,
            seen: last.to_string(),
        }),
        other => other,
    }
}
