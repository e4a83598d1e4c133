//! Certificates from files that openssl made as the documentation says, and
//! short-lived ones that are renewed under an open connection.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use mtls_tests::deadline::Stopwatch;
use mtls_tests::error::{Doing, Error};
use mtls_tests::mesh::{Leaf, Position};
use mtls_tests::script::{Connect, Step};
use mtls_tests::{Family, Mesh, Pair, Plan, Result, ensure, ensure_eq, play, two_nodes};

#[test]
fn certificates_from_files() -> Result {
    play("certificates-from-files", |scene| {
        let (a, b) = two_nodes(scene)?;
        let (client, server) = (a.pod("client")?, b.pod("server")?);
        let (root, leaf) = commands()?;
        openssl(scene.dir(), root)?;
        let mut plan = Plan::of([&client, &server]);
        for (pod, key) in [(&client, P_256), (&server, "rsa:2048")] {
            let folder = scene.dir().join(pod.name());
            fs::create_dir(&folder).doing(|| format!("making {}", folder.display()))?;
            for file in ["root.crt", "root.key"] {
                let from = scene.dir().join(file);
                fs::copy(from, folder.join(file)).doing(|| format!("copying {file}"))?;
            }
            let identity = format!("spiffe://example.org/{}", pod.name());
            let leaf = leaf.replace(DOCUMENTED, &identity).replace(P_256, key);
            openssl(&folder, &leaf)?;
            let files = Leaf {
                certificate: folder.join("tls.crt"),
                key: folder.join("tls.key"),
                bundle: folder.join("ca.crt"),
            };
            plan = files.of_workload(pod, plan);
        }
        let mut mesh = Mesh::prepare(plan, Position::Below)?;
        mesh.start_all()?;
        let mut listening = server.serve(8080, [Step::Echo])?;
        for family in Family::BOTH {
            let script = [Step::Say("hi".into()), Step::Hear("hi".into())];
            let ended = client.connect(server.at(family, 8080), script)?;
            ensure(ended.is_well(), || format!("{ended:?}"))?;
            listening.ended_well(1)?;
        }
        mesh.wire()?.ensure_only_tls()
    })
}

/// In the commands of the documentation.
const DOCUMENTED: &str = "spiffe://example.org/ns/shop/sa/web";
const P_256: &str = "ec -pkeyopt ec_paramgen_curve:P-256";

/// Those that make a root, and those that make a workload's certificate.
fn commands() -> Result<(&'static str, &'static str)> {
    let page = include_str!("../../docs/identity.md");
    let blocks = page.split("```sh\n").skip(1);
    let blocks: Vec<&str> = blocks
        .filter_map(|rest| Some(rest.split_once("```")?.0))
        .collect();
    match blocks.as_slice() {
        [root, .., leaf] if leaf.contains(DOCUMENTED) && leaf.contains(P_256) => Ok((root, leaf)),
        _ => Err(Error::Unexpected(
            "docs/identity.md has other commands".into(),
        )),
    }
}

fn openssl(folder: &Path, script: &str) -> Result {
    let ran = Command::new("sh")
        .args(["-euc", script])
        .current_dir(folder)
        .output()
        .doing(|| "running sh with openssl")?;
    ensure(ran.status.success(), || {
        format!("{script}\n{}", String::from_utf8_lossy(&ran.stderr))
    })
}

/// A stream lives through thirty certificates of both ends, each proved on its
/// tunnel, and new connections come all the while.
#[test]
fn certificates_are_renewed() -> Result {
    const RENEWALS: u64 = 30;
    /// Half of the life of a certificate each, and as much again.
    const PATIENCE: Duration = Duration::from_secs(2 * 2 * RENEWALS);
    const ROUNDS: u64 = 1_000;
    const ROUND: Duration = Duration::from_millis(250);
    play("certificates-renewed", |scene| {
        let mut pair = Pair::start_as(scene, |plan, _, _| {
            plan.set("identity.disk-ca", "svid_ttl", "\"4s\"")
        })?;
        let _server = pair.server.serve(8080, [Step::Echo])?;
        let to = pair.server.at(Family::V4, 8080);
        let rounds = (0..ROUNDS).flat_map(|seed| {
            let bytes = 4 << 10;
            let exchange = [Step::Send { bytes, seed }, Step::Receive { bytes, seed }];
            [Step::Hold].into_iter().chain(exchange)
        });
        let mut stream = pair
            .client
            .connect_as(Connect::to(to, rounds.collect::<Vec<_>>()))?;
        stream.held()?;
        let before = counts(&mut pair, "mtls_certificate_renewals_total", "ok")?;
        let hello = [Step::Say("hi".into()), Step::Hear("hi".into())];
        let mut load = pair
            .client
            .connect_as(Connect::to(to, hello).many(usize::MAX, 1))?;
        let (start, mut rounds) = (Stopwatch::start(), 0);
        loop {
            let round = Stopwatch::start();
            while round.elapsed() < ROUND {
                let ended = load.ended()?;
                ensure(ended.is_well(), || {
                    format!("{:?} after the start: {ended:?}", start.elapsed())
                })?;
            }
            let renewed = counts(&mut pair, "mtls_certificate_renewals_total", "ok")?;
            if [0, 1].iter().all(|n| renewed[*n] - before[*n] >= RENEWALS) {
                break;
            }
            ensure(start.elapsed() < PATIENCE, || {
                format!(
                    "{before:?}, then {renewed:?} renewals in {:?}",
                    start.elapsed()
                )
            })?;
            stream.go()?;
            stream.held()?;
            rounds += 1;
        }
        drop(load);
        // The rest at once.
        for _ in rounds..ROUNDS - 1 {
            stream.go()?;
            stream.held()?;
        }
        stream.go()?;
        let ended = stream.ended()?;
        ensure(ended.is_well(), || format!("the stream: {ended:?}"))?;
        ensure_eq(ended.corrupt_at, None, "corrupt bytes of the stream")?;
        for proved in counts(&mut pair, "mtls_tunnel_proofs_total", "ok")? {
            ensure(proved >= RENEWALS, || format!("{proved} proofs"))?;
        }
        for name in [
            "mtls_certificate_renewals_total",
            "mtls_tunnel_proofs_total",
        ] {
            ensure_eq(counts(&mut pair, name, "error")?, [0, 0], name)?;
        }
        pair.ensure_private().map(drop)
    })
}

/// Of the client's node and of the server's.
fn counts(pair: &mut Pair, name: &str, result: &str) -> Result<[u64; 2]> {
    let labels = [("result", result)];
    let client = pair.clients_daemon()?.metrics()?.count(name, &labels);
    let server = pair.servers_daemon()?.metrics()?.count(name, &labels);
    Ok([client, server])
}
