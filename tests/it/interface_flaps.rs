//! An interface goes down in the middle of transfers and comes up again: a
//! pod's veth, or the wire between the nodes. Whoever asks meanwhile is told
//! within the limit. What was open goes on to its last byte, or is reset; new
//! connections pass again without help, and nothing is in clear.

use mtls_tests::deadline::{Deadline, wait_for};
use mtls_tests::node::WIRE;
use mtls_tests::script::{Connect, Ended, Step};
use mtls_tests::{Family, Node, Pair, Plan, Result, ensure, play};

const BYTES: u64 = 4 << 20;

#[test]
fn interface_flaps() -> Result {
    play("interface-flaps", |scene| {
        let mut pair = Pair::start_as(scene, |plan: Plan, _, _| {
            plan.set("limits", "connect", "\"500ms\"")
        })?;
        let _echo = pair.server.serve(8080, [Step::Echo])?;
        let (a, b) = (pair.a.clone(), pair.b.clone());
        let flaps = [
            (a.clone(), pair.client.node_interface()),
            (b, pair.server.node_interface()),
            (a, WIRE.to_owned()),
        ];
        for (node, interface) in flaps {
            for family in Family::BOTH {
                flap(&pair, &node, &interface, family)?;
            }
        }
        // The gate of the veth that flapped is where it was.
        pair.clients_daemon()?
            .wait_for_metrics("a gate at the veth", |metrics| {
                metrics.value("mtls_veth_gates", &[("state", "armed")]) == Some(1.0)
            })?;
        pair.ensure_private().map(drop)
    })
}

fn flap(pair: &Pair, node: &Node, interface: &str, family: Family) -> Result {
    let (up, down) = ([1, 2], [3, 4]);
    let mut server = pair.server.serve(8081, transfer(up, down, false))?;
    let to = pair.server.at(family, 8081);
    let script = transfer(down, up, true);
    let mut open = pair.client.connect_as(Connect::to(to, script))?;
    open.held()?;
    node.netns().ip(&format!("link set {interface} down\n"))?;
    open.go()?;
    let told = greet(pair, family)?;
    ensure(!told.is_well(), || format!("{interface} is not down"))?;
    node.netns().ip(&format!("link set {interface} up\n"))?;
    if interface == WIRE {
        // What the kernel forgets with the link: somebody's network manager
        // would say it again.
        node.address_wire()?;
    }
    for (who, ended) in [
        ("the client", open.ended()?),
        ("the server", server.ended()?),
    ] {
        let is_whole_or_cut = ended.is_well() || ended.error() == "ECONNRESET";
        ensure(is_whole_or_cut, || {
            format!("{who}, {interface}, {family:?}: {ended:?}")
        })?;
    }
    wait_for(
        Deadline::default(),
        || format!("traffic after {interface} came up"),
        || Ok(greet(pair, family)?.is_well().then_some(())),
    )
}

/// Some bytes each way, then, perhaps after the story's word, as many more.
fn transfer(receive: [u64; 2], send: [u64; 2], holds: bool) -> Vec<Step> {
    let exchange = |nth: usize| Step::Exchange {
        bytes: BYTES,
        send: send[nth],
        receive: receive[nth],
    };
    let mut steps = vec![exchange(0)];
    steps.extend(holds.then_some(Step::Hold));
    steps.extend([exchange(1), Step::HalfClose, Step::ExpectEnd]);
    steps
}

fn greet(pair: &Pair, family: Family) -> Result<Ended> {
    let hello = [Step::Say("hi".into()), Step::Hear("hi".into())];
    pair.client.connect(pair.server.at(family, 8080), hello)
}
