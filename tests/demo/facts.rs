//! The facts, in the order in which they are shown.

use std::collections::BTreeMap;
use std::time::Duration;

use mtls_tests::deadline::{Deadline, Stopwatch, wait_for};
use mtls_tests::script::mark;
use mtls_tests::{Family, Result, ensure, ensure_eq};

use crate::screen::{Screen, bytes};
use crate::stage::{FILE, FILE_BYTES, FILE_SEED, Stage, WEB_PORT};
use crate::talk::{self, GREETING};

/// Requests to nginx in each family.
const REQUESTS: usize = 100;
/// A restarted daemon carries traffic again within this.
const BACK_WITHIN: Duration = Duration::from_secs(2);

pub(crate) fn show_all(stage: &mut Stage, screen: &mut Screen) -> Result {
    screen.heading("Real programs talk");
    applications(stage, screen)?;
    screen.heading("Who talked to whom");
    identities(stage, screen)?;
    screen.heading("What does not get through");
    strangers(stage, screen)?;
    crash(stage, screen)?;
    screen.heading("What was on the wire between the nodes");
    wire(stage, screen)?;
    screen.done();
    Ok(())
}

fn applications(stage: &Stage, screen: &mut Screen) -> Result {
    for (family, name) in [(Family::V4, "IPv4"), (Family::V6, "IPv6")] {
        screen.fact(&format!("curl asks nginx over {name}"), || {
            talk::requests(stage, family, REQUESTS)?;
            Ok(format!(
                "{REQUESTS} connections; nginx's log shows {}",
                stage.frontend.address(family)
            ))
        })?;
    }
    screen.fact("curl downloads a file", || {
        let (size, speed) = talk::download(stage, Family::V4)?;
        ensure_eq(size, FILE_BYTES as u64, "size of the file")?;
        Ok(format!("{}, {} a second", bytes(size), bytes(speed)))
    })?;
    screen.fact("pgbench works on PostgreSQL over IPv4", || {
        talk::pgbench(stage, Family::V4)
    })?;
    screen.fact("redis-benchmark works on Redis over IPv6", || {
        talk::redis_benchmark(stage, Family::V6)
    })
}

/// From the access log and the metrics of the clients' daemon.
fn identities(stage: &mut Stage, screen: &mut Screen) -> Result {
    let daemon = stage.mesh.daemon(&stage.a)?;
    let established = [("direction", "outbound"), ("result", "established")];
    let metrics = daemon.wait_for_metrics("all connections have ended", |metrics| {
        metrics.sum("mtls_connections_open", &[]) == 0.0
    })?;
    let connections = metrics.count("mtls_connections_total", &established);
    let mut pairs: BTreeMap<(String, String), (u64, u64)> = BTreeMap::new();
    for line in daemon.access_log() {
        let text = |key: &str| line[key].as_str().unwrap_or("?").to_owned();
        if text("direction") == "outbound" {
            let pair = pairs
                .entry((text("source"), text("destination")))
                .or_default();
            let carried = |key: &str| line[key].as_u64().unwrap_or(0);
            pair.0 += 1;
            pair.1 += carried("bytes_to_server") + carried("bytes_to_client");
        }
    }
    for ((source, destination), (count, carried)) in &pairs {
        screen.say(format!(
            "      {source} -> {destination}: {count} connections, {}",
            bytes(*carried)
        ));
    }
    screen.fact("both ends proved these identities", || {
        let identity = |name: &str| format!("spiffe://example.org/{name}");
        let expected = [("frontend", "web"), ("jobs", "store")]
            .map(|(from, to)| (identity(from), identity(to)));
        let found: Vec<_> = pairs.keys().cloned().collect();
        let clients: Vec<_> = expected.iter().map(|(from, _)| from.clone()).collect();
        ensure_eq(found, expected.to_vec(), "who talked to whom")?;
        ensure_eq(
            daemon_access_sources(stage)?,
            clients,
            "clients that node b's daemon verified",
        )?;
        Ok("as the access logs of both daemons say".into())
    })?;
    screen.fact("connections share tunnels", || {
        let handshakes = metrics.count(
            "mtls_handshakes_total",
            &[("direction", "outbound"), ("result", "ok")],
        );
        ensure(handshakes > 0, || "no handshake was counted")?;
        ensure(connections >= 10 * handshakes, || {
            format!("{connections} connections took {handshakes} handshakes")
        })?;
        Ok(format!(
            "{connections} connections over {handshakes} handshakes"
        ))
    })
}

