//! An issuer that takes its time for every answer is none that has failed:
//! certificates are renewed early enough that nobody notices. One that accepts
//! connections and says nothing, for longer than certificates live, is told as
//! such; what it signed ends with its time, and when it speaks again so does
//! everybody, without help.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mtls_tests::authorities::OpenBao;
use mtls_tests::deadline::{Deadline, Stopwatch, wait_for};
use mtls_tests::mesh::Position;
use mtls_tests::process::Process;
use mtls_tests::script::{Connect, Step};
use mtls_tests::{Family, Mesh, Plan, Result, ensure, ensure_eq, play, two_nodes};
use serde_json::json;

use crate::vault::{quoted, renewals, wait_for_error, with_vault};

/// It stands still for so long, again and again.
const STILL: Duration = Duration::from_secs(3);
const MOVES: Duration = Duration::from_millis(50);

#[test]
fn slow_issuer() -> Result {
    play("slow-issuer", |scene| {
        let (a, b) = two_nodes(scene)?;
        let (client, server) = (a.pod("client")?, b.pod("server")?);
        let vault = OpenBao::start(&a)?;
        let api = vault.api();
        let roots = api.make_pki()?;
        api.make_role("workloads", "example.org")?;
        api.post("sys/auth/approle", &json!({ "type": "approle" }))?;
        let login = json!({ "token_policies": "workloads", "token_ttl": "1h" });
        let (role_id, secret_id) = api.make_app_role("nodes", &login)?;
        let mut plan = Plan::of([&client, &server])
            .set("identity.vault", "role_id", &quoted(&role_id))
            .set(
                "identity.vault",
                "secret_id_file",
                &quoted(&secret_id.display().to_string()),
            )
            .set("identity.vault", "svid_ttl", "\"20s\"");
        for node in [&a, &b] {
            plan = with_vault(plan, node, &vault, "bundle", &roots.display().to_string());
        }
        let mut mesh = Mesh::prepare(plan, Position::Outside)?;
        mesh.start_all()?;

        let _server = server.serve(8080, [Step::Echo])?;
        let hello = [Step::Say("hi".into()), Step::Hear("hi".into())];
        let to = server.at(Family::V4, 8080);
        let open = [&hello[..], &[Step::Hold, Step::ExpectEnd]].concat();
        let mut open = client.connect_as(Connect::to(to, open))?;
        open.held()?;
        open.go()?;
        let watch = Stopwatch::start();
        slowly(vault.process()?, || {
            let mut load = client.connect_as(Connect::to(to, hello.clone()).many(usize::MAX, 1))?;
            while renewals(&mut mesh, "ok")?.iter().any(|&made| made < 2) {
                let ended = load.ended()?;
                ensure(ended.is_well(), || {
                    format!("{:?} after the start: {ended:?}", watch.elapsed())
                })?;
                ensure(watch.elapsed() < Duration::from_secs(90), || "no renewals")?;
            }
            Ok(())
        })?;
        ensure_eq(renewals(&mut mesh, "error")?, vec![0, 0], "failed renewals")?;

        // Nothing at all any more, while the kernel goes on to accept for it.
        vault.process()?.freeze()?;
        for node in [&a, &b] {
            wait_for_error(&mut mesh, node, |error| {
                error.is_some_and(|error| error.contains("did not answer within"))
            })?;
        }
        ensure_eq(
            open.ended()?.error(),
            "ECONNRESET",
            "what was open at the end",
        )?;
        let refused = client.connect(to, hello.clone())?;
        ensure(!refused.is_well(), || format!("past the end: {refused:?}"))?;
        let no_cert = [("direction", "outbound"), ("reason", "no_cert")];
        mesh.daemon(&a)?
            .wait_for_metrics("refused without a certificate", |metrics| {
                metrics.count("mtls_connections_refused_total", &no_cert) >= 1
            })?;

        vault.process()?.thaw()?;
        wait_for(
            Deadline::default(),
            || "traffic again",
            || Ok(client.connect(to, hello.clone())?.is_well().then_some(())),
        )?;
        mesh.wire()?.ensure_only_tls()
    })
}

/// Does the work while the process stands still most of the time.
fn slowly(process: &Process, work: impl FnOnce() -> Result) -> Result {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let slowing = scope.spawn(|| -> Result {
            while !done.load(Ordering::Relaxed) {
                process.freeze()?;
                std::thread::park_timeout(STILL);
                process.thaw()?;
                std::thread::park_timeout(MOVES);
            }
            process.thaw()
        });
        let worked = work();
        done.store(true, Ordering::Relaxed);
        slowing.thread().unpark();
        match slowing.join() {
            Ok(slowed) => worked.and(slowed),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}
