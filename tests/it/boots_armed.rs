//! A node boots: the gate is armed before anything else, and the authority that
//! the daemon needs for its workloads' certificates, and the resolver that it
//! needs to find it, are workloads of that node themselves. Nobody is heard
//! before the daemon runs, and then it comes up by itself.

use mtls_tests::authorities::{HOST, OpenBao};
use mtls_tests::mesh::Position;
use mtls_tests::process::Process;
use mtls_tests::script::Step;
use mtls_tests::{Family, Mesh, Plan, Pod, Result, ensure, ensure_eq, play, two_nodes};
use serde_json::json;

use crate::vault::{quoted, with_vault};

#[test]
fn boots_armed() -> Result {
    play("boots-armed", |scene| {
        let (a, b) = two_nodes(scene)?;
        let (client, server) = (a.pod("client")?, b.pod("server")?);
        let (authority, names) = (b.pod("authority")?, b.pod("names")?);
        let stranger = b.outsider("stranger")?;
        // As it was set up, long ago.
        let mut vault = OpenBao::start_in(&authority)?;
        let api = vault.api();
        let roots = api.make_pki()?.display().to_string();
        api.make_role("workloads", "example.org")?;
        api.post("sys/auth/approle", &json!({ "type": "approle" }))?;
        let login = json!({ "token_policies": "workloads", "token_ttl": "1h" });
        let (role_id, secret_id) = api.make_app_role("nodes", &login)?;
        let mut plan = Plan::of([&client, &server, &authority, &names])
            // It speaks TLS of its own.
            .set_workload(&authority, "excluded_inbound_ports", "[8200]")
            .set("identity.vault", "role_id", &quoted(&role_id))
            .set(
                "identity.vault",
                "secret_id_file",
                &quoted(&secret_id.display().to_string()),
            );
        for node in [&a, &b] {
            plan = with_vault(plan, node, &vault, "bundle", &roots);
        }
        let url = quoted(&format!("https://{HOST}:8200"));
        let plan = plan.set_on(&b, "identity.vault", "address", &url);
        let mut mesh = Mesh::prepare(plan, Position::Outside)?;
        vault.kill()?;

        // The boot: the gate, then the workloads, then the daemon.
        mesh.daemon(&b)?.arm_gate()?;
        vault.launch_unheard()?;
        let _resolver = resolver(&names, &authority)?;
        authority.netns().wait_until_listens(8200)?;
        let mut listening = server.serve(8080, [Step::Echo])?;
        let outside = stranger.serve(9090, [Step::Echo])?;
        ensure(!vault.is_heard()?, || "heard before the daemon ran")?;
        let hello = [Step::Say("hi".into()), Step::Hear("hi".into())];
        for family in Family::BOTH {
            for (from, to) in [
                (&server, stranger.at(family, outside.port())),
                (&server, authority.at(family, 8200)),
                (&names, server.at(family, 8080)),
            ] {
                let ended = from.connect(to, hello.clone())?;
                ensure(ended.failed_to_connect(), || {
                    format!("{} to {to}: {ended:?}", from.name())
                })?;
                ensure_eq(ended.error(), "ECONNREFUSED", "before the daemon ran")?;
            }
        }
        ensure(listening.has_nothing_to_tell()?, || "it was reached")?;

        mesh.daemon(&b)?.resolve_at(names.address(Family::V4))?;
        for daemon in mesh.daemons() {
            daemon.launch()?;
        }
        // As its operator does, or a seal that opens by itself.
        vault.wait_until_heard()?;
        vault.unseal()?;
        for (node, workloads) in [(&a, 1), (&b, 3)] {
            let daemon = mesh.daemon(node)?;
            daemon.wait_for_metrics("its workloads", |metrics| {
                metrics.count("mtls_workloads", &[("state", "ready")]) == workloads
            })?;
        }
        for family in Family::BOTH {
            let ended = client.connect(server.at(family, 8080), hello.clone())?;
            ensure(ended.is_well(), || format!("{family:?}: {ended:?}"))?;
            listening.ended_well(1)?;
        }
        // Again, beside the daemon and after it: what is in force stays.
        for running in [true, false] {
            let daemon = mesh.daemon(&b)?;
            if !running {
                daemon.kill()?;
            }
            let config = daemon.config().display().to_string();
            let again = daemon.command(&["gate", "--config", &config])?.success()?;
            ensure(again.starts_with("nothing to do"), || again.clone())?;
            let heard = vault.is_heard()?;
            ensure(heard, || "what was excluded is not any more")?;
        }
        mesh.wire()?.ensure_only_tls()
    })
}

/// Knows where the authority is.
fn resolver(pod: &Pod, authority: &Pod) -> Result<Process> {
    let process = pod
        .spawn("dnsmasq")?
        .args(["--no-daemon", "--no-resolv", "--no-hosts", "--user=root"])
        .args(["--conf-file=/dev/null", "--pid-file=", "--log-facility=-"])
        .arg(format!(
            "--address=/{HOST}/{}",
            authority.address(Family::V4)
        ))
        .start()?;
    pod.netns().wait_until_listens(53)?;
    Ok(process)
}
