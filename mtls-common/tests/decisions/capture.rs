use mtls_common::addr::Ip;
use mtls_common::capture::{Answered, Verdict, connect, datagram, nth};
use mtls_common::counters::Outcome;
use mtls_common::maps::{EXCLUDED, MESH, Netns, Socket};
use proptest::prelude::*;

use crate::around::{Around, COOKIE, Change, endpoint};

const FAR: &str = "10.0.0.2:5432";

fn verdict(around: &Around) -> Verdict {
    connect(around, endpoint(FAR), false)
}

#[test]
fn a_mesh_destination_is_captured() {
    let Verdict::Capture(socket) = verdict(&Around::enrolled()) else {
        panic!("not captured");
    };
    assert_eq!(socket.cookie, COOKIE);
    assert_eq!(socket.state, Socket::CAPTURED);
    assert!(socket.captured.is_capture_v4());
    let captured = mtls_common::addr::Endpoint {
        ip: socket.captured,
        port: socket.captured_port,
    };
    assert_eq!(socket.dialled_through(captured), Some(endpoint(FAR)));
    assert_eq!(socket.dialled_through(endpoint("127.0.0.1:80")), None);
}

#[test]
fn loopback_passes_without_a_question() {
    for to in [
        "127.0.0.1:80",
        "127.64.1.2:29184",
        "[::1]:80",
        "0.0.0.0:80",
        "[::]:80",
    ] {
        let around = Around::with(|around| around.standing = None);
        let verdict = connect(&around, endpoint(to), true);
        assert_eq!(verdict, Verdict::Pass(Outcome::PassedLoopback), "{to}");
        assert!(around.asked.borrow().is_empty(), "{to}");
    }
}

#[test]
fn the_host_leaves_after_one_question() {
    let around = Around::with(|around| around.standing = Some(Netns::NOT_ENROLLED));
    assert_eq!(verdict(&around), Verdict::Pass(Outcome::PassedNotEnrolled));
    assert_eq!(*around.asked.borrow(), ["netns"]);
}

#[test]
fn an_unknown_namespace_is_refused_unless_told_otherwise() {
    let unknown = |change: Change| {
        verdict(&Around::with(|around| {
            around.standing = None;
            change(around);
        }))
    };
    assert_eq!(unknown(|_| {}), Verdict::Refuse(Outcome::RefusedUnknown));
    assert_eq!(
        unknown(|around| around.pass_unknown = true),
        Verdict::Pass(Outcome::PassedUnknown)
    );
    assert_eq!(
        unknown(|around| around.exempt = true),
        Verdict::Pass(Outcome::PassedExempt)
    );
}

#[test]
fn each_reason_to_pass_passes() {
    let cases: [(Change, Outcome); 6] = [
        (|around| around.exempt = true, Outcome::PassedExempt),
        (
            |around| around.own.push("10.0.0.2".parse().unwrap()),
            Outcome::PassedOwnAddress,
        ),
        (|around| around.ports.push(5432), Outcome::PassedExcluded),
        (
            |around| around.workload_bits = EXCLUDED,
            Outcome::PassedExcluded,
        ),
        (
            |around| around.node_bits = MESH | EXCLUDED,
            Outcome::PassedExcluded,
        ),
        (|around| around.node_bits = 0, Outcome::PassedOutside),
    ];
    for (change, expected) in cases {
        assert_eq!(verdict(&Around::with(change)), Verdict::Pass(expected));
    }
}

#[test]
fn what_a_workload_does_not_exclude_is_not_looked_up() {
    let around = Around::with(|around| {
        around.flags = 0;
        around.ports.push(5432);
        around.workload_bits = EXCLUDED;
    });
    assert!(matches!(verdict(&around), Verdict::Capture(_)));
    assert!(!around.asked.borrow().contains(&"port_excluded"));
}

#[test]
fn each_reason_to_refuse_refuses() {
    let cases: [(Change, Outcome); 4] = [
        (|around| around.room = false, Outcome::RefusedPending),
        (
            |around| {
                around.node_bits = 0;
                around.pass_outside = false;
            },
            Outcome::RefusedOutside,
        ),
        (
            |around| around.answered = Answered::Refused,
            Outcome::RefusedRecently,
        ),
        (
            |around| around.listening = false,
            Outcome::RefusedNoListener,
        ),
    ];
    for (change, expected) in cases {
        assert_eq!(verdict(&Around::with(change)), Verdict::Refuse(expected));
    }
}

