use std::cell::Cell;

use mtls_common::addr::Ip;
use mtls_common::counters::Outcome;
use mtls_common::gate::{
    Creation, Gate, Loopback, create, holds_tcp, syn_in, syn_on_loopback, syn_out,
};
use mtls_common::maps::{EXCLUDED, MESH, Netns, Socket};
use mtls_common::probe::Probe;
use proptest::prelude::*;

use crate::around::{ACCOUNT, Around, COOKIE, Change, SLOTS, endpoint};

fn out(change: Change) -> Gate {
    syn_out(&Around::with(change), endpoint("10.0.0.2:5432"))
}

fn inward(change: Change) -> Gate {
    syn_in(&Around::with(change), endpoint("10.0.0.2:0").ip, 80)
}

#[test]
fn what_should_have_been_captured_does_not_leave() {
    assert_eq!(out(|_| {}), Gate::Drop(Outcome::Dropped));
    assert_eq!(
        out(|around| around.standing = None),
        Gate::Drop(Outcome::RefusedUnknown)
    );
    assert_eq!(
        out(|around| {
            around.node_bits = 0;
            around.pass_outside = false;
        }),
        Gate::Drop(Outcome::Dropped)
    );
}

#[test]
fn what_left_before_its_workload_became_permissive_leaves() {
    let permissive: Change = |around| around.flags |= Netns::PERMISSIVE;
    assert_eq!(out(permissive), Gate::Pass(Outcome::PassedPermissive));
    // What comes in without passing by sk_lookup comes again, and passes by.
    assert_eq!(inward(permissive), Gate::Drop(Outcome::Dropped));
    let answer: Change = |around| {
        around.flags |= Netns::PERMISSIVE;
        around.opens = false;
    };
    assert_eq!(inward(answer), Gate::Pass(Outcome::PassedPermissive));
    let strict: Change = |around| around.opens = false;
    assert_eq!(inward(strict), Gate::Drop(Outcome::Dropped));
}

#[test]
fn the_probers_connections_come_in_and_none_after_them() {
    let open: Change = |around| around.probed = Some((80, Probe::Open));
    assert_eq!(inward(open), Gate::Pass(Outcome::PassedProbe));
    let another: Change = |around| around.probed = Some((81, Probe::Open));
    assert_eq!(inward(another), Gate::Drop(Outcome::Dropped));
    let last_packets: Change = |around| {
        around.probed = Some((80, Probe::Ended));
        around.opens = false;
    };
    assert_eq!(inward(last_packets), Gate::Pass(Outcome::PassedProbe));
    let again: Change = |around| around.probed = Some((80, Probe::Ended));
    assert_eq!(inward(again), Gate::Drop(Outcome::Dropped));
}

/// A captured socket that has sent its SYN to where it was turned.
fn on_loopback(captured: &str, change: fn(&mut Socket), listening: bool) -> Loopback {
    let captured = endpoint(captured);
    let mut socket = Socket::captured(COOKIE, ACCOUNT, endpoint("10.0.0.2:5432"), captured, true);
    socket.state = Socket::RECORDED;
    change(&mut socket);
    syn_on_loopback(Some(socket), captured, |slot| {
        assert_eq!(slot, SLOTS, "another workload's listener");
        listening
    })
}

#[test]
fn a_held_syn_waits_for_a_daemon_that_is_there() {
    for captured in ["127.64.1.2:29184", "[::1]:29190"] {
        assert_eq!(on_loopback(captured, |_| {}, true), Loopback::Hold);
        assert_eq!(on_loopback(captured, |_| {}, false), Loopback::Pass);
        let early = on_loopback(captured, |socket| socket.hold = 0, true);
        assert_eq!(early, Loopback::Pass);
    }
}

#[test]
fn what_is_not_captured_or_not_recorded_is_not_held() {
    let elsewhere: fn(&mut Socket) = |socket| socket.captured_port = 80;
    let unrecorded: fn(&mut Socket) = |socket| socket.state = Socket::CAPTURED;
    for (captured, lost) in [
        ("127.64.1.2:29184", Loopback::Pass),
        ("[::1]:29190", Loopback::Drop),
    ] {
        assert_eq!(on_loopback(captured, elsewhere, true), Loopback::Pass);
        assert_eq!(on_loopback(captured, unrecorded, true), lost);
        let to = endpoint(captured);
        assert_eq!(syn_on_loopback(None, to, |_| true), Loopback::Pass);
    }
}

#[test]
fn the_daemons_tunnels_and_what_passes_leave() {
    assert_eq!(
        out(|around| around.exempt = true),
        Gate::Pass(Outcome::PassedExempt)
    );
    assert_eq!(
        out(|around| around.node_bits = 0),
        Gate::Pass(Outcome::PassedOutside)
    );
    assert_eq!(
        out(|around| around.node_bits = MESH | EXCLUDED),
        Gate::Pass(Outcome::PassedExcluded)
    );
}

