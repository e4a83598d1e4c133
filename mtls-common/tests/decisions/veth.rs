use mtls_common::addr::{Endpoint, Ip};
use mtls_common::counters::Outcome;
use mtls_common::gate::Gate;
use mtls_common::maps::{EXCLUDED, MESH, Netns, NetworkKey, PortKey};
use mtls_common::probe::ProbeKey;
use mtls_common::veth::{Content, Leaving, Segment, leaving};

struct World {
    netns: Option<Netns>,
    ports: Vec<(u16, u16)>,
    network: u32,
    outside: bool,
    unknown: bool,
    probe: Option<ProbeKey>,
}

impl Leaving for World {
    fn netns(&self) -> Option<(u64, Netns)> {
        self.netns.map(|netns| (7, netns))
    }

    fn port_is(&self, _: u64, port: u16, direction: u16) -> bool {
        self.ports.contains(&(port, direction))
    }

    fn networks(&self, cookie: u64, _: Ip) -> u32 {
        if cookie == NetworkKey::NODE {
            self.network
        } else {
            0
        }
    }

    fn pass_outside(&self) -> bool {
        self.outside
    }

    fn pass_unknown(&self) -> bool {
        self.unknown
    }

    fn probed(&self, _: u64, probe: &ProbeKey) -> bool {
        self.probe == Some(*probe)
    }
}

fn world() -> World {
    let flags = Netns::HAS_PORTS_OUT | Netns::HAS_PORTS_IN | Netns::HAS_NETWORKS;
    World {
        netns: Some(Netns {
            standing: Netns::ENROLLED,
            flags,
            ..Netns::OTHERS
        }),
        ports: vec![(443, PortKey::OUT), (9100, PortKey::IN)],
        network: MESH,
        outside: true,
        unknown: false,
        probe: None,
    }
}

fn from_to(from: u16, to: u16, opens: bool, carries: bool) -> Content {
    let end = |last: u8, port| Endpoint {
        ip: Ip::v4(u32::from_ne_bytes([10, 0, 0, last])),
        port,
    };
    Content::Tcp(Segment {
        from: end(1, from),
        to: end(2, to),
        opens,
        carries,
    })
}

#[test]
fn nothing_opens_or_carries_but_what_is_excluded() {
    let passes = |world: &World, content| matches!(leaving(world, content), Gate::Pass(_));
    let strict = world();
    assert!(!passes(&strict, from_to(40_000, 8080, true, false)));
    assert!(!passes(&strict, from_to(8080, 40_000, false, true)));
    assert!(!passes(&strict, Content::Unseen));
    assert!(passes(&strict, from_to(8080, 40_000, false, false)));
    assert!(passes(&strict, Content::Other));
    // Exclusions: of destinations, and of answers but not of questions.
    assert!(passes(&strict, from_to(40_000, 443, true, false)));
    assert!(passes(&strict, from_to(9100, 40_000, false, true)));
    assert!(!passes(&strict, from_to(9100, 40_000, true, false)));

    let strange = from_to(40_000, 8080, true, true);
    let of = |network, outside| World {
        network,
        outside,
        ..world()
    };
    assert!(passes(&of(0, true), strange));
    assert!(!passes(&of(0, false), strange));
    assert!(passes(&of(EXCLUDED | MESH, false), strange));
    let off = World {
        netns: Some(Netns::OTHERS),
        ..world()
    };
    assert!(passes(&off, strange));
    let unknown = World {
        netns: None,
        ..world()
    };
    assert!(!passes(&unknown, strange));
    let let_through = World {
        unknown: true,
        ..unknown
    };
    assert!(passes(&let_through, strange));
}

#[test]
fn what_was_in_clear_stays_so_where_the_mode_is_permissive() {
    let passes = |world: &World, content| matches!(leaving(world, content), Gate::Pass(_));
    let with = |flags: u32, modes: Vec<(u16, u16)>| {
        let mut world = world();
        let netns = world.netns.as_mut().unwrap();
        netns.flags |= flags | Netns::HAS_PORT_MODES;
        world.ports.extend(modes);
        world
    };
    let (answer, question) = (
        from_to(8080, 40_000, false, true),
        from_to(40_000, 8080, true, false),
    );
    let permissive = with(Netns::PERMISSIVE, vec![(8080, PortKey::STRICT)]);
    assert!(!passes(&permissive, answer));
    for passing in [
        question,
        from_to(40_000, 8080, false, true),
        from_to(8081, 40_000, false, true),
        // Its own connection, from a port that only looks like its server's.
        from_to(8080, 444, true, false),
        Content::Unseen,
    ] {
        assert!(passes(&permissive, passing), "{passing:?}");
    }
    let strict = with(0, vec![(8080, PortKey::PERMISSIVE)]);
    assert!(passes(&strict, answer));
    for stopped in [
        question,
        from_to(8080, 444, true, false),
        from_to(8081, 40_000, false, true),
        Content::Unseen,
    ] {
        assert!(!passes(&strict, stopped), "{stopped:?}");
    }
}

#[test]
fn a_probe_is_answered_and_no_one_else() {
    let answer = from_to(8081, 50_000, false, true);
    let Content::Tcp(segment) = answer else {
        unreachable!("it was made so");
    };
    let world = World {
        probe: Some(ProbeKey::new(segment.to, segment.from)),
        ..world()
    };
    assert!(matches!(
        leaving(&world, answer),
        Gate::Pass(Outcome::PassedProbe)
    ));
    let another = from_to(8081, 50_001, false, true);
    assert!(matches!(leaving(&world, another), Gate::Drop(_)));
}