#[test]
fn only_a_true_v6_connection_of_a_v6_only_socket_goes_to_localhost_v6() {
    let captured = |to: &str, only_v6: bool| {
        let around = Around::with(|around| around.only_v6 = only_v6);
        match connect(&around, endpoint(to), true) {
            Verdict::Capture(socket) => socket.captured,
            other => panic!("{to}: {other:?}"),
        }
    };
    assert_eq!(captured("[fd00::2]:80", true), Ip::LOCALHOST_V6);
    assert!(captured("[fd00::2]:80", false).is_capture_v4());
    // A mapped destination shows that the socket can use IPv4.
    assert!(captured("[::ffff:10.0.0.2]:80", true).is_capture_v4());
}

#[test]
fn connect_waits_where_it_is_to_and_nobody_accepted_lately() {
    let held = |flags: u32, answered: Answered| {
        let around = Around::with(|around| {
            around.flags = flags;
            around.answered = answered;
        });
        match verdict(&around) {
            Verdict::Capture(socket) => socket.hold == 1,
            other => panic!("{other:?}"),
        }
    };
    assert!(held(Netns::TRUTHFUL, Answered::Nothing));
    assert!(!held(Netns::TRUTHFUL, Answered::Accepted));
    assert!(!held(0, Answered::Nothing));
}

#[test]
fn datagrams_to_the_mesh_are_refused_others_pass() {
    let of = |change: Change| datagram(&Around::with(change), endpoint("10.0.0.2:53"));
    assert_eq!(of(|_| {}), Verdict::Refuse(Outcome::RefusedUdp));
    assert_eq!(
        of(|around| around.node_bits = 0),
        Verdict::Pass(Outcome::PassedOutside)
    );
    assert_eq!(
        of(|around| around.ports.push(53)),
        Verdict::Pass(Outcome::PassedExcluded)
    );
    assert_eq!(
        of(|around| around.standing = None),
        Verdict::Pass(Outcome::PassedUnknown)
    );
}

prop_compose! {
    fn any_around()(
        standing in prop_oneof![Just(None), Just(Some(1_u32)), Just(Some(2)), any::<u32>().prop_map(Some)],
        flags in 0..16_u32,
        (exempt, pass_unknown, pass_outside) in any::<(bool, bool, bool)>(),
        answered in prop_oneof![Just(Answered::Nothing), Just(Answered::Accepted), Just(Answered::Refused)],
        (listening, room, only_v6) in any::<(bool, bool, bool)>(),
        own in proptest::collection::vec(any::<std::net::IpAddr>(), 0..2),
        ports in proptest::collection::vec(any::<u16>(), 0..2),
        (workload_bits, node_bits) in (0..4_u32, 0..4_u32),
    ) -> Around {
        Around {
            standing, flags, exempt, own, ports, workload_bits, node_bits, pass_unknown,
            pass_outside, answered, listening, room, only_v6,
            ..Around::enrolled()
        }
    }
}

proptest! {
    /// Whatever stands in the maps, what passes has a reason to.
    #[test]
    fn nothing_passes_without_a_reason(around in any_around(), to: std::net::SocketAddr, v6: bool) {
        let to = mtls_common::addr::Endpoint { ip: to.ip().into(), port: to.port() };
        if let Verdict::Pass(why) = connect(&around, to, v6) {
            let reason = match why {
                Outcome::PassedLoopback => to.ip.is_loopback() || to.ip.is_unspecified(),
                Outcome::PassedExempt => around.exempt,
                Outcome::PassedUnknown => around.standing.is_none() && around.pass_unknown,
                Outcome::PassedNotEnrolled => around.standing == Some(Netns::NOT_ENROLLED),
                Outcome::PassedOwnAddress => around.own.contains(&to.ip.into()),
                Outcome::PassedExcluded => {
                    around.ports.contains(&to.port)
                        || (around.workload_bits | around.node_bits) & EXCLUDED != 0
                }
                Outcome::PassedOutside => around.pass_outside && around.node_bits & MESH == 0,
                _ => false,
            };
            prop_assert!(reason, "{why:?} of {around:?}");
        }
    }

    #[test]
    fn every_listener_gets_its_share(remotes in proptest::collection::vec(any::<(u32, u16)>(), 400), spread in 1..8_u32) {
        let mut shares = vec![0; spread as usize];
        for (ip, port) in remotes {
            let remote = mtls_common::addr::Endpoint { ip: Ip::v4(ip), port };
            shares[nth(remote, spread) as usize] += 1;
        }
        prop_assert!(shares.iter().all(|&n| n > 400 / spread / 4), "{shares:?}");
    }
}
