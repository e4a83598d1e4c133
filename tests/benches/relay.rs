//! A wire with a distance: instead of the wire between the nodes, a packet
//! relay over TUN that holds every packet back for a while, and loses some.
//! It treats all candidates alike, since it knows nothing of them.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use mtls_tests::deadline::Stopwatch;
use mtls_tests::{Doing, Node, Result};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::time::TimeSpec;

const DEVICE: &str = "relay";
/// Of packets under way in one direction, as a router's queue would be; what
/// comes when it is full is lost.
const QUEUE: usize = 64 << 20;
/// Read at once before what is due is written.
const BURST: usize = 64;
/// A packet with all its segments, and the header before it.
const LARGEST: usize = (64 << 10) + 256;

/// How far, and how bad.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Distance {
    /// There and back.
    pub(crate) round_trip: Duration,
    /// Of each direction: one packet in so many is lost; 0 for none.
    pub(crate) one_lost_in: u32,
}

/// Until it is dropped.
pub(crate) struct Relay {
    stop: Arc<EventFd>,
    threads: Vec<JoinHandle<io::Result<()>>>,
}

impl Relay {
    /// Puts itself in the place of the wire between two nodes, whose pods have
    /// addresses in 10.0.1.0/24 and 10.0.2.0/24.
    pub(crate) fn between(a: &Node, b: &Node, distance: Distance) -> Result<Self> {
        // A packet is lost with all its segments, so where packets are lost
        // they are single ones.
        let whole = distance.one_lost_in == 0;
        let open = |node: &Node, far: u8| -> Result<File> {
            let device = node
                .netns()
                .run(|| tun(whole))?
                .doing(|| "making a TUN device (is /dev/net/tun there?)")?;
            node.netns().ip(&format!(
                "link set {DEVICE} txqueuelen 10000 up\n\
                 route replace 10.0.{far}.0/24 dev {DEVICE}\n"
            ))?;
            Ok(device)
        };
        let (at_a, at_b) = (open(a, 2)?, open(b, 1)?);
        let stop = EventFd::from_flags(EfdFlags::EFD_CLOEXEC).doing(|| "making an eventfd")?;
        let stop = Arc::new(stop);
        let mut threads = Vec::new();
        for (from, to, seed) in [(&at_a, &at_b, 1), (&at_b, &at_a, 2)] {
            let from = from.try_clone().doing(|| "copying a descriptor")?;
            let to = to.try_clone().doing(|| "copying a descriptor")?;
            let mut way = Way {
                from,
                to,
                hold: distance.round_trip / 2,
                loss: Loss::new(distance.one_lost_in, seed),
                queue: VecDeque::new(),
                queued: 0,
                spare: Vec::new(),
            };
            let stop = Arc::clone(&stop);
            threads.push(std::thread::spawn(move || way.run(&stop)));
        }
        Ok(Self { stop, threads })
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // Read by nobody: it stays readable for both threads.
        let _ = self.stop.write(1);
        for thread in self.threads.drain(..) {
            // What failed was seen by the measurement as silence.
            let _ = thread.join();
        }
    }
}

/// One direction.
struct Way {
    from: File,
    to: File,
    hold: Duration,
    loss: Loss,
    /// When each is due, on the direction's clock.
    queue: VecDeque<(Duration, Vec<u8>)>,
    queued: usize,
    spare: Vec<Vec<u8>>,
}

impl Way {
    fn run(&mut self, stop: &EventFd) -> io::Result<()> {
        let clock = Stopwatch::start();
        loop {
            let wait = self
                .queue
                .front()
                .map(|(due, _)| TimeSpec::from(due.saturating_sub(clock.elapsed())));
            let mut fds = [
                PollFd::new(self.from.as_fd(), PollFlags::POLLIN),
                PollFd::new(stop.as_fd(), PollFlags::POLLIN),
            ];
            match ppoll(&mut fds, wait, None) {
                Ok(_) | Err(nix::Error::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
            if fds[1].any().unwrap_or(false) {
                return Ok(());
            }
            self.take_in(&clock)?;
            self.let_out(&clock);
        }
    }

    fn take_in(&mut self, clock: &Stopwatch) -> io::Result<()> {
        for _ in 0..BURST {
            let mut packet = self.spare.pop().unwrap_or_else(|| vec![0; LARGEST]);
            packet.resize(LARGEST, 0);
            let length = match self.from.read(&mut packet) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.spare.push(packet);
                    return Ok(());
                }
                Err(error) => return Err(error),
            };
            packet.truncate(length);
            if self.loss.hits() || self.queued + length > QUEUE {
                self.spare.push(packet);
                continue;
            }
            self.queued += length;
            self.queue.push_back((clock.elapsed() + self.hold, packet));
        }
        Ok(())
    }

    fn let_out(&mut self, clock: &Stopwatch) {
        let now = clock.elapsed();
        while self.queue.front().is_some_and(|(due, _)| *due <= now) {
            let Some((_, packet)) = self.queue.pop_front() else {
                return;
            };
            self.queued -= packet.len();
            // What the other node does not take is lost, as on a wire.
            let _ = self.to.write(&packet);
            self.spare.push(packet);
        }
    }
}

/// The same packets in every run.
struct Loss {
    one_in: u32,
    state: u64,
}

impl Loss {
    fn new(one_in: u32, seed: u64) -> Self {
        Self {
            one_in,
            state: seed,
        }
    }

    fn hits(&mut self) -> bool {
        if self.one_in == 0 {
            return false;
        }
        // SplitMix64.
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)).is_multiple_of(u64::from(self.one_in))
    }
}

/// `whole`: packets of many segments pass as one, as they do on a veth pair.
#[expect(unsafe_code, reason = "TUN devices are made by ioctl")]
fn tun(whole: bool) -> io::Result<File> {
    /// linux/if_tun.h
    const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
    const TUNSETOFFLOAD: libc::c_ulong = 0x4004_54d0;
    const TUN_F_CSUM: libc::c_ulong = 1;
    const TUN_F_TSO4: libc::c_ulong = 2;
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")?;
    // SAFETY: all its fields are integers, for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(DEVICE.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    let flags = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(flags).map_err(io::Error::other)?;
    // SAFETY: the kernel reads and writes one ifreq, which outlives the call.
    if unsafe { libc::ioctl(device.as_raw_fd(), TUNSETIFF, &raw mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    if whole {
        // SAFETY: plain integers.
        let set =
            unsafe { libc::ioctl(device.as_raw_fd(), TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4) };
        if set < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loses_one_in_a_thousand() {
        let mut loss = Loss::new(1000, 1);
        let lost = (0..1_000_000).filter(|_| loss.hits()).count();
        assert!((900..1100).contains(&lost), "{lost}");
        let mut none = Loss::new(0, 1);
        assert!((0..1000).all(|_| !none.hits()));
    }
}
