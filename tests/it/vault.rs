//! Certificates that a real OpenBao signs: renewed with a login whose lease is
//! renewed, or made again when it ends, and while the server is away.

use std::time::Duration;

use mtls_tests::authorities::OpenBao;
use mtls_tests::deadline::{Deadline, Stopwatch, wait_for};
use mtls_tests::mesh::{Daemon, Position, workloads};
use mtls_tests::script::{Connect, Step};
use mtls_tests::{Family, Mesh, Node, Plan, Result, ensure, ensure_eq, play, two_nodes};
use serde_json::{Value, json};

#[test]
fn vault() -> Result {
    play("vault", |scene| {
        let (a, b) = two_nodes(scene)?;
        let (client, server) = (a.pod("client")?, b.pod("server")?);
        let mut vault = OpenBao::start(&a)?;
        let api = vault.api();
        let roots = api.make_pki()?;
        api.make_role("workloads", "example.org")?;
        api.post("sys/auth/approle", &json!({ "type": "approle" }))?;
        // One may log in but once, so that its lease must be renewed; the
        // other's login ends for good, so that it must log in again.
        let once =
            json!({ "token_policies": "workloads", "secret_id_num_uses": 1, "token_ttl": "6s" });
        let ends =
            json!({ "token_policies": "workloads", "token_ttl": "6s", "token_max_ttl": "9s" });
        let logins = [
            (&a, api.make_app_role("node-a", &once)?),
            (&b, api.make_app_role("node-b", &ends)?),
        ];
        let mut plan = Plan::of([&client, &server]);
        for (node, (role_id, secret_id)) in &logins {
            plan = with_vault(plan, node, &vault, "bundle", &roots.display().to_string())
                .set_on(node, "identity.vault", "role_id", &quoted(role_id))
                .set_on(
                    node,
                    "identity.vault",
                    "secret_id_file",
                    &quoted(&secret_id.display().to_string()),
                );
        }
        let plan = plan.set("identity.vault", "svid_ttl", "\"30s\"");
        let mut mesh = Mesh::prepare(plan, Position::Outside)?;
        mesh.start_all()?;

        let mut listening = server.serve(8080, [Step::Echo])?;
        let hello = [Step::Say("hi".into()), Step::Hear("hi".into())];
        for family in Family::BOTH {
            let ended = client.connect(server.at(family, 8080), hello.clone())?;
            ensure(ended.is_well(), || format!("{ended:?}"))?;
            listening.ended_well(1)?;
        }

        // Past the end of both first logins, and then without the server past
        // a renewal.
        let to = server.at(Family::V4, 8080);
        let watch = Stopwatch::start();
        let mut load = client.connect_as(Connect::to(to, hello.clone()).many(usize::MAX, 1))?;
        let mut well = || -> Result {
            let ended = load.ended()?;
            ensure(ended.is_well(), || {
                format!("{:?} after the start: {ended:?}", watch.elapsed())
            })
        };
        while renewals(&mut mesh, "ok")?
            .iter()
            .any(|renewals| *renewals < 2)
        {
            well()?;
            ensure(watch.elapsed() < Duration::from_secs(60), || "no renewals")?;
        }
        ensure(
            watch.elapsed() > Duration::from_secs(9),
            || "too soon to tell about the logins",
        )?;
        ensure_eq(renewals(&mut mesh, "error")?, vec![0, 0], "failed renewals")?;
        // Its login would not outlive what comes; the next one may be repeated.
        let often =
            json!({ "token_policies": "workloads", "secret_id_num_uses": 0, "token_ttl": "6s" });
        vault.api().make_app_role("node-a", &often)?;
        vault.kill()?;
        let failed = loop {
            well()?;
            let failed = renewals(&mut mesh, "error")?;
            if let Some(nth) = failed.iter().position(|failed| *failed > 0) {
                break [&a, &b][nth];
            }
        };
        // On a slow machine a certificate may end before the server is back.
        drop(load);
        vault.launch()?;
        wait_for_error(&mut mesh, failed, |error| {
            error.is_some_and(|error| error.contains("is sealed: unseal it"))
        })?;
        vault.unseal()?;
        wait_for_error(&mut mesh, &a, |error| error.is_none())?;
        wait_for_error(&mut mesh, &b, |error| error.is_none())?;
        let ended = client.connect(to, hello)?;
        ensure(ended.is_well(), || format!("after its return: {ended:?}"))?;
        mesh.wire()?.ensure_only_tls()
    })
}

