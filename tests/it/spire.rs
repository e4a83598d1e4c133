//! Certificates from real SPIRE agents, one a node: they come when the agents
//! do, change under an open connection, outlive an agent that is killed, and
//! end with their entry.

use std::time::Duration;

use mtls_tests::authorities::{Agent, Entry, Spire};
use mtls_tests::deadline::{Deadline, Stopwatch, wait_for};
use mtls_tests::mesh::{Ca, Daemon, Position, workloads};
use mtls_tests::script::{Connect, Step};
use mtls_tests::{Family, Mesh, Node, Plan, Result, ensure, play, two_nodes};
use serde_json::Value;

#[test]
fn spire() -> Result {
    play("spire", |scene| {
        let (a, b) = two_nodes(scene)?;
        let (client, server) = (a.pod("client")?, b.pod("server")?);
        let spire = Spire::start(&a)?;
        let partner = Ca::create(scene.dir(), "partner", "partner.example")?;
        spire.federate("spiffe://partner.example", &partner.certificate)?;
        let (mut agent_a, mut agent_b) = (spire.agent("a")?, spire.agent("b")?);
        let entry = |name: &'static str| Entry {
            id: match name {
                "client" => "spiffe://example.org/client",
                _ => "spiffe://example.org/server",
            },
            selectors: match name {
                "client" => &["mtls-daemon:workload:client"],
                _ => &["mtls-daemon:workload:server"],
            },
            ttl: 12,
            federates_with: Some("spiffe://partner.example"),
        };
        spire.register(&agent_a, &entry("client"))?;
        let servers_entry = spire.register(&agent_b, &entry("server"))?;
        let plan = with_agent(Plan::of([&client, &server]), &a, &agent_a);
        let mut mesh = Mesh::prepare(with_agent(plan, &b, &agent_b), Position::Below)?;

        // The daemons are there first: their workloads wait, and say for what.
        for node in [&a, &b] {
            let daemon = mesh.daemon(node)?;
            daemon.launch()?;
            wait_for_workload(daemon, "to miss the agent", |workload| {
                workload["renewal_error"]
                    .as_str()
                    .is_some_and(|error| error.contains("start the agent"))
            })?;
        }
        agent_a.start()?;
        agent_b.start()?;
        for node in [&a, &b] {
            wait_until_ready(mesh.daemon(node)?)?;
        }

        let known = mesh.daemon(&a)?.status()?["status"]["trust_bundles"].to_string();
        ensure(known.contains("partner.example"), || known.clone())?;

        let mut listening = server.serve(8080, [Step::Echo])?;
        let hello = [Step::Say("hi".into()), Step::Hear("hi".into())];
        for family in Family::BOTH {
            let ended = client.connect(server.at(family, 8080), hello.clone())?;
            ensure(ended.is_well(), || format!("{ended:?}"))?;
            listening.ended_well(1)?;
        }

        // New connections all the time, and one that stays open, while both
        // certificates change.
        let to = server.at(Family::V4, 8080);
        let first = serials(&mut mesh, [&a, &b])?;
        let living = [&hello[..], &[Step::Hold], &hello[..]].concat();
        let mut living = client.connect_as(Connect::to(to, living))?;
        living.held()?;
        let mut load = client.connect_as(Connect::to(to, hello.clone()).many(usize::MAX, 1))?;
        let watch = Stopwatch::start();
        let mut changes = 0;
        let mut last = first;
        while changes < 3 {
            let ended = load.ended()?;
            ensure(ended.is_well(), || {
                format!("{:?} after the start: {ended:?}", watch.elapsed())
            })?;
            ensure(watch.elapsed() < Duration::from_secs(60), || {
                format!("{changes} changes in a minute")
            })?;
            let now = serials(&mut mesh, [&a, &b])?;
            changes += usize::from(now[0] != last[0] && now[1] != last[1]);
            if now[0] != last[0] && now[1] != last[1] {
                last = now;
            }
        }

        living.go()?;
        living.ended_well()?;

        // Without an agent the certificate at hand goes on.
        agent_b.kill()?;
        wait_for_workload(mesh.daemon(&b)?, "to miss its agent", |workload| {
            workload["renewal_error"].is_string() && workload["state"] == "ready"
        })?;
        let ended = load.ended()?;
        ensure(ended.is_well(), || format!("without an agent: {ended:?}"))?;
        agent_b.start()?;
        wait_for_workload(mesh.daemon(&b)?, "to have its agent again", |workload| {
            workload["renewal_error"].is_null()
                && workload["svid"]["serial"].is_string()
                && workload["svid"]["serial"] != last[1].as_str()
        })?;
        let ended = load.ended()?;
        ensure(ended.is_well(), || {
            format!("after the agent's return: {ended:?}")
        })?;
        drop(load);

        // Without its entry the workload has no identity any more.
        spire.delete(&servers_entry)?;
        wait_for_workload(mesh.daemon(&b)?, "to lose its identity", |workload| {
            let error = workload["renewal_error"].as_str().unwrap_or_default();
            workload["svid"].is_null() && error.contains("spire-server entry create")
        })?;
        spire.register(&agent_b, &entry("server"))?;
        wait_until_ready(mesh.daemon(&b)?)?;
        let ended = client.connect(to, hello)?;
        ensure(ended.is_well(), || format!("with a new entry: {ended:?}"))?;
        mesh.wire()?.ensure_only_tls()
    })
}

fn with_agent(plan: Plan, node: &Node, agent: &Agent) -> Plan {
    let socket = format!("{:?}", agent.socket().display().to_string());
    plan.set_on(node, "identity.spire", "socket", &socket)
}

/// Of each node's one workload.
fn serials(mesh: &mut Mesh, nodes: [&Node; 2]) -> Result<[String; 2]> {
    let mut serials = [String::new(), String::new()];
    for (serial, node) in serials.iter_mut().zip(nodes) {
        let status = mesh.daemon(node)?.status()?;
        let found = workloads(&status).next();
        let found = found.and_then(|workload| workload["svid"]["serial"].as_str());
        found.unwrap_or_default().clone_into(serial);
    }
    Ok(serials)
}

/// A failed workload counts as a ready one of a daemon's, to begin with.
fn wait_until_ready(daemon: &mut Daemon) -> Result {
    wait_for_workload(daemon, "to be ready", |one| one["state"] == "ready").map(drop)
}

fn wait_for_workload(
    daemon: &mut Daemon,
    what: &str,
    is_so: impl Fn(&Value) -> bool,
) -> Result<Value> {
    let mut last = Value::Null;
    wait_for(
        Deadline::default(),
        || format!("the workload {what}"),
        || {
            // Its socket may not be there yet.
            if let Ok(status) = daemon.status() {
                last = workloads(&status).next().cloned().unwrap_or_default();
            }
            Ok(is_so(&last).then(|| last.clone()))
        },
    )
}
