//! The issuer ends and nobody replaces it: the certificates under it end with
//! it, and with them everything that was proved by them. Nothing goes on in
//! clear or on old credit, the operator hears of it, and when the issuer is
//! back so is the traffic.

use std::fs;
use std::path::Path;
use std::time::Duration;

use mtls_tests::deadline::{Deadline, wait_for};
use mtls_tests::error::Doing;
use mtls_tests::mesh::Ca;
use mtls_tests::script::{Connect, Step};
use mtls_tests::{Family, Pair, Result, ensure, ensure_eq, play};

/// Time to start two daemons on a busy machine, and not much more.
const LIFE: Duration = Duration::from_secs(15);

#[test]
fn issuer_ended() -> Result {
    play("issuer-ended", |scene| {
        let folder = scene.dir().join("authority");
        fs::create_dir(&folder).doing(|| "making the authority's folder")?;
        let ending = Ca::create_for(scene.dir(), "ending", "example.org", LIFE)?;
        issue_by(&ending, &folder)?;
        let mut pair = Pair::start_as(scene, |plan, _, _| {
            let file = |name| format!("{:?}", folder.join(name));
            plan.set("identity.disk-ca", "certificate", &file("ca.crt"))
                .set("identity.disk-ca", "key", &file("ca.key"))
        })?;
        let mut server = pair.server.serve(8080, [Step::Echo])?;
        let hello = [Step::Say("hi".into()), Step::Hear("hi".into())];
        let to = pair.server.at(Family::V4, 8080);
        let held = [&hello[..], &[Step::Hold, Step::ExpectEnd]].concat();
        let mut open = pair.client.connect_as(Connect::to(to, held))?;
        open.held()?;
        open.go()?;

        let cut = open.ended_within(Deadline::after(2 * LIFE))?;
        ensure_eq(cut.error(), "ECONNRESET", "the open connection")?;
        for family in Family::BOTH {
            let ended = pair
                .client
                .connect(pair.server.at(family, 8080), hello.clone())?;
            ensure(!ended.is_well(), || format!("past the end: {ended:?}"))?;
        }
        for daemon in pair.mesh.daemons() {
            daemon.wait_for_metrics("an alarm", |metrics| {
                metrics.sum("mtls_identity_source_healthy", &[]) == 0.0
            })?;
            let alarms = daemon.status()?["ready"]["alarms"].to_string();
            ensure(alarms.contains("is not renewed"), || {
                format!("alarms: {alarms}")
            })?;
        }
        let refusal = [("direction", "outbound"), ("reason", "no_cert")];
        pair.clients_daemon()?
            .wait_for_metrics("refused without a certificate", |metrics| {
                metrics.count("mtls_connections_refused_total", &refusal) >= 1
            })?;
        let ended = server.ended()?;
        ensure(!ended.is_well(), || format!("the server's end: {ended:?}"))?;
        ensure(server.has_nothing_to_tell()?, || "the server was reached")?;

        issue_by(&Ca::create(scene.dir(), "next", "example.org")?, &folder)?;
        wait_for(
            Deadline::default(),
            || "traffic under the next issuer",
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

/// As careful people change files: beside them, and renamed over them.
fn issue_by(ca: &Ca, folder: &Path) -> Result {
    for (from, name) in [(&ca.key, "ca.key"), (&ca.certificate, "ca.crt")] {
        let new = folder.join(format!(".{name}.new"));
        fs::copy(from, &new)
            .and_then(|_| fs::rename(&new, folder.join(name)))
            .doing(|| format!("putting {name} in place"))?;
    }
    Ok(())
}
