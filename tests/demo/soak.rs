//! `cargo xtask soak`: real programs and checked connections, all at once, over
//! and over, with each daemon killed once. Nothing may grow, every byte must be
//! the expected one, and nothing may be on the wire in clear.

use std::fs;
use std::path::Path;
use std::time::Duration;

use mtls_tests::deadline::{Deadline, Stopwatch, wait_for};
use mtls_tests::mesh::Daemon;
use mtls_tests::netns::Socket;
use mtls_tests::script::{Connect, Serve, Step};
use mtls_tests::{Doing, Error, Family, Node, Plan, Result, ensure};

use crate::screen::{Screen, bytes};
use crate::stage::{FILE_BYTES, Stage};
use crate::talk;

/// Requests to nginx in a cycle, in each family.
const REQUESTS: usize = 500;
/// Connections of our own in a cycle, in each family, and their bytes each way.
const CHECKED: usize = 100;
const CHECKED_AT_ONCE: usize = 16;
const CHECKED_BYTES: u64 = 300_000;
const CHECKED_PORT: u16 = 9000;
/// Cycles after which what a daemon holds may not grow any more.
const WARM_UP: usize = 10;

/// What differs from the demo.
pub(crate) fn plan(plan: Plan) -> Plan {
    // Tunnels end soon after a cycle: the next one's capture sees new ones from
    // their first byte on, and can tell that all of it is TLS.
    plan.set("limits", "tunnel_idle", "\"1s\"")
        .set("identity.disk-ca", "svid_ttl", "\"20s\"")
}

/// What is asked for.
pub(crate) struct Soak {
    /// Of work; what comes between two cycles does not count.
    pub(crate) span: Duration,
    /// Where to write down how it went.
    pub(crate) record: Option<String>,
}

pub(crate) fn run(stage: &mut Stage, soak: &Soak, screen: &mut Screen) -> Result {
    screen.heading(&format!(
        "Soaking for {} minutes",
        soak.span.as_secs().div_ceil(60)
    ));
    // Each cycle watches the wire for itself, so that no file grows without end.
    drop(stage.mesh.wire()?);
    let mut story = Story::default();
    // One daemon is killed after a quarter of the time, the other after half.
    let mut crashes = vec![
        (soak.span / 4, stage.a.clone()),
        (soak.span / 2, stage.b.clone()),
    ];
    while story.cycles < 3 || story.worked < soak.span {
        let due = crashes
            .iter()
            .position(|(at, _)| story.cycles >= 2 && story.worked >= *at);
        if let Some(due) = due {
            let (_, node) = crashes.remove(due);
            crash(stage, &node, screen)?;
            story.crashes += 1;
            let life = story.last.iter().find(|rest| rest.node == node.name());
            story.renewals += life.map_or(0, |life| life.renewals);
            story.rested.retain(|rest| rest.then.node != node.name());
        }
        screen.fact(&format!("cycle {}", story.cycles + 1), || {
            story.live_through_a_cycle(stage)
        })?;
    }
    screen.say(format!("\n{story}"));
    if let Some(file) = &soak.record {
        let page = story.page()?;
        fs::write(Path::new(file), page).doing(|| format!("writing {file}"))?;
    }
    screen.done();
    Ok(())
}

fn crash(stage: &mut Stage, node: &Node, screen: &mut Screen) -> Result {
    screen.fact(&format!("crash on node {}", node.name()), || {
        let daemon = stage.mesh.daemon(node)?;
        daemon.kill()?;
        let output = talk::request(&stage.frontend, stage, Family::V4)?;
        ensure(!output.status.success(), || "a request got through")?;
        stage.mesh.daemon(node)?.start()?;
        // The other daemon remembers for a moment that this one was away.
        wait_for(
            Deadline::default(),
            || "an answer through the restarted daemon",
            || {
                let output = talk::request(&stage.frontend, stage, Family::V4)?;
                Ok(output.status.success().then_some(()))
            },
        )?;
        for daemon in stage.mesh.daemons() {
            Figures::of(daemon)?;
        }
        Ok("nothing got through while it was gone; ready again".into())
    })
}

/// How it went so far.
#[derive(Default)]
struct Story {
    cycles: usize,
    worked: Duration,
    crashes: usize,
    /// Of certificates, by daemons that were killed since.
    renewals: u64,
    /// Bytes that were compared with the expected ones.
    compared: u64,
    /// Bytes of TLS on the wire.
    on_the_wire: u64,
    /// What each daemon held when it had warmed up, and the last time.
    rested: Vec<Rest>,
    last: Vec<Figures>,
}

