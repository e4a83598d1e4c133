//! What the test application is told to do, and what it reports: scripts for
//! TCP connections, written by stories, played by `mtls-test-app` in pods.
//! (A socket belongs to the cgroup of the process that makes it, so that only
//! a process in the pod can make the pod's sockets.)

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// One job for one process of the application.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Task {
    Serve(Serve),
    Connect(Connect),
    UdpEcho {
        listen: Vec<SocketAddr>,
    },
    UdpAsk {
        from: Option<SocketAddr>,
        to: SocketAddr,
        how: UdpHow,
    },
    /// The health service of gRPC.
    HealthServe {
        listen: SocketAddr,
    },
    HealthAsk {
        to: SocketAddr,
    },
}

/// Listens, and plays `script` on every connection it accepts.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Serve {
    pub listen: Vec<SocketAddr>,
    pub socket: SocketKind,
    pub script: Vec<Step>,
}

/// Opens connections, and plays `script` on each.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Connect {
    /// Taken in turn.
    pub to: Vec<SocketAddr>,
    pub bind: Option<SocketAddr>,
    pub how: How,
    pub socket: SocketKind,
    /// How many in all, and how many of them at the same time.
    pub connections: usize,
    pub at_once: usize,
    pub script: Vec<Step>,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct SocketKind {
    pub mptcp: bool,
    /// An IPv6 socket that takes IPv6 only.
    pub v6_only: bool,
    /// Accept TCP fast open (listeners).
    pub fast_open: bool,
    /// Do without SO_REUSEADDR.
    pub no_reuse: bool,
}

/// The system calls by which a connection is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum How {
    /// connect(2) answers EINPROGRESS; writable tells the end.
    #[default]
    NonBlocking,
    Blocking,
    IoUring,
    /// sendto(2) with MSG_FASTOPEN and `FIRST_BYTE`, which the server hears.
    FastOpenSend,
    /// The socket option TCP_FASTOPEN_CONNECT; the first step must send.
    FastOpenConnect,
}

/// Sent by `How::FastOpenSend` with the SYN.
pub const FIRST_BYTE: &str = "!";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UdpHow {
    Connected,
    SendTo,
}

/// One step on a connection. Bytes are those of `pattern`, from its start in
/// every step, and the receiver compares every one of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    Send {
        bytes: u64,
        seed: u64,
    },
    /// Until the other side cuts the connection.
    SendForEver {
        seed: u64,
    },
    Receive {
        bytes: u64,
        seed: u64,
    },
    /// Until the other side ends its direction.
    ReceiveToEnd {
        seed: u64,
    },
    /// Sends and receives at the same time.
    Exchange {
        bytes: u64,
        send: u64,
        receive: u64,
    },
    /// Sends back what comes, until the other side ends its direction.
    Echo,
    /// A text, as it is.
    Say(String),
    Hear(String),
    /// Waits until the story says `go`.
    Hold,
    /// Ends our direction, leaves the other one open.
    HalfClose,
    /// Waits for the end of the other direction; a byte is a failure.
    ExpectEnd,
    /// Closes with a RST.
    Reset,
}

/// A line that the application prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// Listening, or ready to begin.
    Ready {
        listening: Vec<SocketAddr>,
    },
    /// So many connections wait in `Hold`: all that are open.
    Held {
        connections: usize,
    },
    Ended(Ended),
    /// A datagram came back, from there.
    Datagram {
        from: SocketAddr,
    },
    /// The health service says that its server serves.
    Healthy,
    /// The task could not be begun, or its socket failed.
    Failed {
        what: String,
        error: String,
    },
}

/// How a connection ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// getsockname() and getpeername(), of the server from accept(), right
    /// after the connection stood.
    pub local: Option<SocketAddr>,
    pub peer: Option<SocketAddr>,
    pub connect_micros: u64,
    pub sent: u64,
    pub received: u64,
    /// First byte received that was not the expected one.
    pub corrupt_at: Option<u64>,
    /// Step that failed (`None`: connecting) and the name of the error, such
    /// as ECONNREFUSED; END where the other side ended too early.
    pub failure: Option<Failure>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub step: Option<usize>,
    pub error: String,
}

impl Ended {
    /// All steps done, every byte as expected.
    pub fn is_well(&self) -> bool {
        self.failure.is_none() && self.corrupt_at.is_none()
    }

    /// Name of the error that ended it; empty for a good end.
    pub fn error(&self) -> &str {
        self.failure.as_ref().map_or("", |f| f.error.as_str())
    }

    pub fn failed_to_connect(&self) -> bool {
        self.failure.as_ref().is_some_and(|f| f.step.is_none())
    }
}

const BLOCK: usize = 4096;
const MARK: usize = 32;

/// The 32 bytes that stand at the head of every 4 KiB of a pattern: if a
/// capture contains them, plain text was on the wire.
pub fn mark(seed: u64) -> [u8; MARK] {
    let mut mark = *b"mtls-tests-plaintext-0123456789!";
    let digits = format!("{:010}", seed % 10_000_000_000);
    mark[21..31].copy_from_slice(digits.as_bytes());
    mark
}

/// Fills `out` with the bytes of a pattern from `offset` on: the mark, then
/// numbers that depend on seed and position, so that a lost, doubled or moved
/// block is noticed.
pub fn pattern(seed: u64, offset: u64, out: &mut [u8]) {
    let block = BLOCK as u64;
    let mut at = offset;
    let mut rest = out;
    while !rest.is_empty() {
        let within = usize::try_from(at % block).unwrap_or(0);
        let full = pattern_block(seed, at / block);
        let n = rest.len().min(BLOCK - within);
        let (head, tail) = rest.split_at_mut(n);
        head.copy_from_slice(&full[within..within + n]);
        at += n as u64;
        rest = tail;
    }
}

fn pattern_block(seed: u64, number: u64) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut state = seed.rotate_left(32) ^ number.wrapping_mul(0xd134_2543_de82_ef95);
    for word in block.chunks_exact_mut(8) {
        // SplitMix64, by Sebastiano Vigna, in the public domain.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word.copy_from_slice(&(z ^ (z >> 31)).to_le_bytes());
    }
    block[..MARK].copy_from_slice(&mark(seed));
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_the_same_however_it_is_cut() {
        let mut whole = vec![0; 3 * BLOCK];
        pattern(7, 0, &mut whole);
        let mut cut = vec![0; whole.len()];
        let mut at = 0;
        for n in [1, 31, 4000, 97, 5000].into_iter().cycle() {
            let n = n.min(whole.len() - at);
            pattern(7, at as u64, &mut cut[at..at + n]);
            at += n;
            if at == whole.len() {
                break;
            }
        }
        assert_eq!(whole, cut);
        assert_eq!(&whole[BLOCK..BLOCK + MARK], mark(7));
    }

    #[test]
    fn moved_blocks_and_other_seeds_differ() {
        assert_ne!(pattern_block(1, 0), pattern_block(1, 1));
        assert_ne!(pattern_block(1, 0)[MARK..], pattern_block(2, 0)[MARK..]);
        assert_ne!(mark(1), mark(2));
    }
}
