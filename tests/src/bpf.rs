//! Small kernel programs of somebody else: what other tools attach where the
//! daemon's are, and a wire that loses packets.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::error::{Doing, Result};
use crate::netns::Netns;

/// A place for programs, with the kernel's numbers for it from <linux/bpf.h>.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    CgroupEgress,
    Connect4,
    SkLookup,
    /// What comes in at an interface (Linux 6.6).
    TcxIngress,
}

impl Place {
    const fn program_type(self) -> u32 {
        match self {
            Self::CgroupEgress => 8,
            Self::Connect4 => 18,
            Self::SkLookup => 30,
            Self::TcxIngress => 3,
        }
    }

    const fn attach_type(self) -> u32 {
        match self {
            Self::CgroupEgress => 1,
            Self::Connect4 => 10,
            Self::SkLookup => 36,
            Self::TcxIngress => 46,
        }
    }
}

/// One instruction; those of two words are not needed here.
#[derive(Clone, Copy, Debug)]
pub struct Instruction(u64);

impl Instruction {
    const fn new(opcode: u8, registers: u8, offset: u16, value: u32) -> Self {
        Self(opcode as u64 | (registers as u64) << 8 | (offset as u64) << 16 | (value as u64) << 32)
    }

    /// `register = value`
    pub const fn set(register: u8, value: u32) -> Self {
        Self::new(0xb7, register, 0, value)
    }

    /// `*(u32 *)(context + offset) = register`; the context is in register 1.
    pub const fn store(offset: u16, register: u8) -> Self {
        Self::new(0x63, register << 4 | 1, offset, 0)
    }

    pub const fn call(helper: u32) -> Self {
        Self::new(0x85, 0, 0, helper)
    }

    /// `register %= value`, of 32 bits.
    pub const fn modulo(register: u8, value: u32) -> Self {
        Self::new(0x94, register, 0, value)
    }

    /// Skips so many instructions if the register holds another value.
    pub const fn skip_unless(register: u8, value: u32, skipped: u16) -> Self {
        Self::new(0x55, register, skipped, value)
    }

    /// Ends with what is in register 0.
    pub const EXIT: Self = Self::new(0x95, 0, 0, 0);
}

/// A program in the kernel.
#[derive(Debug)]
pub struct Program {
    place: Place,
    fd: OwnedFd,
}

/// A program where it runs, until this is dropped.
#[derive(Debug)]
#[must_use = "it is taken off when this is dropped"]
pub struct Link(#[expect(dead_code, reason = "it is held")] OwnedFd);

/// Among those that are there already, from <linux/bpf.h>.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    First,
    Last,
}

impl Program {
    /// The name is what tools show of it: at most 15 bytes.
    pub fn load(place: Place, name: &str, instructions: &[Instruction]) -> Result<Self> {
        let license = c"GPL";
        let words: Vec<u64> = instructions.iter().map(|one| one.0).collect();
        let mut named = [0_u8; 16];
        named[..name.len()].copy_from_slice(name.as_bytes());
        let halves = [&named[..8], &named[8..]].map(|half| {
            half.iter()
                .rev()
                .fold(0, |word: u64, byte| word << 8 | u64::from(*byte))
        });
        let count = u32::try_from(words.len()).unwrap_or(u32::MAX);
        let fd = bpf(
            5,
            &[
                pair(place.program_type(), count),
                words.as_ptr() as u64,
                license.as_ptr() as u64,
                0,
                0,
                0,
                halves[0],
                halves[1],
                pair(0, place.attach_type()),
            ],
        )
        .doing(|| format!("loading a program of somebody else for {place:?}"))?;
        Ok(Self {
            place,
            fd: owned(fd).doing(|| "keeping a program")?,
        })
    }

    /// At a cgroup or in a network namespace.
    pub fn attach(&self, to: BorrowedFd<'_>) -> Result<Link> {
        self.link(number(to), 0)
    }

    /// At an interface of a namespace.
    pub fn attach_at(&self, netns: &Netns, interface: &str, order: Order) -> Result<Link> {
        const BPF_F_BEFORE: u32 = 1 << 3;
        const BPF_F_AFTER: u32 = 1 << 4;
        let flags = match order {
            Order::First => BPF_F_BEFORE,
            Order::Last => BPF_F_AFTER,
        };
        netns.run(|| {
            let index = nix::net::if_::if_nametoindex(interface)
                .doing(|| format!("looking for interface {interface}"))?;
            self.link(index, flags)
        })?
    }

    fn link(&self, target: u32, flags: u32) -> Result<Link> {
        let words = [
            pair(number(self.fd.as_fd()), target),
            pair(self.place.attach_type(), flags),
            0,
            0,
        ];
        let fd = bpf(28, &words).and_then(owned);
        Ok(Link(fd.doing(|| {
            format!("attaching a program of somebody else at {:?}", self.place)
        })?))
    }

    /// The older way, by which one program can be all that runs in a cgroup
    /// (no flags), or in those below that have none (`BPF_F_ALLOW_OVERRIDE`, 1).
    /// It stays until the cgroup goes.
    pub fn attach_for_good(&self, cgroup: BorrowedFd<'_>, flags: u32) -> io::Result<()> {
        let words = [
            pair(number(cgroup), number(self.fd.as_fd())),
            pair(self.place.attach_type(), flags),
            0,
        ];
        bpf(8, &words).map(drop)
    }
}

/// Takes a pinned program off where it runs, as `detach` does; the pin stays.
pub fn take_off(pin: &Path) -> Result {
    let path = CString::new(pin.as_os_str().as_bytes());
    path.map_err(io::Error::other)
        .and_then(|path| bpf(7, &[path.as_ptr() as u64, 0]))
        .and_then(owned)
        .and_then(|link| bpf(34, &[pair(number(link.as_fd()), 0)]))
        .map(drop)
        .doing(|| format!("taking off {}", pin.display()))
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

/// Two 32-bit fields as they lie in a word.
fn pair(low: u32, high: u32) -> u64 {
    let [a, b, c, d] = low.to_ne_bytes();
    let [e, f, g, h] = high.to_ne_bytes();
    u64::from_ne_bytes([a, b, c, d, e, f, g, h])
}

#[expect(unsafe_code, reason = "nothing else loads a handful of instructions")]
fn bpf(command: libc::c_long, words: &[u64]) -> io::Result<libc::c_long> {
    // SAFETY: the kernel reads as many bytes as we say there are; pointers
    // among them lead to what the caller holds until this returns.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, words.as_ptr(), size_of_val(words)) };
    match result {
        0.. => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}

#[expect(unsafe_code, reason = "a descriptor arrives as a number")]
fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
