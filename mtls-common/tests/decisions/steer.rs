use mtls_common::counters::Outcome;
use mtls_common::maps::{
    CAPTURE_V4, CAPTURE_V6, EXCLUDED, Instance, KINDS, Netns, PLAIN_V4, PLAIN_V6, TUNNEL_V4,
    TUNNEL_V6,
};
use mtls_common::probe::Probe;
use mtls_common::steer::{Steering, syn};
use proptest::prelude::*;

use crate::around::{Around, Change, SLOTS, endpoint, here};

/// Where a SYN from `remote` to `local` goes; no mesh network matters here.
fn steer(around: &Around, remote: &str, local: &str) -> Steering {
    let v6 = local.starts_with('[');
    let here = Instance {
        flags: around.flags,
        ..here()
    };
    syn(around, &here, endpoint(remote), endpoint(local), v6)
}

fn kind(steering: Steering) -> (u32, Outcome) {
    match steering {
        Steering::Steer { slot, outcome } => ((slot - SLOTS) / 2, outcome),
        other => panic!("{other:?}"),
    }
}

#[test]
fn plain_text_from_outside_is_dropped_on_every_port() {
    let around = Around::enrolled();
    for (remote, local) in [
        ("10.0.0.9:41000", "10.0.0.1:80"),
        ("10.0.0.9:41000", "10.0.0.1:29184"),
        ("192.0.2.1:1", "10.0.0.1:65535"),
        ("[fd00::9]:41000", "[fd00::1]:80"),
        ("[fd00::9]:41000", "[fd00::1]:29184"),
        ("[fe80::9]:41000", "[fe80::1]:22"),
    ] {
        let steering = steer(&around, remote, local);
        assert_eq!(
            steering,
            Steering::Drop(Outcome::RefusedPlaintext),
            "{remote} {local}"
        );
    }
}

#[test]
fn plain_text_for_a_permissive_workload_goes_to_the_daemon() {
    let around = Around::with(|around| around.flags |= Netns::PERMISSIVE);
    let steering = steer(&around, "10.0.0.9:41000", "10.0.0.1:80");
    assert_eq!(kind(steering), (PLAIN_V4, Outcome::SteeredPlaintext));
    let steering = steer(&around, "[fd00::9]:41000", "[fd00::1]:80");
    assert_eq!(kind(steering), (PLAIN_V6, Outcome::SteeredPlaintext));
    // Tunnels, and what never comes to the daemon, go where they always go.
    let tunnel = steer(&around, "10.0.0.9:41000", "10.0.0.1:15008");
    assert_eq!(kind(tunnel), (TUNNEL_V4, Outcome::SteeredTunnel));
    let own = steer(&around, "10.0.0.1:41000", "10.0.0.1:80");
    assert_eq!(own, Steering::Pass(Outcome::PassedOwnAddress));
    let forged = steer(&around, "[::ffff:10.0.0.9]:41000", "[fd00::1]:80");
    assert_eq!(forged, Steering::Drop(Outcome::RefusedPlaintext));
}

#[test]
fn a_ports_mode_goes_before_the_workloads() {
    for workload in [0, Netns::PERMISSIVE] {
        let around = Around::with(|around| {
            around.flags |= Netns::HAS_PORT_MODES | workload;
            around.strict_ports.push(5432);
            around.permissive_ports.push(8080);
        });
        let strict = steer(&around, "10.0.0.9:41000", "10.0.0.1:5432");
        assert_eq!(strict, Steering::Drop(Outcome::RefusedPlaintext));
        let permissive = steer(&around, "10.0.0.9:41000", "10.0.0.1:8080");
        assert_eq!(kind(permissive), (PLAIN_V4, Outcome::SteeredPlaintext));
    }
}

#[test]
fn a_probe_comes_in_at_the_port_that_is_meant_for_it() {
    let around = Around::with(|around| around.probed = Some((8081, Probe::Open)));
    assert_eq!(
        steer(&around, "10.0.0.254:41000", "10.0.0.1:8081"),
        Steering::Pass(Outcome::PassedProbe)
    );
    assert_eq!(
        steer(&around, "10.0.0.254:41000", "10.0.0.1:8080"),
        Steering::Drop(Outcome::RefusedPlaintext)
    );
}

#[test]
fn tunnels_go_to_the_daemon() {
    let around = Around::enrolled();
    let steering = steer(&around, "10.0.0.9:41000", "10.0.0.1:15008");
    assert_eq!(kind(steering), (TUNNEL_V4, Outcome::SteeredTunnel));
    let steering = steer(&around, "[fd00::9]:41000", "[fd00::1]:15008");
    assert_eq!(kind(steering), (TUNNEL_V6, Outcome::SteeredTunnel));
}

