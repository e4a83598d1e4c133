//! Frames that no honest program sends, put on a wire from inside of a pod by
//! AF_PACKET: the sender of a frame like this is below every hook that looks
//! at connections.

use std::net::{IpAddr, SocketAddr};

use crate::error::{Error, Result, ensure_eq};
use crate::netns::Netns;
use crate::pod::{INTERFACE, Pod};
use crate::process::Output;

/// The address of a network interface.
pub type Mac = [u8; 6];

/// A TCP segment from whom it likes.
#[derive(Clone, Debug)]
pub struct Segment {
    pub source: SocketAddr,
    pub target: SocketAddr,
    pub flags: u8,
    pub payload: Vec<u8>,
}

pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const ACK: u8 = 0x10;
pub const PUSH_ACK: u8 = 0x18;

const IPPROTO_TCP: u8 = 6;

impl Segment {
    pub fn syn(source: SocketAddr, target: SocketAddr) -> Self {
        Self {
            source,
            target,
            flags: SYN,
            payload: Vec::new(),
        }
    }

    /// With data, as of an open connection.
    pub fn data(source: SocketAddr, target: SocketAddr, payload: &[u8]) -> Self {
        Self {
            source,
            target,
            flags: PUSH_ACK,
            payload: payload.to_vec(),
        }
    }

    /// The whole Ethernet frame.
    pub fn frame(&self, from: Mac, to: Mac) -> Vec<u8> {
        let tcp = self.tcp();
        let (kind, header) = match (self.source.ip(), self.target.ip()) {
            (IpAddr::V4(source), IpAddr::V4(target)) => {
                let mut ip = vec![0x45, 0];
                ip.extend(length(20 + tcp.len()));
                ip.extend([0, 0, 0x40, 0, 64, IPPROTO_TCP, 0, 0]);
                ip.extend(source.octets());
                ip.extend(target.octets());
                let sum = checksum(&ip);
                ip[10..12].copy_from_slice(&sum);
                ([0x08, 0x00], ip)
            }
            (source, target) => {
                let mut ip = vec![0x60, 0, 0, 0];
                ip.extend(length(tcp.len()));
                ip.extend([IPPROTO_TCP, 64]);
                ip.extend(sixteen(source));
                ip.extend(sixteen(target));
                ([0x86, 0xdd], ip)
            }
        };
        [&to[..], &from, &kind, &header, &tcp].concat()
    }

    fn tcp(&self) -> Vec<u8> {
        const SEQUENCE: [u8; 4] = 0x1000_0000_u32.to_be_bytes();
        const WINDOW: [u8; 2] = u16::MAX.to_be_bytes();
        let mut tcp = Vec::new();
        tcp.extend(self.source.port().to_be_bytes());
        tcp.extend(self.target.port().to_be_bytes());
        tcp.extend(SEQUENCE);
        tcp.extend([0, 0, 0, 1]);
        tcp.extend([0x50, self.flags]);
        tcp.extend(WINDOW);
        tcp.extend([0, 0, 0, 0]);
        tcp.extend(&self.payload);
        let mut covered = match (self.source.ip(), self.target.ip()) {
            (IpAddr::V4(source), IpAddr::V4(target)) => [source.octets(), target.octets()].concat(),
            (source, target) => [sixteen(source), sixteen(target)].concat(),
        };
        covered.extend([0, IPPROTO_TCP]);
        covered.extend(length(tcp.len()));
        covered.extend(&tcp);
        let sum = checksum(&covered);
        tcp[16..18].copy_from_slice(&sum);
        tcp
    }
}

/// The same frame with its IPv4 header's checksum made right.
pub fn with_ipv4_checksum(mut frame: Vec<u8>) -> Vec<u8> {
    if let Some(header) = frame.get_mut(14..34) {
        header[10..12].fill(0);
        let sum = checksum(header);
        header[10..12].copy_from_slice(&sum);
    }
    frame
}

fn sixteen(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

fn length(bytes: usize) -> [u8; 2] {
    u16::try_from(bytes).unwrap_or(u16::MAX).to_be_bytes()
}

/// The Internet's: RFC 1071.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| {
            let low = pair.get(1).copied().unwrap_or(0);
            u32::from(u16::from_be_bytes([pair[0], low]))
        })
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!u16::try_from(sum).unwrap_or(u16::MAX)).to_be_bytes()
}

/// The address of an interface in a namespace.
pub fn mac(netns: &Netns, interface: &str) -> Result<Mac> {
    let address = netns.run(|| {
        nix::ifaddrs::getifaddrs().map(|all| {
            all.filter(|one| one.interface_name == interface)
                .find_map(|one| one.address?.as_link_addr()?.addr())
        })
    })?;
    match address {
        Ok(Some(mac)) => Ok(mac),
        Ok(None) => Err(Error::Unexpected(format!("there is no {interface}"))),
        Err(error) => Err(Error::Unexpected(format!("listing interfaces: {error}"))),
    }
}

impl Pod {
    /// Address of its interface.
    pub fn mac(&self) -> Result<Mac> {
        mac(self.netns(), INTERFACE)
    }

    /// Runs a program of Perl in this pod; what it prints.
    pub fn perl<A: AsRef<str>>(
        &self,
        program: &str,
        args: impl IntoIterator<Item = A>,
    ) -> Result<String> {
        let args: Vec<_> = args
            .into_iter()
            .map(|arg| arg.as_ref().to_owned())
            .collect();
        let whole = ["-MErrno", "-e", program].map(str::to_owned).into_iter();
        self.run("perl", whole.chain(args))
            .and_then(Output::success)
    }

    /// Puts a frame on this pod's wire, `times` times, by a packet socket of
    /// the pod's own.
    pub fn inject(&self, frame: &[u8], times: usize) -> Result {
        const INJECT: &str = r#"
            my ($name, $times, $frame) = @ARGV;
            socket(my $s, 17, 3, 0) or die "AF_PACKET: $!";
            my $request = pack('a16 x24', $name);
            ioctl($s, 0x8933, $request) or die "index of $name: $!";
            my $to = pack('S n l S C C a8', 17, 3, unpack('x16 l', $request), 0, 0, 6, '');
            for (1 .. $times) {
                defined send($s, pack('H*', $frame), 0, $to) or die "send: $!";
            }
            print 'sent';
        "#;
        let hex: String = frame.iter().map(|byte| format!("{byte:02x}")).collect();
        let said = self.perl(INJECT, [INTERFACE, &times.to_string(), &hex])?;
        ensure_eq(said.as_str(), "sent", "a forged frame")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_add_up() {
        for (source, target) in [("10.0.0.1:1", "10.0.0.2:2"), ("[fd00::1]:1", "[fd00::2]:2")] {
            let segment = Segment::data(source.parse().unwrap(), target.parse().unwrap(), b"odd");
            let frame = segment.frame([1; 6], [2; 6]);
            let ip = &frame[14..];
            if source.starts_with('[') {
                let mut covered = ip[8..40].to_vec();
                covered.extend([0, IPPROTO_TCP]);
                covered.extend(length(ip.len() - 40));
                covered.extend(&ip[40..]);
                assert_eq!(checksum(&covered), [0, 0]);
            } else {
                assert_eq!(checksum(&ip[..20]), [0, 0]);
                assert_eq!(usize::from(ip[3]), ip.len());
            }
        }
    }
}
