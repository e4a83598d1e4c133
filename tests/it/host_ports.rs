//! Ports of a node that lead into its pods, as hostPort and NodePort do, by NAT:
//! the kernel rewrites the destination, and the source, too, where the answer
//! has to come back by the node. However somebody comes in by one, a strict pod
//! sees plain text from outside; a permissive one takes it, through its daemon.

use std::net::SocketAddr;

use mtls_tests::script::Step;
use mtls_tests::{Doing, Family, Node, Pair, Pod, Result, ensure, ensure_eq, play};

use crate::permissive::put_in_force;

/// The pod's own port, and two of the node's that lead to it: one keeps the
/// client's address, the other makes it the node's.
const PORT: u16 = 8080;
const KEEPS: u16 = 30080;
const HIDES: u16 = 30081;

#[test]
fn host_ports() -> Result {
    play("host-ports", |scene| {
        let mut pair = Pair::start(scene)?;
        let (far, near) = (pair.a.outsider("far")?, pair.b.outsider("near")?);
        let b = pair.b.clone();
        translate(&b, &pair.server)?;
        let mut server = pair.server.serve(PORT, [Step::Echo])?;
        let ways = |family| {
            let node = b.wire_address(family);
            [
                (&far, SocketAddr::new(node, KEEPS)),
                (&far, SocketAddr::new(node, HIDES)),
                (&near, SocketAddr::new(node, HIDES)),
            ]
        };

        for family in Family::BOTH {
            for (from, to) in ways(family) {
                let ended = from.connect(to, hello())?;
                ensure_eq(
                    ended.error(),
                    "ECONNREFUSED",
                    "a stranger at the node's port",
                )?;
                // The node is outside of the mesh, and no way around it.
                let ended = pair.client.connect(to, hello())?;
                ensure(
                    matches!(ended.error(), "ECONNRESET" | "ECONNREFUSED"),
                    || format!("an enrolled client at {to}: {ended:?}"),
                )?;
            }
            let said = of_the_node(&b, b.wire_address(family))?;
            ensure_eq(said.as_str(), "", "what the node itself hears")?;
        }
        ensure(server.has_nothing_to_tell()?, || "the server was reached")?;
        let refused = [("hook", "sk_lookup"), ("outcome", "refused_plaintext")];
        pair.servers_daemon()?
            .wait_for_metrics("what was refused", |metrics| {
                metrics.count("mtls_hook_events_total", &refused) >= 14
            })?;
        pair.ensure_nothing_in_clear()?;

        put_in_force(&mut pair.mesh, &b, |plan| {
            plan.set_workload(&pair.server, "mode", "\"permissive\"")
        })?;
        for family in Family::BOTH {
            for (from, to) in ways(family) {
                let ended = from.connect(to, hello())?;
                ensure(ended.is_well(), || format!("permissive: {ended:?}"))?;
                let seen = server.ended_well(1)?.remove(0);
                let expected = match to.port() {
                    KEEPS => from.address(family),
                    _ => b.address(family),
                };
                let seen = seen.peer.map(|peer| peer.ip());
                ensure_eq(seen, Some(expected), "whom the server sees")?;
            }
            let said = of_the_node(&b, b.wire_address(family))?;
            ensure(said.starts_with("GET / "), || {
                format!("the node heard {said:?}")
            })?;
            server.ended()?;
        }
        let in_clear = [("direction", "inbound"), ("reason", "permissive")];
        let metrics = pair.servers_daemon()?.metrics()?;
        let count = metrics.count("mtls_plaintext_connections_total", &in_clear);
        ensure_eq(count, 8, "what came in clear")
    })
}

/// As a node's network plug-in and kube-proxy write it.
fn translate(node: &Node, pod: &Pod) -> Result {
    for (family, name) in [(Family::V4, "ip"), (Family::V6, "ip6")] {
        let (to, port) = (pod.address(family), pod.at(family, PORT));
        let rules = format!(
            "table {name} ports {{\n\
             chain arriving {{\ntype nat hook prerouting priority dstnat\n\
             tcp dport {{ {KEEPS}, {HIDES} }} dnat to {port}\n}}\n\
             chain made_here {{\ntype nat hook output priority -100\n\
             tcp dport {{ {KEEPS}, {HIDES} }} dnat to {port}\n}}\n\
             chain leaving {{\ntype nat hook postrouting priority srcnat\n\
             {name} daddr {to} meta l4proto tcp ct original proto-dst {HIDES} masquerade\n}}\n}}\n",
        );
        let file = node.scene().dir().join(format!("{name}.nft"));
        std::fs::write(&file, rules).doing(|| format!("writing {}", file.display()))?;
        node.spawn("nft")?.arg("-f").arg(file).output()?.success()?;
    }
    Ok(())
}

/// What a program of the node hears at its own port.
fn of_the_node(node: &Node, address: std::net::IpAddr) -> Result<String> {
    let url = format!("http://{}/", SocketAddr::new(address, KEEPS));
    let curl = node.spawn("curl")?;
    let curl = curl.args(["--silent", "--http0.9", "--max-time", "2", &url]);
    Ok(curl.output()?.stdout)
}

fn hello() -> [Step; 2] {
    [Step::Say("hi".into()), Step::Hear("hi".into())]
}
