//! `cargo xtask cluster-load`: what a daemon asks of the API server, and what
//! it holds, where there are many Services.

use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use mtls_tests::cluster::{self, ControlPlane, Kubelets};
use mtls_tests::deadline::{Deadline, Stopwatch, wait_for};
use mtls_tests::mesh::{Daemon, Metrics, Position};
use mtls_tests::{Doing, Error, Mesh, Result, Scene, ensure, two_nodes};
use serde_json::{Value, json};

use crate::screen::{Screen, bytes};

pub(crate) const SERVICES: usize = 10_000;
const ENDPOINTS_EACH: usize = 5;
/// Objects that kubectl makes in one go.
const IN_ONE_FILE: usize = 500;
const MADE_WITHIN: Duration = Duration::from_secs(1800);
const READY_WITHIN: Duration = Duration::from_secs(120);
/// The daemon gives memory back every 10 seconds.
const AT_REST: Duration = Duration::from_secs(25);
/// Of an endpoint, one after another.
const CHANGES: u32 = 50;

pub(crate) fn run(scene: &Scene, services: usize, screen: &mut Screen) -> Result {
    let (a, _b) = two_nodes(scene)?;
    let endpoints = services * ENDPOINTS_EACH;
    screen.heading(&format!("{services} Services, {endpoints} endpoints"));
    let mut plane = ControlPlane::start(&a, Kubelets::Played)?;
    plane.apply(&json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": a.name()},
        "spec": {"podCIDR": "10.0.1.0/24", "podCIDRs": ["10.0.1.0/24"]},
    }))?;
    screen.fact("made", || make(scene, &plane, services))?;

    let plan = cluster::plan(&plane, &[&a])?;
    let mut mesh = Mesh::prepare(plan, Position::Below)?;
    drop(mesh.wire()?);
    let daemon = mesh.daemon(&a)?;
    let before = Requests::of(&plane)?;
    screen.fact("a daemon without a past is ready", || {
        start(daemon, services)
    })?;
    screen.fact("its memory", || memory(daemon))?;
    screen.fact("watches and requests until then", || {
        Ok(Requests::of(&plane)?.since(&before).to_string())
    })?;
    screen.fact("an endpoint that comes and goes", || {
        changes(&plane, daemon, services)
    })?;
    let state = cluster::state(&a);
    screen.fact("its state on disk", || saved(&state))?;
    daemon.kill()?;
    screen.fact("started again from its state", || start(daemon, services))?;
    daemon.kill()?;
    plane.stop_api_server()?;
    screen.fact("and again, with no API server", || start(daemon, services))?;
    screen.done();
    Ok(())
}

/// Services that select nobody, and their EndpointSlices as a controller would
/// write them.
fn make(scene: &Scene, plane: &ControlPlane, services: usize) -> Result<String> {
    plane.apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "load"}}))?;
    let clock = Stopwatch::start();
    let mut files = Vec::new();
    for first in (0..services).step_by(IN_ONE_FILE) {
        let some = first..services.min(first + IN_ONE_FILE);
        let items: Vec<Value> = some.flat_map(|n| [service(n), slice(n)]).collect();
        let path = scene.dir().join(format!("load-{first}.json"));
        let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
        fs::write(&path, list.to_string()).doing(|| format!("writing {}", path.display()))?;
        files.push(path);
    }
    // Two at a time, and no more: the machine has other things to do.
    for pair in files.chunks(2) {
        let create = |path: &PathBuf| {
            let path = path.display().to_string();
            plane.start_kubectl(&["create", "--validate=false", "-o", "name", "-f", &path])
        };
        let mut running = pair.iter().map(create).collect::<Result<Vec<_>>>()?;
        for kubectl in &mut running {
            let status = kubectl.wait(Deadline::after(MADE_WITHIN))?;
            ensure(status.success(), || kubectl.log())?;
        }
    }
    Ok(format!("in {}", seconds(clock)))
}

fn service(n: usize) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": format!("service-{n}"), "namespace": "load"},
        "spec": {"ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
    })
}

fn slice(n: usize) -> Value {
    let endpoints = (0..ENDPOINTS_EACH).map(|nth| {
        let pod = n * ENDPOINTS_EACH + nth;
        let [_, high, middle, low] = u32::try_from(pod).unwrap_or_default().to_be_bytes();
        json!({
            "addresses": [format!("10.{}.{middle}.{low}", 32 + high)],
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "nodeName": format!("node-{}", pod % 1000),
            "targetRef": {
                "kind": "Pod", "namespace": "load",
                "name": format!("service-{n}-5c9d8b7f6-{nth:05}"),
                "uid": format!("0f1d3a6e-9a3f-4d3e-8f57-{pod:012}"),
            },
        })
    });
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {
            "name": format!("service-{n}-abcde"), "namespace": "load",
            "labels": {"kubernetes.io/service-name": format!("service-{n}")},
        },
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": endpoints.collect::<Vec<_>>(),
    })
}

