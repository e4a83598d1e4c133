//! What the operator leaves alone stays alone: mode off, excluded networks,
//! excluded ports in either direction, and destinations outside of the mesh.

use mtls_tests::script::Step;
use mtls_tests::{Family, Pair, Pod, Result, ensure, ensure_eq, play};

#[test]
fn mode_off_is_left_alone() -> Result {
    play("mode-off", |scene| {
        let pair = Pair::start_as(scene, |plan, client, server| {
            plan.set_workload(client, "mode", "\"off\"")
                .set_workload(server, "mode", "\"off\"")
        })?;
        let mut server = pair.server.serve(8080, [Step::Echo])?;
        for family in Family::BOTH {
            reach(&pair.client, &pair.server, family, 8080)?;
            server.ended_well(1)?;
        }
        Ok(())
    })
}

#[test]
fn excluded_ports_are_left_alone() -> Result {
    play("excluded-ports", |scene| {
        let mut pair = Pair::start_as(scene, |plan, client, server| {
            plan.set_workload(client, "excluded_outbound_ports", "[9100]")
                .set_workload(server, "excluded_inbound_ports", "[9100]")
        })?;
        let stranger = pair.a.outsider("monitoring")?;
        let _metrics = pair.server.serve(9100, [Step::Echo])?;
        let _secret = pair.server.serve(8080, [Step::Echo])?;
        for family in Family::BOTH {
            reach(&pair.client, &pair.server, family, 9100)?;
            reach(&stranger, &pair.server, family, 9100)?;
            reach(&pair.client, &pair.server, family, 8080)?;
            let refused = stranger.connect(pair.server.at(family, 8080), [Step::ExpectEnd])?;
            ensure_eq(refused.error(), "ECONNREFUSED", "on the other port")?;
        }
        // In clear on that port, in TLS on the others.
        let report = pair.mesh.wire()?;
        for connection in &report.connections {
            let excluded = connection.server.port() == 9100;
            ensure_eq(connection.outside > 0, excluded, "bytes in clear")?;
        }
        ensure(report.tls_connections() > 0, || report.to_string())
    })
}

#[test]
fn excluded_networks_are_left_alone() -> Result {
    play("excluded-networks", |scene| {
        let pair = Pair::start_as(scene, |plan, _, _| {
            plan.set(
                "network",
                "excluded",
                "[\"10.0.1.11/32\", \"fd00:1::b/128\"]",
            )
        })?;
        let printer = pair.a.outsider("printer")?;
        ensure_eq(printer.number(), 11, "the printer's place")?;
        let _listening = printer.serve(8080, [Step::Echo])?;
        let _server = pair.server.serve(8080, [Step::Echo])?;
        for family in Family::BOTH {
            reach(&pair.client, &printer, family, 8080)?;
            reach(&pair.client, &pair.server, family, 8080)?;
        }
        Ok(())
    })
}

#[test]
fn outside_of_the_mesh_is_reached_or_refused() -> Result {
    for (outside, reached) in [("direct", true), ("refuse", false)] {
        play(&format!("outside-{outside}"), |scene| {
            let pair = Pair::start_as(scene, |plan, _, _| {
                plan.set("node", "outside", &format!("{outside:?}"))
            })?;
            let (world, to) = world_outside(&pair)?;
            let _listening = world.serve(80, [Step::Echo])?;
            for to in to {
                let script = [Step::Say("hi".into()), Step::Hear("hi".into())];
                let ended = pair.client.connect(to, script)?;
                ensure_eq(ended.is_well(), reached, "whether the outside is reached")?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// A pod with addresses that lie in no network of the mesh.
fn world_outside(pair: &Pair) -> Result<(Pod, [std::net::SocketAddr; 2])> {
    let world = pair.a.outsider("world")?;
    world
        .netns()
        .ip("addr add 198.51.100.7/32 dev lo\naddr add 2001:db8::7/128 dev lo nodad\n")?;
    let [v4, v6] = world.addresses();
    pair.a.netns().ip(&format!(
        "route add 198.51.100.7/32 via {v4}\nroute add 2001:db8::7/128 via {v6}\n"
    ))?;
    let to = [
        ([198, 51, 100, 7], 80).into(),
        ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 7], 80).into(),
    ];
    Ok((world, to))
}

fn reach(from: &Pod, to: &Pod, family: Family, port: u16) -> Result {
    let script = [Step::Say("hi".into()), Step::Hear("hi".into())];
    let ended = from.connect(to.at(family, port), script)?;
    ensure(ended.is_well(), || {
        format!("{} to {} on {port}: {ended:?}", from.name(), to.name())
    })
}