/// The identities that the servers' daemon names as clients.
fn daemon_access_sources(stage: &mut Stage) -> Result<Vec<String>> {
    let log = stage.mesh.daemon(&stage.b)?.access_log();
    let inbound = log.iter().filter(|line| line["direction"] == "inbound");
    let mut sources: Vec<_> = inbound
        .filter_map(|line| line["source"].as_str())
        .map(str::to_owned)
        .collect();
    sources.sort();
    sources.dedup();
    Ok(sources)
}

fn strangers(stage: &Stage, screen: &mut Screen) -> Result {
    screen.fact("a pod outside of the mesh is refused", || {
        let mut took = Duration::ZERO;
        for family in Family::BOTH {
            took = took.max(talk::refused(&stage.stranger, stage, family)?);
        }
        let stranger = stage
            .stranger
            .addresses()
            .map(|address| address.to_string());
        let log = stage.nginx.access_log();
        let heard = log.lines().any(|line| {
            stranger
                .iter()
                .any(|address| line.starts_with(address.as_str()))
        });
        ensure(!heard, || "nginx heard of it all the same")?;
        Ok(format!(
            "connection refused after {} ms, IPv4 and IPv6; nginx heard nothing",
            took.as_millis()
        ))
    })
}

/// The clients' daemon is killed in the middle of a download.
fn crash(stage: &mut Stage, screen: &mut Screen) -> Result {
    let url = format!("http://{}/{FILE}", stage.web.at(Family::V4, WEB_PORT));
    let target = stage.frontend.node().scene().data("download")?.join("file");
    let curl = stage.frontend.spawn("curl")?.named("curl-download").args([
        "-sS",
        "--limit-rate",
        "1M",
        "-o",
    ]);
    let mut download = curl.arg(&target).arg(&url).start()?;
    wait_for(
        Deadline::default(),
        || "the download to begin",
        || {
            download.must_run()?;
            Ok(std::fs::metadata(&target)
                .is_ok_and(|file| file.len() > 0)
                .then_some(()))
        },
    )?;
    screen.fact("kill -9 of the daemon resets what is open", || {
        stage.mesh.daemon(&stage.a)?.kill()?;
        let status = download.wait(Deadline::default())?;
        let log = download.log();
        ensure(log.contains("reset by peer"), || {
            format!("curl ended with {status}: {log}")
        })?;
        let received = std::fs::metadata(&target)
            .map(|file| file.len())
            .unwrap_or_default();
        Ok(format!(
            "the download broke off after {}, not as if complete",
            bytes(received)
        ))
    })?;
    screen.fact("without the daemon traffic stops", || {
        let took = talk::refused(&stage.frontend, stage, Family::V4)?.max(talk::refused(
            &stage.frontend,
            stage,
            Family::V6,
        )?);
        Ok(format!(
            "connection refused after {} ms, IPv4 and IPv6",
            took.as_millis()
        ))
    })?;
    screen.fact("a restarted daemon carries it again", || {
        let clock = Stopwatch::start();
        stage.mesh.daemon(&stage.a)?.launch()?;
        wait_for(
            Deadline::default(),
            || "an answer through the restarted daemon",
            || {
                let output = talk::request(&stage.frontend, stage, Family::V4)?;
                Ok((output.stdout.trim() == GREETING).then_some(()))
            },
        )?;
        let took = clock.elapsed();
        ensure(took <= BACK_WITHIN, || {
            format!("it took {:.1} s", took.as_secs_f32())
        })?;
        Ok(format!("{} ms after its start", took.as_millis()))
    })
}

/// All of it, from before the daemons first started to now.
fn wire(stage: &mut Stage, screen: &mut Screen) -> Result {
    let report = stage.mesh.wire()?;
    screen.fact("every byte of TCP lay in TLS 1.3", || {
        report.ensure_only_tls()?;
        let (inside, outside) = (report.inside(), report.outside());
        Ok(format!(
            "{} in {} tunnels, {outside} bytes outside of TLS records",
            bytes(inside),
            report.tls_connections()
        ))
    })?;
    screen.fact("nothing that was said can be read there", || {
        report.ensure_absent(&[
            GREETING.as_bytes(),
            &mark(FILE_SEED),
            b"pgbench_accounts",
            b"key:__rand_int__",
        ])?;
        Ok("looked for: nginx's greeting, the file, SQL, Redis' protocol".into())
    })?;
    screen.fact("the capture is complete", || {
        let others: Vec<_> = report
            .other
            .iter()
            .map(|(name, frames)| format!("{name} {frames}"))
            .collect();
        let others = if others.is_empty() {
            "none".into()
        } else {
            others.join(", ")
        };
        Ok(format!(
            "{} frames, {} lost; other than TCP: {others}",
            report.frames, report.lost
        ))
    })
}
