//! What a capture saw.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use memchr::memmem::Finder;

use super::packet::{Packet, Segment, parse};
use super::pcap::Reader;
use super::stream::Direction;
use super::tls::{Judge, Judged, Side};
use crate::error::{Result, ensure};

/// The judgement on a whole capture.
#[derive(Debug)]
pub struct Report {
    pub connections: Vec<Connection>,
    /// TCP that belongs to no connection whose beginning was seen, or cannot
    /// be read: bytes of payload.
    pub stray_bytes: u64,
    /// Frames of everything that is not TCP, by protocol.
    pub other: BTreeMap<String, u64>,
    pub frames: u64,
    /// Frames that the kernel had no room for.
    pub lost: u64,
    file: PathBuf,
}

/// A TCP connection, from its SYN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    pub client: SocketAddr,
    pub server: SocketAddr,
    /// Both hellos were seen and agree on TLS 1.3.
    pub is_tls: bool,
    pub inside: u64,
    pub outside: u64,
    /// Beyond a gap, or contradicting what was seen before.
    pub unverified: u64,
    pub complaint: Option<String>,
}

impl Report {
    /// Payload bytes inside of TLS records.
    pub fn inside(&self) -> u64 {
        self.connections.iter().map(|c| c.inside).sum()
    }

    /// Payload bytes that are not, or that nobody can vouch for.
    pub fn outside(&self) -> u64 {
        let in_connections: u64 = self
            .connections
            .iter()
            .map(|c| c.outside + c.unverified)
            .sum();
        in_connections + self.stray_bytes
    }

    /// Connections with a TLS 1.3 handshake.
    pub fn tls_connections(&self) -> usize {
        self.connections.iter().filter(|c| c.is_tls).count()
    }

    /// Fails unless there was traffic, all of it was seen, and every byte of
    /// TCP payload lay inside of TLS 1.3.
    pub fn ensure_only_tls(&self) -> Result {
        self.ensure_nothing_in_clear()?;
        ensure(self.inside() > 0, || {
            format!("the capture saw no TLS at all\n{self}")
        })
    }

    /// The same for a wire that may have been silent.
    pub fn ensure_nothing_in_clear(&self) -> Result {
        ensure(self.lost == 0, || {
            format!("the capture lost {} frames\n{self}", self.lost)
        })?;
        ensure(self.outside() == 0, || {
            format!(
                "{} bytes of TCP payload outside of TLS records\n{self}",
                self.outside()
            )
        })
    }

    /// Fails if any of the texts was on the wire, in a frame or across several.
    pub fn ensure_absent(&self, needles: &[&[u8]]) -> Result {
        for (needle, found) in needles.iter().zip(self.contains(needles)?) {
            ensure(!found, || {
                format!(
                    "{:?} was on the wire in clear\n{self}",
                    String::from_utf8_lossy(needle)
                )
            })?;
        }
        Ok(())
    }

    /// Which of the texts were on the wire, in a frame or across several.
    pub fn contains(&self, needles: &[&[u8]]) -> Result<Vec<bool>> {
        let finders: Vec<Finder<'_>> = needles.iter().map(Finder::new).collect();
        let mut found = vec![false; needles.len()];
        let mut table = Table::new(|| Searched(<[Vec<u8>; 2]>::default()));
        let mut reader = Reader::open(&self.file)?;
        while let Some(frame) = reader.next()? {
            look(&finders, &mut found, frame.bytes);
            if let Packet::Tcp(segment) = parse(frame.bytes, frame.is_cut) {
                table.segment(&segment, |Searched(tails), side, bytes| {
                    let tail = &mut tails[side as usize];
                    tail.extend_from_slice(bytes);
                    look(&finders, &mut found, tail);
                    let longest = needles.iter().map(|n| n.len()).max().unwrap_or(0);
                    tail.drain(..tail.len().saturating_sub(longest));
                });
            }
        }
        Ok(found)
    }

    /// The frames, for tcpdump and Wireshark.
    pub fn file(&self) -> &Path {
        &self.file
    }
}

/// The last bytes of both directions, where a text may have begun.
struct Searched([Vec<u8>; 2]);

