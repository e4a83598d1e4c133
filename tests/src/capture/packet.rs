//! Headers: Ethernet, IPv4 and IPv6 with their options, TCP.

use std::net::{IpAddr, SocketAddr};

/// What a frame is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Packet<'a> {
    Tcp(Segment<'a>),
    /// TCP that cannot be put into a stream: a fragment, or cut or malformed
    /// headers. Whatever it carries was not seen to be inside of TLS.
    UnreadableTcp {
        bytes: usize,
    },
    /// Anything else, by name.
    Other(String),
}

/// A TCP segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment<'a> {
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
    pub(super) sequence: u32,
    pub(super) syn: bool,
    pub(super) ack: bool,
    pub(super) payload: &'a [u8],
}

const TCP: u8 = 6;

pub(super) fn parse(frame: &[u8], is_cut: bool) -> Packet<'_> {
    let Some((header, rest)) = frame.split_at_checked(14) else {
        return Packet::Other("short frame".into());
    };
    let parsed = match [header[12], header[13]] {
        [0x08, 0x00] => ipv4(rest),
        [0x86, 0xdd] => ipv6(rest),
        [0x08, 0x06] => Packet::Other("ARP".into()),
        [high, low] => Packet::Other(format!("ethertype {high:02x}{low:02x}")),
    };
    match parsed {
        Packet::Tcp(segment) if is_cut => Packet::UnreadableTcp {
            bytes: segment.payload.len(),
        },
        other => other,
    }
}

fn ipv4(packet: &[u8]) -> Packet<'_> {
    let malformed = || Packet::Other("malformed IPv4".into());
    if packet.len() < 20 || packet[0] >> 4 != 4 {
        return malformed();
    }
    let header = usize::from(packet[0] & 0xf) * 4;
    // A length of 0 stands for one that does not fit (segmentation offload).
    let total = match usize::from(u16::from_be_bytes([packet[2], packet[3]])) {
        0 => packet.len(),
        total => total.min(packet.len()),
    };
    let fragment = u16::from_be_bytes([packet[6], packet[7]]) & 0x3fff != 0;
    let Some(payload) = packet.get(header..total).filter(|_| header >= 20) else {
        return malformed();
    };
    let octets = |at: usize| [packet[at], packet[at + 1], packet[at + 2], packet[at + 3]];
    transport(
        packet[9],
        fragment,
        octets(12).into(),
        octets(16).into(),
        payload,
    )
}

fn ipv6(packet: &[u8]) -> Packet<'_> {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const AUTHENTICATION: u8 = 51;
    const DESTINATION: u8 = 60;
    let malformed = || Packet::Other("malformed IPv6".into());
    if packet.len() < 40 || packet[0] >> 4 != 6 {
        return malformed();
    }
    let mut payload = match usize::from(u16::from_be_bytes([packet[4], packet[5]])) {
        0 => &packet[40..],
        length => &packet[40..packet.len().min(40 + length)],
    };
    let octets = |at: usize| {
        let mut octets = [0; 16];
        octets.copy_from_slice(&packet[at..at + 16]);
        octets
    };
    let mut next = packet[6];
    let mut fragment = false;
    while let HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION = next {
        let &[following, length, ..] = payload else {
            return malformed();
        };
        let length = match next {
            FRAGMENT => {
                let Some(&[high, low]) = payload.get(2..4) else {
                    return malformed();
                };
                // Offset or more-fragments; an atomic fragment has neither.
                fragment |= u16::from_be_bytes([high, low]) & 0xfff9 != 0;
                8
            }
            AUTHENTICATION => (usize::from(length) + 2) * 4,
            _ => (usize::from(length) + 1) * 8,
        };
        let Some(rest) = payload.get(length..) else {
            return malformed();
        };
        (next, payload) = (following, rest);
    }
    transport(next, fragment, octets(8).into(), octets(24).into(), payload)
}

