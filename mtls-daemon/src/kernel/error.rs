//! What can fail between the daemon and the kernel, and what to do about it.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use mtls_common::counters::Hook;

#[derive(Debug, Error)]
pub enum KernelError {
    // What the machine lacks.
    #[error("the kernel is Linux {release}; the hooks need 6.1 or newer")]
    TooOld { release: String },
    #[error(
        "the kernel has no type information (/sys/kernel/btf/vmlinux): it must be built with CONFIG_DEBUG_INFO_BTF=y"
    )]
    NoBtf(#[source] io::Error),
    #[error(
        "the kernel's type information does not show {what}: the hooks cannot find it in memory; please report this with the output of `uname -a`"
    )]
    BtfWithout { what: &'static str },
    #[error(
        "missing capabilities: {}; run the daemon as root, or give it those", missing.join(", ")
    )]
    NoRights { missing: Vec<&'static str> },
    #[error(
        "no cgroup2 is mounted: `mount -t cgroup2 none /sys/fs/cgroup/unified`, or boot with cgroup v2"
    )]
    NoCgroup2,
    #[error("{path} is not a folder of a cgroup2 mount: see kernel.cgroup in the configuration")]
    NotCgroup2 { path: PathBuf },
    #[error(
        "the daemon runs in {path}, the very cgroup whose processes it is to enforce: each of them would be taken for the daemon; start it in a cgroup of its own"
    )]
    OwnCgroup { path: PathBuf },
    #[error("no bpffs is mounted at {path}, and mounting one failed: `mount -t bpf bpf {path}`")]
    NoBpffs {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "{path} is not on a bpffs: see kernel.pins in the configuration, or `mount -t bpf bpf` its parent folder"
    )]
    NotBpffs { path: PathBuf },
    #[error(
        "{path} lies on a bpffs that only this mount namespace has: enforcement would end with the daemon; use the host's bpffs (mount it into the container with its propagation)"
    )]
    PrivateBpffs { path: PathBuf },

    // What another daemon left or holds.
    #[error("another daemon holds {path}: stop it first, or give this one another kernel.pins")]
    Held { path: PathBuf },
    #[error(
        "{path} was pinned by a version of mtls-daemon whose maps this one does not know ({found}): start that version, or remove its enforcement with its own `mtls-daemon detach`"
    )]
    Layout { path: PathBuf, found: String },
    #[error(
        "the pins in {path} are gone: a running daemon puts them back by itself, but for `mtls-daemon detach`; after that, restart it to attach again"
    )]
    Removed { path: PathBuf },
    #[error(
        "the pins in {path} were removed, and others are in their place: find out whose they are and remove them; until then enforcement ends with this daemon"
    )]
    Occupied { path: PathBuf },
    #[error(
        "{path} holds a link of another kind than its name says: remove it, and find out who put it there"
    )]
    ForeignLink { path: PathBuf },

    // What a caller asked for.
    #[error("network namespace {cookie} is the host's own: a workload needs one of its own")]
    HostNetwork { cookie: u64 },
    #[error(
        "the workload runs in the daemon's own cgroup: its sockets would be taken for the daemon's; move one of them"
    )]
    SharesCgroup,
    #[error("network namespace {cookie} is not enrolled")]
    NotEnrolled { cookie: u64 },
    #[error("a workload can have 1 to 64 listeners of each kind, not {asked}")]
    Spread { asked: u32 },
    #[error("no room for another workload's listeners: {capacity} places are taken")]
    NoSlots { capacity: usize },

    // What the kernel answered.
    #[error("loading the kernel programs failed: {0}")]
    Object(#[from] aya::EbpfError),
    /// The verifier's log is in the source's message.
    #[error("the kernel refused the program of hook {}: {source}", hook.word())]
    Program {
        hook: Hook,
        #[source]
        source: aya::programs::ProgramError,
    },
    #[error("attaching hook {} to {to} failed", hook.word())]
    Attach {
        hook: Hook,
        to: String,
        #[source]
        source: io::Error,
    },
    #[error(
        "attaching hook {} to {to} was refused: a program of somebody else is there, or in a cgroup above, for itself alone: `mtls-daemon check` names it; have it attached with others (BPF_F_ALLOW_MULTI), or taken off", hook.word()
    )]
    Alone { hook: Hook, to: String },
    #[error("map {map} could not be {verb}")]
    Map {
        map: &'static str,
        verb: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("{doing} {path} failed")]
    Path {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{doing} failed")]
    Io {
        doing: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("the object that was built into this daemon has no {what}: it does not fit its source")]
    Build { what: &'static str },
}

/// Says what was being done when something failed.
pub(super) trait While<T> {
    fn doing(self, doing: &'static str) -> Result<T, KernelError>;
    fn on(self, doing: &'static str, path: &std::path::Path) -> Result<T, KernelError>;
    fn of_map(self, map: &'static str, verb: &'static str) -> Result<T, KernelError>;
}

impl<T> While<T> for io::Result<T> {
    fn doing(self, doing: &'static str) -> Result<T, KernelError> {
        self.map_err(|source| KernelError::Io { doing, source })
    }

    fn on(self, doing: &'static str, path: &std::path::Path) -> Result<T, KernelError> {
        self.map_err(|source| KernelError::Path {
            doing,
            path: path.to_owned(),
            source,
        })
    }

    fn of_map(self, map: &'static str, verb: &'static str) -> Result<T, KernelError> {
        self.map_err(|source| KernelError::Map { map, verb, source })
    }
}