fn look(finders: &[Finder<'_>], found: &mut [bool], bytes: &[u8]) {
    for (finder, found) in finders.iter().zip(found) {
        *found = *found || finder.find(bytes).is_some();
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} TCP connections, {} with TLS 1.3; {} payload bytes inside of TLS, {} outside; {} frames lost",
            self.connections.len(),
            self.tls_connections(),
            self.inside(),
            self.outside(),
            self.lost
        )?;
        let ill = |c: &&Connection| c.outside + c.unverified > 0;
        for c in self.connections.iter().filter(ill).take(10) {
            writeln!(
                f,
                "{} -> {}: {} bytes outside, {} unverified: {}",
                c.client,
                c.server,
                c.outside,
                c.unverified,
                c.complaint.as_deref().unwrap_or("a gap or a contradiction")
            )?;
        }
        if self.stray_bytes > 0 {
            writeln!(f, "{} bytes of TCP out of any connection", self.stray_bytes)?;
        }
        for (protocol, frames) in &self.other {
            writeln!(f, "{protocol}: {frames} frames")?;
        }
        Ok(())
    }
}

pub(super) fn analyse(file: &Path, lost: u64) -> Result<Report> {
    let mut report = Report {
        connections: Vec::new(),
        stray_bytes: 0,
        other: BTreeMap::new(),
        frames: 0,
        lost,
        file: file.to_owned(),
    };
    let mut table = Table::new(Judge::default);
    let mut reader = Reader::open(file)?;
    while let Some(frame) = reader.next()? {
        report.frames += 1;
        match parse(frame.bytes, frame.is_cut) {
            Packet::Tcp(segment) => table.segment(&segment, Judge::take),
            Packet::UnreadableTcp { bytes } => report.stray_bytes += bytes as u64,
            Packet::Other(name) => *report.other.entry(name).or_default() += 1,
        }
    }
    report.stray_bytes += table.stray;
    report.connections = table.tracks.into_iter().map(Connection::from).collect();
    Ok(report)
}

/// Connections by their addresses; a new SYN between the same addresses
/// begins another one.
struct Table<T> {
    tracks: Vec<Track<T>>,
    /// Place in `tracks` of the latest connection between two addresses, by
    /// (client, server).
    latest: HashMap<(SocketAddr, SocketAddr), usize>,
    stray: u64,
    state: fn() -> T,
}

struct Track<T> {
    client: SocketAddr,
    server: SocketAddr,
    /// By `Side`; `None` until its SYN was seen.
    directions: [Option<Direction>; 2],
    stray: u64,
    state: T,
}

impl<T> Table<T> {
    fn new(state: fn() -> T) -> Self {
        Self {
            tracks: Vec::new(),
            latest: HashMap::new(),
            stray: 0,
            state,
        }
    }

    fn segment(&mut self, segment: &Segment<'_>, mut deliver: impl FnMut(&mut T, Side, &[u8])) {
        let forth = (segment.source, segment.destination);
        let back = (segment.destination, segment.source);
        if segment.syn && !segment.ack {
            self.begin(forth, segment.sequence);
        }
        let (place, side) = match (self.latest.get(&forth), self.latest.get(&back)) {
            // Both: the addresses have changed roles; the later one is meant.
            (Some(&forth), Some(&back)) if back > forth => (back, Side::Server),
            (Some(&forth), _) => (forth, Side::Client),
            (None, Some(&back)) => (back, Side::Server),
            (None, None) => {
                self.stray += segment.payload.len() as u64;
                return;
            }
        };
        let track = &mut self.tracks[place];
        let slot = &mut track.directions[side as usize];
        if segment.syn && side == Side::Server {
            slot.get_or_insert_with(|| Direction::new(segment.sequence));
        }
        let Some(direction) = slot else {
            track.stray += segment.payload.len() as u64;
            return;
        };
        // A SYN takes a number of its own, before its payload (TCP fast open).
        let sequence = segment.sequence.wrapping_add(u32::from(segment.syn));
        direction.take(sequence, segment.payload, |bytes| {
            deliver(&mut track.state, side, bytes);
        });
    }

    fn begin(&mut self, addresses: (SocketAddr, SocketAddr), initial: u32) {
        let again = self.latest.get(&addresses).is_some_and(|&place| {
            self.tracks[place].directions[Side::Client as usize]
                .as_ref()
                .is_some_and(|direction| direction.began_with(initial))
        });
        if again {
            return;
        }
        self.latest.insert(addresses, self.tracks.len());
        self.tracks.push(Track {
            client: addresses.0,
            server: addresses.1,
            directions: [Some(Direction::new(initial)), None],
            stray: 0,
            state: (self.state)(),
        });
    }
}

impl From<Track<Judge>> for Connection {
    fn from(track: Track<Judge>) -> Self {
        let (Judged { inside, outside }, is_tls, complaint) = track.state.finish();
        let directions = track.directions.iter().flatten();
        Self {
            client: track.client,
            server: track.server,
            is_tls,
            inside,
            outside,
            unverified: track.stray + directions.map(Direction::unverified).sum::<u64>(),
            complaint,
        }
    }
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