fn transport(
    protocol: u8,
    fragment: bool,
    source: IpAddr,
    destination: IpAddr,
    payload: &[u8],
) -> Packet<'_> {
    if protocol != TCP {
        return Packet::Other(match protocol {
            1 => "ICMP".into(),
            2 => "IGMP".into(),
            17 => "UDP".into(),
            58 => "ICMPv6".into(),
            other => format!("IP protocol {other}"),
        });
    }
    let unreadable = Packet::UnreadableTcp {
        bytes: payload.len(),
    };
    if fragment || payload.len() < 20 {
        return unreadable;
    }
    let header = usize::from(payload[12] >> 4) * 4;
    let Some(data) = payload.get(header..).filter(|_| header >= 20) else {
        return unreadable;
    };
    let flags = payload[13];
    Packet::Tcp(Segment {
        source: SocketAddr::new(source, u16::from_be_bytes([payload[0], payload[1]])),
        destination: SocketAddr::new(destination, u16::from_be_bytes([payload[2], payload[3]])),
        sequence: u32::from_be_bytes([payload[4], payload[5], payload[6], payload[7]]),
        syn: flags & 0x02 != 0,
        ack: flags & 0x10 != 0,
        payload: data,
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A TCP segment over IPv4 in an Ethernet frame.
    pub(in crate::capture) fn frame_v4(segment: &Segment<'_>) -> Vec<u8> {
        let (IpAddr::V4(source), IpAddr::V4(destination)) =
            (segment.source.ip(), segment.destination.ip())
        else {
            panic!("IPv4 only");
        };
        let tcp = tcp(segment);
        let mut frame = vec![0; 12];
        frame.extend([0x08, 0x00, 0x45, 0]);
        frame.extend(u16::try_from(20 + tcp.len()).unwrap().to_be_bytes());
        frame.extend([0, 0, 0x40, 0, 64, TCP, 0, 0]);
        frame.extend(source.octets());
        frame.extend(destination.octets());
        frame.extend(tcp);
        frame
    }

    /// The same over IPv6, behind extension headers.
    fn frame_v6(segment: &Segment<'_>, first: u8, extensions: &[u8]) -> Vec<u8> {
        let (IpAddr::V6(source), IpAddr::V6(destination)) =
            (segment.source.ip(), segment.destination.ip())
        else {
            panic!("IPv6 only");
        };
        let tcp = tcp(segment);
        let mut frame = vec![0; 12];
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        frame.extend(
            u16::try_from(extensions.len() + tcp.len())
                .unwrap()
                .to_be_bytes(),
        );
        frame.extend([first, 64]);
        frame.extend(source.octets());
        frame.extend(destination.octets());
        frame.extend(extensions);
        frame.extend(tcp);
        frame
    }

    fn tcp(segment: &Segment<'_>) -> Vec<u8> {
        let mut tcp = Vec::new();
        tcp.extend(segment.source.port().to_be_bytes());
        tcp.extend(segment.destination.port().to_be_bytes());
        tcp.extend(segment.sequence.to_be_bytes());
        tcp.extend([0; 4]);
        let flags = u8::from(segment.syn) * 2 + u8::from(segment.ack) * 16;
        // A header of 24 bytes: with an option.
        tcp.extend([6 << 4, flags, 0xff, 0xff, 0, 0, 0, 0, 1, 1, 1, 1]);
        tcp.extend(segment.payload);
        tcp
    }

    fn segment<'a>(source: &str, destination: &str, payload: &'a [u8]) -> Segment<'a> {
        Segment {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            sequence: 7,
            syn: false,
            ack: true,
            payload,
        }
    }

    #[test]
    fn reads_ipv4_and_ignores_ethernet_padding() {
        let segment = segment("10.0.1.2:40000", "10.0.2.3:80", b"GET /");
        let mut frame = frame_v4(&segment);
        frame.extend([0; 9]);
        assert_eq!(parse(&frame, false), Packet::Tcp(segment));
        assert_eq!(
            parse(&frame, true),
            Packet::UnreadableTcp { bytes: 5 },
            "a cut frame is not seen whole"
        );
    }

    #[test]
    fn walks_ipv6_extension_headers() {
        let segment = segment("[fd00:1::2]:40000", "[fd00:2::3]:80", b"GET /");
        assert_eq!(
            parse(&frame_v6(&segment, TCP, &[]), false),
            Packet::Tcp(segment)
        );
        // Destination options, then hop-by-hop options.
        let options = [0, 0, 1, 4, 0, 0, 0, 0, TCP, 0, 1, 4, 0, 0, 0, 0];
        assert_eq!(
            parse(&frame_v6(&segment, 60, &options), false),
            Packet::Tcp(segment)
        );
        // An atomic fragment is whole; the first of several is not.
        let atomic = [TCP, 0, 0, 0, 0, 0, 0, 9];
        assert_eq!(
            parse(&frame_v6(&segment, 44, &atomic), false),
            Packet::Tcp(segment)
        );
        let first = [TCP, 0, 0, 1, 0, 0, 0, 9];
        assert_eq!(
            parse(&frame_v6(&segment, 44, &first), false),
            Packet::UnreadableTcp { bytes: 29 }
        );
    }

    #[test]
    fn fragments_of_ipv4_are_not_taken_for_whole() {
        let mut frame = frame_v4(&segment("10.0.1.2:40000", "10.0.2.3:80", b"GET /"));
        frame[20] = 0x20; // more fragments
        assert_eq!(parse(&frame, false), Packet::UnreadableTcp { bytes: 29 });
    }

    #[test]
    fn names_other_protocols_and_survives_nonsense() {
        let other = |frame: &[u8]| match parse(frame, false) {
            Packet::Other(name) => name,
            packet => panic!("{packet:?}"),
        };
        let mut arp = vec![0; 42];
        arp[12..14].copy_from_slice(&[8, 6]);
        assert_eq!(other(&arp), "ARP");
        let mut udp = frame_v4(&segment("10.0.1.2:53", "10.0.2.3:53", b""));
        udp[23] = 17;
        assert_eq!(other(&udp), "UDP");
        let whole = frame_v6(
            &segment("[fd00:1::2]:1", "[fd00:2::3]:2", b"x"),
            60,
            &[6; 8],
        );
        for length in 0..whole.len() {
            let _ = parse(&whole[..length], false);
        }
        assert_eq!(other(&[0; 5]), "short frame");
    }
}
