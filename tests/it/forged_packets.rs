//! A neighbour on the bridge writes packets by hand: from the daemon's own
//! range, from the workload's own address, to its loopback, to where captured
//! connections go. With the kernel's checks of addresses switched off they
//! arrive, and the application hears of none.

use std::net::{IpAddr, SocketAddr};

use mtls_common::addr::CAPTURE_PORT;
use mtls_tests::forge::Segment;
use mtls_tests::script::{Connect, Serve, Step};
use mtls_tests::{AddressChecks, Family, Pair, Pod, Result, ensure, ensure_eq, play};

const AT_THE_GATE: [(&str, &str); 2] = [("hook", "cgroup_ingress"), ("outcome", "dropped")];

#[test]
fn forged_packets() -> Result {
    play("forged-packets", |scene| {
        let mut pair = Pair::start(scene)?;
        let neighbour = pair.b.outsider("neighbour")?;
        let mut server = pair.server.serve(8080, [Step::Echo])?;
        let hello = [Step::Say("hi".into()), Step::Hear("hi".into())];
        // The daemon's own connections to the application have been there.
        for family in Family::BOTH {
            pair.client
                .connect(pair.server.at(family, 8080), hello.clone())?;
        }
        server.ended_well(2)?;

        for checks in AddressChecks::BOTH {
            pair.check_addresses(checks)?;
            let before = stopped(&mut pair)?;
            for (source, target) in forged(&pair.server) {
                let syn = Segment::syn(source, target);
                let frame = syn.frame(neighbour.mac()?, pair.server.mac()?);
                neighbour.inject(&frame, 1)?;
            }
            if checks == AddressChecks::Off {
                // The ingress gate is what stops those with loopback's
                // addresses, and with the pod's own, once the kernel has let
                // them in.
                wait_until_stopped(&mut pair, before + 5)?;
            }
            let table = pair.server.netns().sockets()?;
            let begun = table
                .iter()
                .filter(|socket| !socket.listens && socket.port == 8080)
                .count();
            ensure(begun == 0, || {
                format!("{checks:?}: {begun} connections were begun: {table:?}")
            })?;
            ensure(server.has_nothing_to_tell()?, || "the server was reached")?;
        }

        // Whoever is honest still comes in.
        for family in Family::BOTH {
            let ended = pair
                .client
                .connect(pair.server.at(family, 8080), hello.clone())?;
            ensure(ended.is_well(), || format!("afterwards: {ended:?}"))?;
        }
        pair.ensure_private().map(drop)
    })
}

/// A neighbour that routes 127.0.0.0/8 to a workload connects in earnest, with
/// answers that come back: to where captured connections go, and to a service
/// on the workload's loopback.
#[test]
fn loopback_from_the_bridge() -> Result {
    play("loopback-from-bridge", |scene| {
        let mut pair = Pair::start(scene)?;
        let neighbour = pair.b.outsider("neighbour")?;
        let local = Serve::on(8081, [Step::Echo]).only_at(at("127.0.0.1", 8081));
        let mut local = pair.server.serve_as(local)?;
        pair.check_addresses(AddressChecks::Off)?;
        AddressChecks::Off.set([neighbour.netns()])?;
        neighbour.netns().ip(&format!(
            "route del local 127.0.0.1 dev lo table local\n\
             route del local 127.0.0.0/8 dev lo table local\n\
             route add 127.0.0.0/8 via {} dev eth0 src {}\n",
            pair.server.address(Family::V4),
            neighbour.address(Family::V4),
        ))?;

        let ended = neighbour.connect(at("127.64.0.1", CAPTURE_PORT), [Step::ExpectEnd])?;
        ensure_eq(ended.error(), "ECONNRESET", "a captured connection's place")?;
        pair.servers_daemon()?.wait_for_metrics(
            "a connection without a destination",
            |metrics| {
                let reason = [("reason", "no_original_dst")];
                metrics.count("mtls_connections_refused_total", &reason) == 1
            },
        )?;

        let before = stopped(&mut pair)?;
        let to = Connect::to(at("127.0.0.1", 8081), [Step::Say("hi".into())]);
        let _held = neighbour.connect_as(to)?;
        wait_until_stopped(&mut pair, before + 1)?;
        ensure(local.has_nothing_to_tell()?, || "its loopback was reached")?;
        pair.ensure_nothing_in_clear().map(drop)
    })
}

/// Where each says it comes from, and where it goes.
fn forged(server: &Pod) -> Vec<(SocketAddr, SocketAddr)> {
    let own = |family, port| server.at(family, port);
    vec![
        // As the daemon dials, as a pod calls itself.
        (at("127.128.0.5", 40_001), own(Family::V4, 8080)),
        (at("127.0.0.1", 40_002), own(Family::V4, 8080)),
        (own(Family::V4, 40_003), own(Family::V4, 8080)),
        // To services on the loopback.
        (at("10.0.2.99", 40_004), at("127.0.0.1", 8080)),
        (at("127.0.0.1", 40_005), at("127.0.0.1", 8080)),
        (at("::1", 40_006), own(Family::V6, 8080)),
        (own(Family::V6, 40_007), own(Family::V6, 8080)),
        (at("::ffff:127.0.0.1", 40_008), own(Family::V6, 8080)),
        (at("::ffff:127.128.0.5", 40_009), own(Family::V6, 8080)),
        // As a captured connection.
        (at("127.0.0.1", 40_010), at("127.64.0.1", 1)),
        (at("10.0.2.99", 40_011), at("127.64.0.1", 1)),
    ]
}

fn stopped(pair: &mut Pair) -> Result<u64> {
    let metrics = pair.servers_daemon()?.metrics()?;
    Ok(metrics.count("mtls_hook_events_total", &AT_THE_GATE))
}

fn wait_until_stopped(pair: &mut Pair, count: u64) -> Result {
    pair.servers_daemon()?
        .wait_for_metrics("forged packets at the gate", |metrics| {
            metrics.count("mtls_hook_events_total", &AT_THE_GATE) >= count
        })
        .map(drop)
}

fn at(ip: &str, port: u16) -> SocketAddr {
    let ip: IpAddr = ip.parse().expect("a constant address");
    SocketAddr::new(ip, port)
}
