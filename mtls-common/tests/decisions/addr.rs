use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use mtls_common::addr::{
    CAPTURE_PORT, CAPTURE_PORTS_V6, Endpoint, Ip, capture_endpoint, dial_address,
    is_capture_port_v6,
};
use proptest::prelude::*;

use crate::around::endpoint;

fn ip(text: &str) -> Ip {
    text.parse::<IpAddr>().unwrap().into()
}

#[test]
fn families_are_told_apart() {
    assert!(ip("10.0.0.1").is_v4());
    assert!(ip("::ffff:10.0.0.1").is_v4());
    assert_eq!(ip("::ffff:10.0.0.1"), ip("10.0.0.1"));
    for v6 in ["::", "::1", "::10.0.0.1", "fd00::1", "64:ff9b::10.0.0.1"] {
        assert!(!ip(v6).is_v4(), "{v6}");
    }
}

#[test]
fn loopback_is_all_of_127_and_one_of_v6() {
    for yes in ["127.0.0.1", "127.255.255.255", "127.64.0.1", "::1"] {
        assert!(ip(yes).is_loopback(), "{yes}");
    }
    for no in [
        "126.255.255.255",
        "128.0.0.0",
        "::",
        "::2",
        "::127.0.0.1",
        "fe80::1",
    ] {
        assert!(!ip(no).is_loopback(), "{no}");
    }
    assert!(ip("0.0.0.0").is_unspecified());
    assert!(ip("::").is_unspecified());
    assert!(!ip("0.0.0.1").is_unspecified());
}

#[test]
fn the_ranges_end_where_they_should() {
    for (text, capture, dial) in [
        ("127.63.255.255", false, false),
        ("127.64.0.0", true, false),
        ("127.127.255.255", true, false),
        ("127.128.0.0", false, true),
        ("127.191.255.255", false, true),
        ("127.192.0.0", false, false),
        ("10.64.0.0", false, false),
        ("::1", false, false),
    ] {
        assert_eq!(ip(text).is_capture_v4(), capture, "{text}");
        assert_eq!(ip(text).is_dial_v4(), dial, "{text}");
    }
    assert!(!is_capture_port_v6(CAPTURE_PORT - 1));
    assert!(is_capture_port_v6(CAPTURE_PORT));
    assert!(is_capture_port_v6(CAPTURE_PORT + CAPTURE_PORTS_V6 - 1));
    assert!(!is_capture_port_v6(CAPTURE_PORT + CAPTURE_PORTS_V6));
}

#[test]
fn destinations_are_spread_over_the_range() {
    let mut seen = std::collections::HashSet::new();
    let mut ports = [0_u32; CAPTURE_PORTS_V6 as usize];
    for low in 0..1_000_u32 {
        let to = Endpoint {
            ip: Ip::from(Ipv4Addr::from_bits(0x0a00_0000 + low)),
            port: 5432,
        };
        seen.insert(IpAddr::from(capture_endpoint(to, false).ip));
        ports[usize::from(capture_endpoint(to, true).port - CAPTURE_PORT)] += 1;
    }
    // 1,000 of 4 million: a collision is an accident.
    assert!(seen.len() > 990, "{} of 1000 addresses", seen.len());
    assert!(ports.iter().all(|&n| (3..40).contains(&n)), "{ports:?}");
}

proptest! {
    #[test]
    fn captured_connections_stay_in_their_range(to: SocketAddr, only_v6: bool) {
        let to = Endpoint { ip: to.ip().into(), port: to.port() };
        let captured = capture_endpoint(to, only_v6);
        if only_v6 {
            prop_assert_eq!(captured.ip, Ip::LOCALHOST_V6);
            prop_assert!(is_capture_port_v6(captured.port));
        } else {
            prop_assert!(captured.ip.is_capture_v4());
            prop_assert_eq!(captured.port, CAPTURE_PORT);
        }
    }

    #[test]
    fn dialling_addresses_stay_in_their_range(client: IpAddr, attempt: u16) {
        prop_assert!(Ip::from(dial_address(client, attempt)).is_dial_v4());
    }

    #[test]
    fn addresses_come_back(ip: IpAddr) {
        prop_assert_eq!(IpAddr::from(Ip::from(ip)), ip.to_canonical());
    }
}

#[test]
fn words_are_in_network_order() {
    let bytes: Vec<u8> = endpoint("10.1.2.3:0")
        .ip
        .0
        .iter()
        .flat_map(|word| word.to_ne_bytes())
        .collect();
    assert_eq!(bytes[10..], [0xff, 0xff, 10, 1, 2, 3]);
}