impl Story {
    fn live_through_a_cycle(&mut self, stage: &mut Stage) -> Result<String> {
        let clock = Stopwatch::start();
        until_the_wire_rests(stage)?;
        let wire = stage.a.capture_wire()?;
        work(stage)?;
        let report = wire.finish()?;
        report.ensure_only_tls()?;
        self.cycles += 1;
        self.on_the_wire += report.inside();
        self.compared += 2 * FILE_BYTES as u64 + 4 * CHECKED as u64 * CHECKED_BYTES;
        self.last = stage
            .mesh
            .daemons()
            .iter()
            .map(Figures::of)
            .collect::<Result<_>>()?;
        self.worked += clock.elapsed();
        for now in &self.last {
            match self
                .rested
                .iter_mut()
                .find(|rest| rest.then.node == now.node)
            {
                None => self.rested.push(Rest::of(now)),
                Some(rest) => rest.compare(now)?,
            }
        }
        let held: Vec<_> = self.last.iter().map(Figures::to_string).collect();
        Ok(format!(
            "{} in TLS; {}",
            bytes(report.inside()),
            held.join("; ")
        ))
    }

    /// As a page of the documentation.
    fn page(&self) -> Result<String> {
        let date = command_says("date", &["--utc", "+%Y-%m-%d"])?;
        let commit = command_says("git", &["rev-parse", "--short", "HEAD"])?;
        let kernel = command_says("uname", &["--kernel-release"])?;
        Ok(format!(
            "# Soak\n\n\
             `cargo xtask soak` puts real programs and connections of its own to work at once, over\n\
             and over, kills each daemon once, and fails at the first byte that is not the expected\n\
             one, the first byte outside of TLS on the wire, and the first daemon that holds more\n\
             descriptors, more memory or more of the kernel's notes after a cycle than after its\n\
             tenth one. This page is written by it, with `--record docs/soak.md`.\n\n\
             {date}, commit {commit}, Linux {kernel}, release build:\n\n{self}"
        ))
    }
}

impl std::fmt::Display for Story {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let seconds = self.worked.as_secs();
        writeln!(
            f,
            "- {} min {} s of work, {} cycles",
            seconds / 60,
            seconds % 60,
            self.cycles
        )?;
        let requests = 2 * REQUESTS * self.cycles;
        writeln!(
            f,
            "- {requests} requests to nginx, {} transactions of PostgreSQL, {} requests to Redis,\n  \
             {} checked connections",
            2100 * self.cycles,
            40_000 * self.cycles,
            2 * CHECKED * self.cycles
        )?;
        writeln!(
            f,
            "- {} compared byte by byte, all as expected",
            bytes(self.compared)
        )?;
        writeln!(
            f,
            "- {} on the wire, all inside of TLS 1.3",
            bytes(self.on_the_wire)
        )?;
        writeln!(
            f,
            "- {} crashes of a daemon, after which nothing passed until it was back",
            self.crashes
        )?;
        let renewals = self.last.iter().map(|now| now.renewals).sum::<u64>() + self.renewals;
        writeln!(
            f,
            "- {renewals} renewals of certificates that live for 20 seconds; none failed"
        )?;
        for now in &self.last {
            let rest = self.rested.iter().find(|rest| rest.then.node == now.node);
            let then = rest.map(|rest| &rest.then);
            writeln!(
                f,
                "- node {}: {} descriptors and {} at rest, {} and {} at the end",
                now.node,
                then.map_or(0, |then| then.descriptors),
                bytes(then.map_or(0, |then| then.memory)),
                now.descriptors,
                bytes(now.memory)
            )?;
        }
        Ok(())
    }
}