#[test]
fn the_applications_loopback_is_theirs() {
    let around = Around::enrolled();
    for (remote, local) in [
        ("127.0.0.1:41000", "127.0.0.1:80"),
        ("127.0.0.1:41000", "127.0.0.1:15008"),
        ("127.0.0.1:41000", "127.64.1.2:80"),
        ("[::1]:41000", "[::1]:80"),
        ("[::1]:41000", "[::1]:15008"),
        ("[::1]:41000", "[::1]:29184"),
    ] {
        let steering = steer(&around, remote, local);
        assert_eq!(
            steering,
            Steering::Pass(Outcome::PassedLoopback),
            "{remote} {local}"
        );
    }
}

#[test]
fn captured_connections_go_to_the_daemon() {
    let around = Around::with(|around| around.captured = true);
    let steering = steer(&around, "127.0.0.1:41000", "127.64.1.2:29184");
    assert_eq!(kind(steering), (CAPTURE_V4, Outcome::SteeredCapture));
    // Bound to the pod's address before connect().
    let steering = steer(&around, "10.0.0.1:41000", "127.64.1.2:29184");
    assert_eq!(kind(steering), (CAPTURE_V4, Outcome::SteeredCapture));
    let steering = steer(&around, "[::1]:41000", "[::1]:29190");
    assert_eq!(kind(steering), (CAPTURE_V6, Outcome::SteeredCapture));
    let steering = steer(&around, "[fd00::1]:41000", "[::1]:29190");
    assert_eq!(kind(steering), (CAPTURE_V6, Outcome::SteeredCapture));
}

#[test]
fn a_pod_may_call_itself_and_the_daemon_may_dial() {
    let around = Around::with(|around| around.own.push("10.0.0.5".parse().unwrap()));
    for (remote, local) in [
        ("10.0.0.1:41000", "10.0.0.1:80"),
        ("10.0.0.5:41000", "10.0.0.1:80"),
        ("127.128.3.4:41000", "10.0.0.1:80"),
        ("[fd00::1]:41000", "[fd00::1]:80"),
        ("[::1]:41000", "[fd00::1]:80"),
    ] {
        let steering = steer(&around, remote, local);
        assert_eq!(
            steering,
            Steering::Pass(Outcome::PassedOwnAddress),
            "{remote} {local}"
        );
    }
}

#[test]
fn a_workload_behind_its_own_service_has_a_tunnel_to_itself() {
    let around = Around::with(|_| {});
    let steering = steer(&around, "10.0.0.1:41000", "10.0.0.1:15008");
    assert!(
        matches!(
            steering,
            Steering::Steer {
                outcome: Outcome::SteeredTunnel,
                ..
            }
        ),
        "{steering:?}"
    );
}

#[test]
fn exclusions_pass() {
    let cases: [Change; 3] = [
        |around| around.ports.push(80),
        |around| around.workload_bits = EXCLUDED,
        |around| around.node_bits = EXCLUDED,
    ];
    for change in cases {
        let steering = steer(&Around::with(change), "10.0.0.9:41000", "10.0.0.1:80");
        assert_eq!(steering, Steering::Pass(Outcome::PassedExcluded));
    }
}

#[test]
fn a_mapped_source_in_a_v6_packet_is_a_forgery() {
    let around = Around::with(|around| around.node_bits = EXCLUDED);
    for remote in ["[::ffff:127.0.0.6]:41000", "[::ffff:10.0.0.1]:41000"] {
        let steering = steer(&around, remote, "[fd00::1]:80");
        assert_eq!(
            steering,
            Steering::Drop(Outcome::RefusedPlaintext),
            "{remote}"
        );
    }
}

proptest! {
    /// What is steered goes to this workload's own places, or, from an
    /// instance that nobody filled in, to none.
    #[test]
    fn slots_are_the_workloads_own(
        remote: std::net::SocketAddr,
        local: std::net::SocketAddr,
        captured: bool,
        spread in 0..5_u32,
    ) {
        let around = Around::with(|around| around.captured = captured);
        let here = Instance { spread, ..here() };
        let of = |at: std::net::SocketAddr| mtls_common::addr::Endpoint { ip: at.ip().into(), port: at.port() };
        if let Steering::Steer { slot, .. } = syn(&around, &here, of(remote), of(local), local.is_ipv6()) {
            prop_assert!(slot >= here.slot_base);
            prop_assert!(slot < here.slot_base + KINDS * spread.max(1));
        }
    }
}
