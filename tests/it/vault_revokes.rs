//! A certificate is revoked at a real OpenBao, in a namespace, whose list the
//! daemons fetch: what is open under it is cut, and its workload gets another.

use std::time::Duration;

use mtls_tests::authorities::OpenBao;
use mtls_tests::deadline::{Deadline, wait_for};
use mtls_tests::mesh::{Daemon, Position};
use mtls_tests::script::{Connect, Step};
use mtls_tests::{Family, Mesh, Plan, Result, ensure, ensure_eq, play, two_nodes};
use serde_json::json;

use crate::vault::{quoted, with_vault};

/// The daemons fetch once a second; the rest is for busy machines.
const CUT_WITHIN: Duration = Duration::from_secs(6);

#[test]
fn revoked_by_a_vault() -> Result {
    play("vault-revokes", |scene| {
        let (a, b) = two_nodes(scene)?;
        let (client, server) = (a.pod("client")?, b.pod("server")?);
        let vault = OpenBao::start(&a)?;
        // Everything in a namespace, as larger sites have it.
        let api = vault.api_in("team-a")?;
        let roots = api.make_pki()?;
        api.make_role("workloads", "example.org")?;
        api.post("sys/auth/approle", &json!({ "type": "approle" }))?;
        let login = json!({ "token_policies": "workloads", "token_ttl": "10m" });
        let (role_id, secret_id) = api.make_app_role("node", &login)?;
        let lists = format!(
            "[[identity.crl]]\ntrust_domain = \"example.org\"\nurls = [\"{}/v1/team-a/pki/crl\"]\n\
             server_ca = {:?}\npoll = \"1s\"\n",
            vault.url(),
            vault.server_ca(),
        );
        let mut plan = Plan::of([&client, &server]);
        for node in [&a, &b] {
            let secret_id = quoted(&secret_id.display().to_string());
            plan = with_vault(plan, node, &vault, "bundle", &roots.display().to_string())
                .set_on(node, "identity.vault", "namespace", "\"team-a\"")
                .set_on(node, "identity.vault", "role_id", &quoted(&role_id))
                .set_on(node, "identity.vault", "secret_id_file", &secret_id)
                .append(node, &lists);
        }
        let mut mesh = Mesh::prepare(plan, Position::Outside)?;
        mesh.start_all()?;
        let _server = server.serve(8080, [Step::Echo])?;
        let to = server.at(Family::V4, 8080);
        let hello = [Step::Say("hi".into()), Step::Hear("hi".into())];
        // Hard from the first moment: nothing before the list is there.
        wait_for(
            Deadline::default(),
            || "the list to be fetched",
            || Ok(client.connect(to, hello.clone())?.is_well().then_some(())),
        )?;

        let held = [&hello[..], &[Step::Hold, Step::ExpectEnd]].concat();
        let mut held = client.connect_as(Connect::to(to, held))?;
        held.held()?;
        let serial = serial_of_workload(mesh.daemon(&a)?)?;
        held.go()?;
        let octets: Vec<&str> = (0..serial.len() / 2)
            .filter_map(|nth| serial.get(2 * nth..2 * nth + 2))
            .collect();
        let revoked = json!({ "serial_number": octets.join(":") });
        api.post("pki/revoke", &revoked)?;
        let cut = held.ended_within(Deadline::after(CUT_WITHIN))?;
        ensure_eq(cut.error(), "ECONNRESET", "a revoked client's connection")?;

        wait_for(
            Deadline::default(),
            || "another certificate, and its list",
            || {
                let serial_now = serial_of_workload(mesh.daemon(&a)?)?;
                let is_other = !serial_now.is_empty() && serial_now != serial;
                let is_well = is_other && client.connect(to, hello.clone())?.is_well();
                Ok(is_well.then_some(()))
            },
        )?;
        let shown = mesh.daemon(&a)?.ask("certificates")?;
        let list = &shown["revocation"][0]["lists"][0];
        ensure_eq(&list["entries"], &json!(1), "what the list revokes")?;
        ensure(list["issuer"] == json!("CN=root of example.org"), || {
            list.to_string()
        })?;
        mesh.wire()?.ensure_only_tls()
    })
}

/// Empty while a revoked one is replaced.
fn serial_of_workload(daemon: &Daemon) -> Result<String> {
    let shown = daemon.ask("certificates")?;
    let serial = shown["certificates"][0]["svid"]["serial"].as_str();
    Ok(serial.unwrap_or_default().to_owned())
}