#[test]
fn what_a_vault_refuses_is_explained() -> Result {
    play("vault-refuses", |scene| {
        let (a, b) = two_nodes(scene)?;
        let (client, server) = (a.pod("client")?, b.pod("server")?);
        let vault = OpenBao::start(&a)?;
        let api = vault.api();
        let roots = api.make_pki()?;
        api.make_role("workloads", "example.org")?;
        api.make_role("others", "other.example")?;
        let token = api.post(
            "auth/token/create",
            &json!({ "policies": ["others"], "no_default_policy": false, "ttl": "1h" }),
        )?;
        let file = scene.dir().join("token");
        let text = token["auth"]["client_token"].as_str().unwrap_or_default();
        std::fs::write(&file, format!("{text}\n")).map_err(|e| {
            mtls_tests::Error::Unexpected(format!("writing {}: {e}", file.display()))
        })?;
        let mut plan = Plan::of([&client, &server]);
        for (node, role) in [(&a, "others"), (&b, "workloads")] {
            plan = with_vault(plan, node, &vault, "bundle", &roots.display().to_string())
                .set_on(node, "identity.vault", "role", &quoted(role))
                .set_on(
                    node,
                    "identity.vault",
                    "token_file",
                    &quoted(&file.display().to_string()),
                );
        }
        let mut mesh = Mesh::prepare(plan, Position::Outside)?;
        let remedies = [
            (&a, "allowed_uri_sans=\"spiffe://example.org/*\""),
            (
                &b,
                "path \"pki/sign/workloads\" { capabilities = [\"update\"] }",
            ),
        ];
        for (node, remedy) in remedies {
            let daemon = mesh.daemon(node)?;
            let config = daemon.config().display().to_string();
            let checked = daemon.command(&["check", "--config", &config])?;
            ensure(!checked.status.success(), || "check found nothing")?;
            ensure(checked.stderr.contains(remedy), || checked.stderr.clone())?;
            daemon.launch()?;
            wait_for_error(&mut mesh, node, |error| {
                error.is_some_and(|error| error.contains(remedy))
            })?;
        }
        let hello = [Step::Say("hi".into()), Step::Hear("hi".into())];
        let refused = client.connect(server.at(Family::V4, 8080), hello)?;
        ensure(!refused.is_well(), || format!("{refused:?}"))?;
        // The operator follows the advice.
        let role = json!({ "allowed_uri_sans": "spiffe://example.org/*", "require_cn": false, "key_type": "ec", "key_bits": 256 });
        vault.api().post("pki/roles/others", &role)?;
        wait_for_error(&mut mesh, &a, |error| error.is_none())?;
        let daemon = mesh.daemon(&a)?;
        let config = daemon.config().display().to_string();
        let checked = daemon.command(&["check", "--config", &config])?.success()?;
        ensure(
            checked.contains("good: spiffe://example.org/client"),
            || checked.clone(),
        )
    })
}

pub(super) fn with_vault(plan: Plan, node: &Node, vault: &OpenBao, key: &str, value: &str) -> Plan {
    let ca = vault.server_ca().display().to_string();
    plan.set_on(node, "identity.vault", "address", &quoted(&vault.url()))
        .set_on(node, "identity.vault", "server_ca", &quoted(&ca))
        .set_on(node, "identity.vault", "role", "\"workloads\"")
        .set_on(node, "identity.vault", key, &quoted(value))
}

pub(super) fn quoted(text: &str) -> String {
    format!("{text:?}")
}

/// Of each node.
pub(super) fn renewals(mesh: &mut Mesh, result: &str) -> Result<Vec<u64>> {
    let labels = [("result", result)];
    let count = |daemon: &mut Daemon| {
        let metrics = daemon.metrics()?;
        Ok(metrics.count("mtls_certificate_renewals_total", &labels))
    };
    mesh.daemons().iter_mut().map(count).collect()
}

/// Of the node's one workload.
pub(super) fn wait_for_error(
    mesh: &mut Mesh,
    node: &Node,
    is_it: impl Fn(Option<&str>) -> bool,
) -> Result {
    let daemon = mesh.daemon(node)?;
    let mut last = Value::Null;
    let seen = wait_for(
        Deadline::default(),
        || format!("an error, or none, on node {}", node.name()),
        || {
            // Its socket may not be there yet.
            if let Ok(status) = daemon.status() {
                last = workloads(&status).next().cloned().unwrap_or_default();
            }
            let seen = last.is_object() && is_it(last["renewal_error"].as_str());
            Ok(seen.then_some(()))
        },
    );
    match seen {
        Err(mtls_tests::Error::TimedOut { waiting_for, .. }) => Err(mtls_tests::Error::TimedOut {
            waiting_for,
            seen: last.to_string(),
        }),
        other => other,
    }
}