/// Until it knows all Services.
fn start(daemon: &mut Daemon, services: usize) -> Result<String> {
    let clock = Stopwatch::start();
    daemon.launch()?;
    wait_for(
        Deadline::after(READY_WITHIN),
        || "the daemon to be ready",
        || {
            daemon.process()?.must_run()?;
            Ok(daemon
                .get("/readyz")
                .is_ok_and(|(code, _)| code == 200)
                .then_some(()))
        },
    )?;
    let ready = seconds(clock);
    let status = daemon.status()?;
    let known = status["status"]["services"].as_u64().unwrap_or_default();
    ensure(known >= services as u64, || {
        format!("it knows {known} Services")
    })?;
    let cpu = daemon.process()?.cpu()?;
    Ok(format!(
        "after {ready}, {:.1} s of processor time",
        cpu.as_secs_f32()
    ))
}

/// At its most, and when it has given back what the start took.
fn memory(daemon: &mut Daemon) -> Result<String> {
    let process = daemon.process()?;
    let most = most_resident(process.pid())?;
    let rested = Deadline::after(AT_REST);
    while !rested.passed() {
        std::thread::park_timeout(rested.left());
    }
    let rest = process.resident()?;
    Ok(format!("{} at most, {} at rest", bytes(most), bytes(rest)))
}

fn most_resident(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).doing(|| format!("reading {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.map(|kib| kib * 1024).ok_or_else(|| Error::Unreadable {
        what: path,
        why: "no VmHWM line".into(),
    })
}

/// What one changed EndpointSlice among so many costs.
fn changes(plane: &ControlPlane, daemon: &mut Daemon, services: usize) -> Result<String> {
    let process = daemon.process()?;
    let (cpu, clock) = (process.cpu()?, Stopwatch::start());
    for change in 0..CHANGES {
        let ready = change % 2 == 1;
        let patch =
            json!([{"op": "replace", "path": "/endpoints/0/conditions/ready", "value": ready}]);
        let name = format!("endpointslice/service-{}-abcde", services / 2);
        let patch = patch.to_string();
        plane.kubectl(&["patch", "-n", "load", &name, "--type=json", "-p", &patch])?;
    }
    let spent = process.cpu()?.saturating_sub(cpu) / CHANGES;
    Ok(format!(
        "{:.1} ms of processor time for each of {CHANGES} in {}",
        spent.as_secs_f32() * 1000.0,
        seconds(clock)
    ))
}

fn saved(state: &PathBuf) -> Result<String> {
    let length = wait_for(
        Deadline::after(READY_WITHIN),
        || format!("{} to be written", state.display()),
        || Ok(fs::metadata(state).ok().map(|file| file.len())),
    )?;
    Ok(bytes(length))
}

fn seconds(clock: Stopwatch) -> String {
    format!("{:.1} s", clock.elapsed().as_secs_f32())
}

/// What the API server has to do, by its own word.
struct Requests {
    watches: Vec<(&'static str, u64)>,
    answered: u64,
}

impl Requests {
    fn of(plane: &ControlPlane) -> Result<Self> {
        let metrics = Metrics::parse(&plane.kubectl(&["get", "--raw=/metrics"])?)?;
        let watches = |resource| {
            let labels = [("resource", resource)];
            (
                resource,
                metrics.count("apiserver_longrunning_requests", &labels),
            )
        };
        Ok(Self {
            watches: RESOURCES.map(watches).to_vec(),
            answered: RESOURCES
                .iter()
                .map(|resource| metrics.count("apiserver_request_total", &[("resource", resource)]))
                .sum(),
        })
    }

    fn since(&self, before: &Self) -> Self {
        let both = self.watches.iter().zip(&before.watches);
        Self {
            watches: both
                .map(|((what, now), (_, then))| (*what, now.saturating_sub(*then)))
                .collect(),
            answered: self.answered.saturating_sub(before.answered),
        }
    }
}

/// All that the chart lets it read.
const RESOURCES: [&str; 6] = [
    "pods",
    "namespaces",
    "services",
    "endpointslices",
    "nodes",
    "servicecidrs",
];

impl fmt::Display for Requests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, watches) in &self.watches {
            write!(f, "{what} {watches}, ")?;
        }
        write!(f, "and {} requests that have ended", self.answered)
    }
}