fn command_says(program: &str, words: &[&str]) -> Result<String> {
    let output = std::process::Command::new(program)
        .args(words)
        .output()
        .doing(|| format!("running {program}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// A capture is to see every tunnel from its first byte on, and nothing of one
/// whose end still says goodbye when its daemon has forgotten it.
fn until_the_wire_rests(stage: &Stage) -> Result {
    for pod in [&stage.frontend, &stage.jobs, &stage.web, &stage.store] {
        wait_for(
            Deadline::default(),
            || format!("the last tunnel of {} to be closed", pod.name()),
            || {
                let sockets = pod.netns().sockets()?;
                let may_speak = |s: &Socket| !s.listens && !s.said_all && !s.local.is_loopback();
                Ok((!sockets.iter().any(may_speak)).then_some(()))
            },
        )?;
    }
    Ok(())
}

/// Everybody at once; the first failure is the story's.
fn work(stage: &Stage) -> Result {
    let in_both = |work: &dyn Fn(Family) -> Result| Family::BOTH.into_iter().try_for_each(work);
    let jobs: [&(dyn Fn() -> Result + Sync); 5] = [
        &|| in_both(&|family| talk::requests(stage, family, REQUESTS)),
        &|| in_both(&|family| talk::compare_file(stage, family)),
        &|| in_both(&|family| talk::redis_benchmark(stage, family).map(drop)),
        &|| talk::pgbench(stage, Family::V4).map(drop),
        &|| checked(stage),
    ];
    std::thread::scope(|scope| {
        let threads: Vec<_> = jobs.iter().map(|job| scope.spawn(job)).collect();
        threads.into_iter().try_for_each(|thread| {
            thread
                .join()
                .map_err(|_panic| Error::Unexpected("a thread of the soak panicked".into()))?
        })
    })
}

/// Both directions at once on many connections, every byte compared.
fn checked(stage: &Stage) -> Result {
    let exchange = |send, receive| Step::Exchange {
        bytes: CHECKED_BYTES,
        send,
        receive,
    };
    let script = [exchange(2, 1), Step::ExpectEnd];
    let mut server = stage.store.serve_as(Serve::on(CHECKED_PORT, script))?;
    for family in Family::BOTH {
        let to = stage.store.at(family, CHECKED_PORT);
        let many = Connect::to(to, [exchange(1, 2)]).many(CHECKED, CHECKED_AT_ONCE);
        stage.jobs.connect_as(many)?.ended_well()?;
        server.ended_well(CHECKED)?;
    }
    Ok(())
}

/// What a daemon holds when nothing is open.
#[derive(Clone)]
struct Figures {
    node: String,
    descriptors: u64,
    memory: u64,
    /// Notes of original destinations that nobody took.
    notes: u64,
    /// Of its workloads' certificates, since it started.
    renewals: u64,
}

impl Figures {
    fn of(daemon: &Daemon) -> Result<Self> {
        let what = "all connections and tunnels have ended";
        let metrics = daemon.wait_for_metrics(what, |metrics| {
            metrics.sum("mtls_connections_open", &[]) == 0.0
                && metrics.sum("mtls_pool_connections", &[]) == 0.0
        })?;
        let renewals =
            |result| metrics.count("mtls_certificate_renewals_total", &[("result", result)]);
        ensure(renewals("error") == 0, || "a renewal failed")?;
        Ok(Self {
            node: daemon.node().name().to_owned(),
            descriptors: metrics.count("mtls_process_open_fds", &[]),
            memory: metrics.count("mtls_process_resident_memory_bytes", &[]),
            notes: metrics.count("mtls_bpf_map_entries", &[("map", "original_dst")]),
            renewals: renewals("ok"),
        })
    }

    fn ensure_nothing_left(&self, then: &Self) -> Result {
        ensure(self.descriptors <= then.descriptors + 8, || {
            format!("descriptors grew from {} to {self}", then.descriptors)
        })?;
        ensure(self.notes == 0, || {
            format!("notes of the kernel were left: {self}")
        })
    }

    /// Memory may breathe by a tenth.
    fn ensure_no_growth_since(&self, then: &Self) -> Result {
        ensure(
            self.memory <= then.memory + then.memory / 10 + (4 << 20),
            || format!("memory grew from {} to {self}", bytes(then.memory)),
        )
    }
}

/// What a daemon's figures may not grow from.
struct Rest {
    then: Figures,
    /// Since the daemon started.
    cycles: usize,
}

impl Rest {
    fn of(first: &Figures) -> Self {
        Self {
            then: first.clone(),
            cycles: 1,
        }
    }

    /// The first cycles fill caches, pools and heaps: libc keeps as much free
    /// memory at the end of a thread's heap as its largest buffer was.
    fn compare(&mut self, now: &Figures) -> Result {
        self.cycles += 1;
        now.ensure_nothing_left(&self.then)?;
        if self.cycles <= WARM_UP {
            self.then = now.clone();
        }
        now.ensure_no_growth_since(&self.then)
    }
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "node {}: {} descriptors, {}, {} notes",
            self.node,
            self.descriptors,
            bytes(self.memory),
            self.notes
        )
    }
}
