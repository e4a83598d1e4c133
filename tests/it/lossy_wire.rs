//! The wire loses one packet in a hundred, each way: every byte arrives all the
//! same, in order and once, every end is an end, and nothing is in clear.

use std::fs;

use mtls_tests::bpf::{Instruction, Link, Order, Place, Program};
use mtls_tests::node::WIRE;
use mtls_tests::script::{Connect, Step};
use mtls_tests::{Doing, Error, Family, Node, Pair, Pod, Result, ensure, play};

const BYTES: u64 = 2 << 20;
const CONNECTIONS: usize = 8;
/// Of the bytes each way and of each family, in packets of the wire's size.
const PACKETS: u64 = 2 * 2 * CONNECTIONS as u64 * BYTES / 1448;

#[test]
fn lossy_wire() -> Result {
    play("lossy-wire", |scene| {
        let mut pair = Pair::start(scene)?;
        let _loss = [lose(&pair.a)?, lose(&pair.b)?];
        let exchange = |send, receive| {
            vec![
                Step::Exchange {
                    bytes: BYTES,
                    send,
                    receive,
                },
                Step::HalfClose,
                Step::ExpectEnd,
            ]
        };
        let mut server = pair.server.serve(8080, exchange(1, 2))?;
        for family in Family::BOTH {
            let to = pair.server.at(family, 8080);
            let task = Connect::to(to, exchange(2, 1)).many(CONNECTIONS, CONNECTIONS);
            pair.client.connect_as(task)?.ended_well()?;
            server.ended_well(CONNECTIONS)?;
        }
        let again = sent_again(&pair.client)? + sent_again(&pair.server)?;
        ensure(again >= PACKETS / 200, || {
            format!("{again} packets of some {PACKETS} were sent again")
        })?;
        pair.ensure_private().map(drop)
    })
}

/// A packet is lost with all its segments, so they are made single ones.
fn lose(node: &Node) -> Result<Link> {
    const RANDOM: u32 = 7;
    const DROP: u32 = 2;
    /// To whoever is next.
    const PASS: u32 = u32::MAX;
    let program = Program::load(
        Place::TcxIngress,
        "lossy",
        &[
            Instruction::call(RANDOM),
            Instruction::modulo(0, 100),
            Instruction::skip_unless(0, 0, 2),
            Instruction::set(0, DROP),
            Instruction::EXIT,
            Instruction::set(0, PASS),
            Instruction::EXIT,
        ],
    )?;
    node.netns()
        .ip(&format!("link set {WIRE} gso_max_segs 1\n"))?;
    program.attach_at(node.netns(), WIRE, Order::First)
}

/// What the pod's namespace has had to send again, which the tunnels' sockets
/// are in.
fn sent_again(pod: &Pod) -> Result<u64> {
    let path = "/proc/thread-self/net/snmp";
    let table = pod.netns().run(|| fs::read_to_string(path))?;
    let table = table.doing(|| format!("reading {path}"))?;
    let mut lines = table.lines().filter(|line| line.starts_with("Tcp:"));
    let (names, values) = (lines.next(), lines.next());
    let place = names.and_then(|names| names.split(' ').position(|name| name == "RetransSegs"));
    place
        .and_then(|place| values?.split(' ').nth(place)?.parse().ok())
        .ok_or_else(|| Error::Unexpected(format!("{path} has no RetransSegs: {table}")))
}
