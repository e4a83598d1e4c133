//! Somebody else's programs run at the same hooks: attached before ours and
//! after, for their cgroup alone or with others. Those that only look change
//! nothing. One that leads captured connections past the daemon gets them
//! stopped, and when it goes all is as before. `check` names each.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use mtls_tests::bpf::{Instruction, Order, Place, Program};
use mtls_tests::deadline::Deadline;
use mtls_tests::mesh::Position;
use mtls_tests::script::{Connect, Step};
use mtls_tests::{Doing, Family, Mesh, Pair, Plan, Result, ensure, play, two_nodes};

/// What lets everything pass: 1 at a cgroup and at sk_lookup.
const PASS: [Instruction; 2] = [Instruction::set(0, 1), Instruction::EXIT];

#[test]
fn foreign_programs() -> Result {
    play("foreign-programs", |scene| {
        let (a, b) = two_nodes(scene)?;
        let (client, server) = (a.pod("client")?, b.pod("server")?);
        let mut mesh = Mesh::prepare(Plan::of([&client, &server]), Position::default())?;

        let node = open(a.cgroup().path())?;
        let early = Program::load(Place::Connect4, "early", &PASS)?.attach(node.as_fd())?;
        mesh.start_all()?;
        let mut pair = Pair {
            mesh,
            client,
            server,
            a,
            b,
        };
        let gate = Program::load(Place::CgroupEgress, "late", &PASS)?.attach(node.as_fd())?;
        // Below ours, by the older way: for the pod's cgroup alone.
        let pod = open(pair.client.cgroup().path())?;
        Program::load(Place::Connect4, "alone", &PASS)?
            .attach_for_good(pod.as_fd(), 0)
            .doing(|| "attaching in a pod's cgroup")?;
        // Only where somebody is.
        let _there = pair.client.serve(8080, [Step::Echo])?;
        let netns = open(pair.client.netns().path())?;
        let steering = Program::load(Place::SkLookup, "steering", &PASS)?.attach(netns.as_fd())?;
        let next = [Instruction::set(0, u32::MAX), Instruction::EXIT];
        let veth = Program::load(Place::TcxIngress, "veth", &next)?.attach_at(
            pair.a.netns(),
            &pair.client.node_interface(),
            Order::First,
        )?;

        let mut server = pair.server.serve(8080, [Step::Echo])?;
        pair.greet(8080)?;
        server.ended_well(2)?;
        let said = checked(&mut pair)?;
        for (hook, name) in [
            ("connect4", "early"),
            ("cgroup_egress", "late"),
            ("connect4", "alone"),
            ("sk_lookup", "steering"),
            ("veth", "veth"),
        ] {
            let told = said.lines().any(|line| {
                line.contains(&format!("{hook} at ")) && line.contains(&format!("program {name} "))
            });
            ensure(told, || format!("{name} is not named: {said}"))?;
        }
        veth_gate_is(&mut pair, "behind")?;
        drop((early, gate, steering, veth));
        veth_gate_is(&mut pair, "armed")?;

        // After ours: the connection goes where the application wanted it.
        let to = pair.server.at(Family::V4, 8080);
        let past = Program::load(Place::Connect4, "past", &leading_to(to))?;
        let past = past.attach(node.as_fd())?;
        let script = [Step::Say("hi".into()), Step::Hear("hi".into())];
        let mut held = pair.client.connect_as(Connect::to(to, script))?;
        pair.clients_daemon()?
            .wait_for_metrics("connections past the daemon", |metrics| {
                let gate = [("hook", "cgroup_egress"), ("outcome", "dropped")];
                metrics.count("mtls_hook_events_total", &gate) > 0
            })?;
        let soon = Deadline::after(Duration::from_millis(200));
        let ended = held.ended_within(soon);
        ensure(ended.is_err(), || format!("past the daemon: {ended:?}"))?;
        ensure(server.has_nothing_to_tell()?, || "the server was reached")?;
        drop((past, held));
        pair.greet(8080)?;
        server.ended_well(2)?;
        pair.ensure_private().map(drop)
    })
}

/// A `connect4` program that sends every connection there.
fn leading_to(to: std::net::SocketAddr) -> [Instruction; 6] {
    /// Of `struct bpf_sock_addr`.
    const USER_IP4: u16 = 4;
    const USER_PORT: u16 = 24;
    let ip = match to.ip() {
        std::net::IpAddr::V4(ip) => u32::from_ne_bytes(ip.octets()),
        std::net::IpAddr::V6(_) => 0,
    };
    [
        Instruction::set(2, ip),
        Instruction::store(USER_IP4, 2),
        Instruction::set(2, u32::from(to.port().to_be())),
        Instruction::store(USER_PORT, 2),
        Instruction::set(0, 1),
        Instruction::EXIT,
    ]
}

fn veth_gate_is(pair: &mut Pair, state: &str) -> Result {
    let daemon = pair.clients_daemon()?;
    let told = daemon.wait_for_metrics("the gate at the veth", |metrics| {
        metrics.value("mtls_veth_gates", &[("state", state)]) == Some(1.0)
    });
    told.map(drop)
}

fn open(path: &Path) -> Result<File> {
    File::open(path).doing(|| format!("opening {}", path.display()))
}

/// What `check` complains of at the client's node.
fn checked(pair: &mut Pair) -> Result<String> {
    let daemon = pair.clients_daemon()?;
    let config = daemon.config().to_string_lossy().into_owned();
    Ok(daemon.command(&["check", "--config", &config])?.stderr)
}