#[test]
fn nothing_plain_comes_in_to_an_enrolled_workload() {
    assert_eq!(inward(|_| {}), Gate::Drop(Outcome::Dropped));
    // Its own address does not help: what is here came over a wire.
    assert_eq!(
        inward(|around| around.own.push("10.0.0.2".parse().unwrap())),
        Gate::Drop(Outcome::Dropped)
    );
    assert_eq!(
        inward(|around| around.standing = None),
        Gate::Drop(Outcome::RefusedUnknown)
    );
}

#[test]
fn the_daemon_the_host_and_exclusions_let_in() {
    let cases: [(Change, Outcome); 7] = [
        (|around| around.exempt = true, Outcome::PassedExempt),
        (
            |around| around.standing = Some(Netns::NOT_ENROLLED),
            Outcome::PassedNotEnrolled,
        ),
        (|around| around.ports.push(80), Outcome::PassedExcluded),
        (
            |around| around.workload_bits = EXCLUDED,
            Outcome::PassedExcluded,
        ),
        (
            |around| around.node_bits = EXCLUDED,
            Outcome::PassedExcluded,
        ),
        (
            |around| {
                around.standing = None;
                around.pass_unknown = true;
            },
            Outcome::PassedUnknown,
        ),
        (
            |around| {
                around.standing = None;
                around.exempt = true;
            },
            Outcome::PassedExempt,
        ),
    ];
    for (change, expected) in cases {
        assert_eq!(inward(change), Gate::Pass(expected));
    }
}

#[test]
fn raw_sockets_that_could_carry_tcp_are_refused_or_watched() {
    const RAW: u32 = 3;
    let made = |change: Change, kind, protocol| create(&Around::with(change), kind, protocol);
    assert_eq!(made(|_| {}, RAW, 6), Creation::Refuse);
    assert_eq!(made(|_| {}, RAW, 255), Creation::Refuse);
    assert_eq!(made(|_| {}, RAW, 1), Creation::Watch { cookie: COOKIE });
    assert_eq!(
        made(|around| around.standing = None, RAW, 6),
        Creation::Refuse
    );
    assert_eq!(made(|around| around.exempt = true, RAW, 6), Creation::Pass);
    assert_eq!(
        made(|around| around.standing = Some(Netns::NOT_ENROLLED), RAW, 6),
        Creation::Pass
    );
    for kind in [1, 2, 5] {
        assert_eq!(made(|_| {}, kind, 6), Creation::Pass);
    }
}

fn holds(packet: &[u8]) -> bool {
    holds_tcp(|at| packet.get(at as usize).copied())
}

fn v4(protocol: u8) -> Vec<u8> {
    let mut packet = vec![0x45; 20];
    packet[9] = protocol;
    packet
}

/// An IPv6 header and extension headers of 8 bytes, each naming the next.
fn v6(chain: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; 40];
    packet[0] = 0x60;
    packet[6] = chain[0];
    for next in &chain[1..] {
        packet.extend_from_slice(&[*next, 0, 0, 0, 0, 0, 0, 0]);
    }
    packet
}

#[test]
fn tcp_is_found_behind_extension_headers() {
    assert!(holds(&v4(6)));
    assert!(!holds(&v4(1)));
    assert!(holds(&v6(&[6])));
    assert!(!holds(&v6(&[58])));
    assert!(holds(&v6(&[60, 6])));
    assert!(holds(&v6(&[0, 60, 43, 6])));
    assert!(holds(&v6(&[44, 6])));
    // Listener reports of the kernel and of ping.
    assert!(!holds(&v6(&[0, 58])));
    // More headers than anybody honest needs.
    assert!(holds(&v6(&[60, 60, 60, 60, 58])));
    assert!(holds(&[]));
    assert!(holds(&[0x45]));
    assert!(holds(&v6(&[60])[..40]));
}

proptest! {
    #[test]
    fn a_packets_headers_are_read_to_an_end(packet in proptest::collection::vec(any::<u8>(), 0..80)) {
        let reads = Cell::new(0);
        holds_tcp(|at| {
            reads.set(reads.get() + 1);
            packet.get(at as usize).copied()
        });
        prop_assert!(reads.get() < 16);
    }

    #[test]
    fn nothing_comes_in_without_a_reason(ip: u32, port: u16, bits in 0..2_u32) {
        let around = Around::with(|around| {
            around.workload_bits = bits;
            around.node_bits = bits;
        });
        prop_assert_eq!(syn_in(&around, Ip::v4(ip), port), Gate::Drop(Outcome::Dropped));
    }
}
