//! A certificate is withdrawn: its connections are cut, and it opens no new
//! ones; its own daemon gets the workload another.

use std::path::Path;
use std::time::Duration;

use mtls_tests::deadline::{Deadline, wait_for};
use mtls_tests::mesh::Daemon;
use mtls_tests::player::Client;
use mtls_tests::script::{Connect, Step};
use mtls_tests::{Family, Pair, Result, ensure, ensure_eq, play};

/// The lists are looked at twice a second; the rest is for busy machines.
const CUT_WITHIN: Duration = Duration::from_secs(5);

#[test]
fn revoked_peer() -> Result {
    play("revoked-peer", |scene| {
        let crl = scene.dir().join("crl.pem");
        let section = crl_section(&crl);
        let mut pair = Pair::start_as(scene, |plan, _, server| {
            plan.append(server.node(), &section)
        })?;
        let _server = pair.server.serve(8080, [Step::Echo])?;
        let to = pair.server.at(Family::V4, 8080);
        let hello = [Step::Say("hi".into()), Step::Hear("hi".into())];

        // No list where one is configured: nobody can be asked.
        let refused = pair.client.connect(to, hello.clone())?;
        ensure(!refused.is_well(), || "without a list")?;
        let daemon = pair.servers_daemon()?;
        wait_for_failure(daemon, "revocation_unknown")?;

        pair.mesh.ca().revoke(&crl, &[])?;
        wait_for(
            Deadline::default(),
            || "the list to be read",
            || {
                Ok(pair
                    .client
                    .connect(to, hello.clone())?
                    .is_well()
                    .then_some(()))
            },
        )?;

        let (mut held, serial) = held_connection(&mut pair)?;
        held.go()?;
        pair.mesh.ca().revoke(&crl, &[&serial])?;
        let cut = held.ended_within(Deadline::after(CUT_WITHIN))?;
        ensure_eq(cut.error(), "ECONNRESET", "a revoked client's connection")?;
        let daemon = pair.servers_daemon()?;
        let record =
            daemon.wait_for_access("the cut connection", |record| record["reason"] == "revoked")?;
        ensure_eq(&record["direction"], &"inbound".into(), "whose record")?;

        let refused = pair.client.connect(to, hello.clone())?;
        ensure(!refused.is_well(), || "with a revoked certificate")?;
        wait_for_failure(pair.servers_daemon()?, "revoked")?;

        // The client's own daemon hears of it too.
        let a = pair.a.clone();
        pair.mesh.replan(|plan| plan.append(&a, &section))?;
        pair.clients_daemon()?.reload()?;
        wait_for(
            Deadline::default(),
            || "another certificate",
            || Ok((serial_of_client(pair.clients_daemon()?)? != serial).then_some(())),
        )?;
        wait_for(
            Deadline::default(),
            || "the kernel to ask again",
            || {
                Ok(pair
                    .client
                    .connect(to, hello.clone())?
                    .is_well()
                    .then_some(()))
            },
        )?;
        pair.ensure_private().map(drop)
    })
}

/// What is known of a workload's own revocation cuts what it has open.
#[test]
fn revoked_self() -> Result {
    play("revoked-self", |scene| {
        let crl = scene.dir().join("crl.pem");
        let mut pair = Pair::start_as(scene, |plan, client, _| {
            plan.append(client.node(), &crl_section(&crl))
        })?;
        pair.mesh.ca().revoke(&crl, &[])?;
        let daemon = pair.clients_daemon()?;
        wait_for(
            Deadline::default(),
            || "the list to be read",
            || {
                let read = daemon.ask("certificates")?["revocation"][0]["error"].is_null();
                Ok(read.then_some(()))
            },
        )?;
        let _server = pair.server.serve(8080, [Step::Echo])?;
        let (mut held, serial) = held_connection(&mut pair)?;
        held.go()?;
        pair.mesh.ca().revoke(&crl, &[&serial])?;
        let cut = held.ended_within(Deadline::after(CUT_WITHIN))?;
        ensure_eq(cut.error(), "ECONNRESET", "a revoked workload's connection")?;
        let (_again, other) = held_connection(&mut pair)?;
        ensure(other != serial, || "the revoked certificate is still shown")?;
        pair.ensure_private().map(drop)
    })
}

fn crl_section(file: &Path) -> String {
    format!(
        "[[identity.crl]]\ntrust_domain = \"example.org\"\nfiles = [\"{}\"]\n",
        file.display()
    )
}

/// A connection that waits for its end, and the client's certificate.
fn held_connection(pair: &mut Pair) -> Result<(Client, String)> {
    let script = [
        Step::Say("hi".into()),
        Step::Hear("hi".into()),
        Step::Hold,
        Step::ExpectEnd,
    ];
    let mut held = pair
        .client
        .connect_as(Connect::to(pair.server.at(Family::V4, 8080), script))?;
    held.held()?;
    Ok((held, serial_of_client(pair.clients_daemon()?)?))
}

fn serial_of_client(daemon: &Daemon) -> Result<String> {
    let shown = daemon.ask("certificates")?;
    let serial = shown["certificates"][0]["svid"]["serial"].as_str();
    // None while a revoked one is replaced.
    Ok(serial.unwrap_or_default().to_owned())
}

fn wait_for_failure(daemon: &Daemon, reason: &str) -> Result {
    let labels = [("direction", "inbound"), ("reason", reason)];
    daemon
        .wait_for_metrics("a counted refusal", |metrics| {
            metrics.count("mtls_handshake_failures_total", &labels) > 0
        })
        .map(drop)
}
