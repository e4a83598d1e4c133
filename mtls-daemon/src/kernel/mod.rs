//! The kernel's side of the walk, as the daemon sees it: loads and pins the
//! programs, attaches them last, replaces them in place, tells them who is who,
//! and takes what they hand over.

mod error;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use mtls_common::counters::{Hook, Outcome};

use crate::addr::{ClientAddr, OriginalDst};
use crate::config::{Outside, Udp, Unknown};
pub use error::KernelError;

/// Where enforcement is attached and pinned.
#[derive(Clone, Debug)]
pub struct Options {
    /// Attach point; `None`: the root of the cgroup2 mount.
    pub cgroup: Option<PathBuf>,
    /// Folder on a bpffs that holds the pins.
    pub pins: PathBuf,
    /// Port at which the workloads' tunnels arrive.
    pub tunnel_port: u16,
}

/// A workload whose connections are captured.
#[derive(Clone, Debug)]
pub struct Enrolment<'a> {
    /// Cookie of its network namespace: the key of everything the hooks know about it.
    pub cookie: u64,
    pub netns: BorrowedFd<'a>,
    /// Its cgroup, for sockets that tell nothing else about themselves.
    pub cgroup_id: Option<u64>,
    /// The first of each family is the address that applications see as their own.
    pub addresses: Vec<IpAddr>,
    /// Never intercepted, in either direction, beside the node's.
    pub excluded: Vec<IpNet>,
    pub excluded_outbound_ports: Vec<u16>,
    pub excluded_inbound_ports: Vec<u16>,
    /// Listeners of each kind.
    pub spread: u32,
}

/// A workload's places for listeners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slots {
    pub cookie: u64,
    base: u32,
    spread: u32,
}

/// What a listener of the daemon takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ListenerKind {
    CaptureV4,
    CaptureV6,
    TunnelV4,
    TunnelV6,
}

/// News from the hooks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A connection of a network namespace that nobody classified; at most one a second for each.
    UnknownNetns {
        cookie: u64,
        cgroup_id: u64,
        pid: u32,
    },
    /// Plain text from outside to a strict workload was refused; at most ten a second for each workload.
    PlaintextRefused {
        cookie: u64,
        source: SocketAddr,
        port: u16,
    },
}

/// How full a map is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapUsage {
    pub name: &'static str,
    pub entries: u64,
    pub capacity: u64,
}

/// What `detach` removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Detached {
    pub links: usize,
    pub maps: usize,
}

/// The hooks, their maps and their pins. One a node; on the control thread.
#[derive(Debug)]
pub struct Kernel(());

/// What the hooks hand over and are told about single connections; for every thread.
#[derive(Clone, Debug)]
pub struct Handoff(());

/// What the server application sees as its client, until this is dropped.
#[derive(Debug)]
#[must_use = "the name is gone when this is dropped"]
pub struct ClientName(());

/// The news of one daemon.
#[derive(Debug)]
pub struct Events(());

// Not wired yet: every call says so.
impl Kernel {
    /// Loads the programs, or adopts what is pinned under `options.pins`; attaches nothing.
    pub fn open(_options: &Options) -> Result<Self, KernelError> {
        Err(KernelError::NotWired)
    }

    /// Leaves the sockets of this cgroup alone. `open` does it for the daemon's own.
    pub fn exempt_cgroup(&mut self, _id: u64) -> Result<(), KernelError> {
        Err(KernelError::NotWired)
    }

    /// Replaces the node's networks, never with a moment without.
    pub fn set_networks(
        &mut self,
        _mesh: &[IpNet],
        _excluded: &[IpNet],
    ) -> Result<(), KernelError> {
        Err(KernelError::NotWired)
    }

    pub fn set_policy(
        &mut self,
        _unknown: Unknown,
        _outside: Outside,
        _udp: Udp,
    ) -> Result<(), KernelError> {
        Err(KernelError::NotWired)
    }

    /// Captures a workload's connections, or brings what is known about an enrolled one up to date.
    /// Its slots are empty, which refuses, until `put_listener`.
    pub fn enrol(&mut self, _enrolment: &Enrolment<'_>) -> Result<Slots, KernelError> {
        Err(KernelError::NotWired)
    }

    /// The network namespace is known, and not ours.
    pub fn not_enrolled(&mut self, _cookie: u64) -> Result<(), KernelError> {
        Err(KernelError::NotWired)
    }

    /// Forgets a network namespace; if it still lives, it is unknown from now on.
    pub fn remove(&mut self, _cookie: u64) -> Result<(), KernelError> {
        Err(KernelError::NotWired)
    }

    /// Gives a listener what its kind takes; it must have SO_REUSEADDR.
    pub fn put_listener(
        &mut self,
        _slots: &Slots,
        _kind: ListenerKind,
        _nth: u32,
        _listener: BorrowedFd<'_>,
    ) -> Result<(), KernelError> {
        Err(KernelError::NotWired)
    }

    /// Attaches every program, or replaces the attached ones in place. Called last.
    pub fn attach(&mut self) -> Result<(), KernelError> {
        Err(KernelError::NotWired)
    }

    /// The news from the hooks; to be taken once.
    pub fn events(&mut self) -> Result<Events, KernelError> {
        Err(KernelError::NotWired)
    }

    pub fn counters(&self) -> io::Result<Vec<(Hook, Outcome, u64)>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub fn map_usage(&self) -> Vec<MapUsage> {
        Vec::new()
    }

    /// Whether each hook is attached where it was asked to be: not if its pin or its cgroup was removed.
    pub fn attached(&self) -> Vec<(Hook, bool)> {
        Hook::ALL.iter().map(|hook| (*hook, false)).collect()
    }

    pub fn handoff(&self) -> Handoff {
        Handoff(())
    }
}

impl Handoff {
    /// The destination that the application dialled, taken out of the map. `None`: nobody was captured there.
    pub fn take_original_dst(
        &self,
        _cookie: u64,
        _source: SocketAddr,
        _captured_at: SocketAddr,
    ) -> io::Result<Option<OriginalDst>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Tells the server application at `app` that what the daemon dials from `dialled_from` is `client`.
    /// Before connect().
    pub fn name_client(
        &self,
        _cookie: u64,
        _app: SocketAddr,
        _dialled_from: SocketAddr,
        _client: ClientAddr,
    ) -> io::Result<ClientName> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Answers connect() to that destination with ECONNREFUSED for a while.
    pub fn refuse(&self, _cookie: u64, _dst: OriginalDst, _for: Duration) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl Events {
    pub async fn next(&mut self) -> Event {
        std::future::pending().await
    }
}

/// Removes the enforcement that is pinned at `pins`: traffic is in the clear from then on.
pub fn detach(_pins: &Path) -> Result<Detached, KernelError> {
    Err(KernelError::NotWired)
}
