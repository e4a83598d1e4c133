use mtls_common::syn::{Held, LONGEST, Syn};
use proptest::prelude::*;

use crate::around::{COOKIE, endpoint};

/// A SYN as Linux sends one, its checksum not yet whole.
const V4: [u8; 60] = [
    0x45, 0x00, 0x00, 0x3c, 0x1c, 0x46, 0x40, 0x00, 0x40, 0x06, 0x20, 0x6f, // IPv4
    127, 0, 0, 1, 127, 64, 1, 2, // from, to
    0x9c, 0x40, 0x72, 0x00, 0x01, 0x02, 0x03, 0x04, 0, 0, 0, 0, // ports, sequence
    0xa0, 0x02, 0xff, 0xd7, 0xfe, 0x30, 0, 0, // header's length, SYN, window, checksum
    2, 4, 0xff, 0xd7, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7,
];

fn held(packet: &[u8]) -> Held {
    let length = packet.len().try_into().unwrap();
    let mut held = Held::new(COOKIE, endpoint("10.0.0.2:5432"), length);
    for (word, bytes) in held.packet.iter_mut().zip(packet.chunks_exact(4)) {
        *word = u32::from_ne_bytes(bytes.try_into().unwrap());
    }
    held
}

/// The same segment under an IPv6 header.
fn v6() -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, 40, 6, 64];
    let localhost = std::net::Ipv6Addr::LOCALHOST.octets();
    packet.extend([localhost, localhost].concat());
    packet.extend(&V4[20..]);
    packet
}

/// The sum over a whole segment and what it is sent between is all ones.
fn adds_up(packet: &[u8]) -> bool {
    let (header, addresses) = match packet[0] >> 4 {
        4 => (20, &packet[12..20]),
        _ => (40, &packet[8..40]),
    };
    let words = |of: &[u8]| -> u64 {
        of.chunks(2)
            .map(|pair| u64::from(u16::from_be_bytes([pair[0], pair[1]])))
            .sum()
    };
    let tcp = &packet[header..];
    let mut sum = words(addresses) + words(tcp) + 6 + tcp.len() as u64;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum == 0xffff
}

#[test]
fn a_syn_goes_on_as_it_was_with_its_checksum() {
    for packet in [V4.to_vec(), v6()] {
        let syn = Syn::parse(&held(&packet)).unwrap();
        let tcp = packet.len() - 40;
        assert_eq!(syn.source().port(), 40000);
        assert_eq!(syn.target().port(), 29184);
        assert_eq!(syn.sequence(), 0x0102_0304);
        let mut whole = syn.whole().as_bytes().to_vec();
        assert!(adds_up(&whole));
        whole[tcp + 16..tcp + 18].copy_from_slice(&packet[tcp + 16..tcp + 18]);
        assert_eq!(whole, packet);
    }
}

#[test]
fn a_refusal_answers_exactly_that_syn() {
    for packet in [V4.to_vec(), v6()] {
        let syn = Syn::parse(&held(&packet)).unwrap();
        let refusal = syn.refusal();
        let bytes = refusal.as_bytes();
        let tcp = bytes.len() - 20;
        assert_eq!(tcp, packet.len() - 40);
        assert!(adds_up(bytes));
        assert_eq!(&bytes[tcp..tcp + 4], [0x72, 0x00, 0x9c, 0x40]);
        assert_eq!(&bytes[tcp + 8..tcp + 12], [1, 2, 3, 5]);
        assert_eq!(bytes[tcp + 13], 0x14, "RST|ACK");
        if tcp == 20 {
            assert_eq!(&bytes[12..20], [127, 64, 1, 2, 127, 0, 0, 1]);
        } else {
            assert_eq!(&bytes[8..24], &packet[24..40]);
        }
    }
}

#[test]
fn only_a_syn_without_data_is_one() {
    let changed = |at: usize, to: u8| {
        let mut packet = V4;
        packet[at] = to;
        Syn::parse(&held(&packet))
    };
    assert!(changed(33, 0x02).is_some());
    for (at, to) in [
        (33, 0x12),
        (33, 0x10),
        (9, 17),
        (0, 0x55),
        (32, 0x50),
        (0, 0x44),
    ] {
        assert_eq!(changed(at, to), None, "byte {at} is {to:#x}");
    }
    let mut short = held(&V4);
    for length in [0, 19, 39, 59, 101, u16::MAX] {
        short.length = length;
        assert_eq!(Syn::parse(&short), None, "{length} bytes");
    }
}

proptest! {
    /// The kernel hands over what applications shape.
    #[test]
    fn nothing_panics(packet in proptest::collection::vec(any::<u8>(), LONGEST), length: u16) {
        let mut held = held(&packet);
        held.length = length;
        if let Some(syn) = Syn::parse(&held) {
            prop_assert!(adds_up(syn.whole().as_bytes()));
            prop_assert!(syn.refusal().as_bytes().len() <= LONGEST);
        }
    }
}
