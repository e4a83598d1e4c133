//! 10,000 connections opened and closed: the kernel's maps are empty again,
//! the daemons' descriptors are back to where they were, and their memory
//! within a tenth.

use mtls_tests::deadline::{Deadline, wait_for};
use mtls_tests::mesh::Metrics;
use mtls_tests::script::{Connect, Step};
use mtls_tests::{Family, Node, Pair, Result, ensure, play};

const WARM_UP: usize = 2000;
const CONNECTIONS: usize = 10_000;

#[test]
fn nothing_leaks() -> Result {
    play("nothing-leaks", |scene| {
        let mut pair = Pair::start(scene)?;
        let _server = pair.server.serve(8080, [Step::Echo])?;
        let nodes = [pair.a.clone(), pair.b.clone()];
        open_and_close(&pair, WARM_UP)?;
        let before = [
            measure(&mut pair, &nodes[0])?,
            measure(&mut pair, &nodes[1])?,
        ];
        open_and_close(&pair, CONNECTIONS)?;
        for (node, before) in nodes.iter().zip(before) {
            let name = node.name();
            // A scrape of ours may hold one a moment longer.
            wait_for(
                Deadline::default(),
                || {
                    format!(
                        "node {name}'s daemon to hold {} descriptors",
                        before.descriptors
                    )
                },
                || {
                    let now = measure(&mut pair, node)?.descriptors;
                    Ok((now <= before.descriptors).then_some(()))
                },
            )?;
            let after = measure(&mut pair, node)?;
            ensure(after.resident <= before.resident * 11 / 10, || {
                format!(
                    "memory of node {name}'s daemon: {} before, {} after",
                    before.resident, after.resident
                )
            })?;
        }
        pair.ensure_private().map(drop)
    })
}

fn open_and_close(pair: &Pair, connections: usize) -> Result {
    let servers = Family::BOTH.map(|family| pair.server.at(family, 8080));
    let script = [
        Step::Say("hi".into()),
        Step::Hear("hi".into()),
        Step::HalfClose,
        Step::ExpectEnd,
    ];
    let task = Connect::to(servers[0], script)
        .to_each(&servers)
        .many(connections, 32);
    pair.client.connect_as(task)?.ended_well().map(drop)
}

struct Measured {
    descriptors: usize,
    resident: u64,
}

/// At rest: no connection open, no entry of one left.
fn measure(pair: &mut Pair, node: &Node) -> Result<Measured> {
    let daemon = pair.mesh.daemon(node)?;
    daemon.wait_for_metrics("rest", |metrics: &Metrics| {
        let empty = |map| metrics.value("mtls_bpf_map_entries", &[("map", map)]) == Some(0.0);
        metrics.sum("mtls_connections_open", &[]) == 0.0
            && empty("ORIGINAL_DST")
            && empty("CLIENT_NAMES")
    })?;
    let process = daemon.process()?;
    Ok(Measured {
        descriptors: process.descriptors()?,
        resident: process.resident()?,
    })
}
