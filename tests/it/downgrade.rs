//! An attacker between two permissive workloads wants them to talk in clear: it
//! swallows the tunnels, or answers them with resets. Both connections and
//! services fail, and nothing goes in clear: only what the directory says makes
//! a connection one without a tunnel.

use std::process::Command;

use mtls_tests::deadline::{Deadline, wait_for};
use mtls_tests::script::Step;
use mtls_tests::{Doing, Family, Node, Pair, Result, ensure, play};

#[test]
fn downgrade() -> Result {
    play("downgrade", |scene| {
        let mut pair = Pair::start_as(scene, |plan, client, server| {
            plan.set_workload(client, "mode", "\"permissive\"")
                .set_workload(server, "mode", "\"permissive\"")
                .set("limits", "connect", "\"500ms\"")
                .service("db", &["10.96.0.7", "fd00:96::7"], "[8080]", &[server])
        })?;
        let mut server = pair.server.serve(8080, [Step::Echo])?;
        let secret = [Step::Send {
            bytes: 4096,
            seed: 7,
        }];
        let to = [
            pair.server.at(Family::V4, 8080),
            pair.server.at(Family::V6, 8080),
            ([10, 96, 0, 7], 8080).into(),
            ([0xfd00, 0x96, 0, 0, 0, 0, 0, 7], 8080).into(),
        ];
        swallow_tunnels(&pair.a, "add")?;
        // Twice each: the endpoint is remembered as one that fails.
        for _ in 0..2 {
            for at in to {
                let ended = pair.client.connect(at, secret.clone())?;
                ensure(!ended.is_well(), || format!("tunnels swallowed: {ended:?}"))?;
            }
        }
        swallow_tunnels(&pair.a, "del")?;
        // With its daemon dead, the server's node resets tunnels by itself.
        pair.servers_daemon()?.kill()?;
        for _ in 0..2 {
            for at in to {
                let ended = pair.client.connect(at, secret.clone())?;
                ensure(!ended.is_well(), || format!("tunnels reset: {ended:?}"))?;
            }
        }
        ensure(server.has_nothing_to_tell()?, || "the server was reached")?;
        let report = pair.ensure_nothing_in_clear()?;
        let tunnel_only = |server: std::net::SocketAddr| server.port() == 15008;
        ensure(
            report.connections.iter().all(|one| tunnel_only(one.server)),
            || format!("somebody dialled in clear\n{report}"),
        )?;

        // With nobody in between it works. A refusal is remembered for a second.
        pair.servers_daemon()?.start()?;
        let hello = [Step::Say("hi".into()), Step::Hear("hi".into())];
        for at in to {
            wait_for(
                Deadline::default(),
                || format!("{at} to be reached"),
                || {
                    let ended = pair.client.connect(at, hello.clone())?;
                    Ok(ended.is_well().then_some(()))
                },
            )?;
        }
        Ok(())
    })
}

/// What the node forwards to the tunnels' port disappears.
fn swallow_tunnels(node: &Node, verb: &str) -> Result {
    for family in ["-4", "-6"] {
        let rule = [
            "rule",
            verb,
            "ipproto",
            "tcp",
            "dport",
            "15008",
            "blackhole",
        ];
        let run = || Command::new("ip").arg(family).args(rule).status();
        let status = node.netns().run(run)?.doing(|| "running ip")?;
        ensure(status.success(), || {
            format!("ip {family} rule {verb}: {status}")
        })?;
    }
    Ok(())
}
