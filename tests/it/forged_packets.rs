//! A neighbour on the bridge writes packets by hand: from the daemon's own
//! range, from the workload's own address, to its loopback, to where captured
//! connections go. With the kernel's checks of addresses switched off they
//! arrive, and the application hears of none.

use std::net::{IpAddr, SocketAddr};

use mtls_tests::forge::Segment;
use mtls_tests::script::Step;
use mtls_tests::{Family, Pair, Result, ensure, play};

use crate::spoofing::switch_address_checks_off;

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
        switch_address_checks_off(&pair.server)?;

        let (from, to) = (neighbour.mac()?, pair.server.mac()?);
        let own = |family, port| pair.server.at(family, port);
        let forged: Vec<(SocketAddr, SocketAddr)> = vec![
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
        ];
        for (source, target) in &forged {
            let syn = Segment::syn(*source, *target);
            neighbour.inject(&syn.frame(from, to), 1)?;
        }
        // The ingress gate is what stops those with loopback's addresses, and
        // with the pod's own, once the kernel has let them in.
        pair.servers_daemon()?
            .wait_for_metrics("forged packets at the gate", |metrics| {
                let gate = [("hook", "cgroup_ingress"), ("outcome", "dropped")];
                metrics.count("mtls_hook_events_total", &gate) >= 5
            })?;
        let table = pair.server.netns().sockets()?;
        let begun = table
            .iter()
            .filter(|socket| !socket.listens && socket.port == 8080)
            .count();
        ensure(begun == 0, || {
            format!("{begun} connections were begun: {table:?}")
        })?;
        ensure(server.has_nothing_to_tell()?, || "the server was reached")?;

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

fn at(ip: &str, port: u16) -> SocketAddr {
    let ip: IpAddr = ip.parse().expect("a constant address");
    SocketAddr::new(ip, port)
}
