//! What the maps hold: keys and values, byte for byte the same on both sides.
//!
//! Every type here has no padding that is not a field, because the kernel
//! compares keys as bytes. A change of any of them, or of a map's meaning,
//! needs another [`LAYOUT`].

use crate::addr::{Endpoint, Ip};

pub mod capacity;
pub mod name;

/// Version of all maps together. A daemon that finds another one pinned must
/// not touch it.
pub const LAYOUT: u32 = 6;

/// The one entry of `NODE`. All zero, as the kernel makes it, refuses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Node {
    pub layout: u32,
    /// 1: connections of unknown network namespaces pass.
    pub pass_unknown: u32,
    /// 1: connections to outside of the mesh pass.
    pub pass_outside: u32,
    /// 1: UDP between the mesh and enrolled workloads is refused.
    pub refuse_udp: u32,
    /// How many daemons have opened these maps.
    pub instance: u64,
}

/// What the hooks know about a network namespace; the key is its cookie, which
/// the kernel gives to no second one until the machine restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Netns {
    /// For the daemon's successors, the hooks do not ask: a hash of where the
    /// configuration found it, 0 if it was enrolled beside that.
    pub found_at: u64,
    pub standing: u32,
    /// First of its places in `LISTENERS`.
    pub slot_base: u32,
    /// Listeners of each kind.
    pub spread: u32,
    /// Bits of [`Netns::HAS_NETWORKS`] and the like, which spare look-ups.
    pub flags: u32,
    /// What its applications see as their own address; unspecified if none.
    pub primary_v4: Ip,
    pub primary_v6: Ip,
}

impl Netns {
    /// Known, and left alone.
    pub const NOT_ENROLLED: u32 = 1;
    /// Its connections are captured, and come in through the daemon.
    pub const ENROLLED: u32 = 2;

    /// `NETWORKS` has entries of its own.
    pub const HAS_NETWORKS: u32 = 1;
    /// `PORTS` has entries of its own, outbound.
    pub const HAS_PORTS_OUT: u32 = 2;
    /// The same, inbound.
    pub const HAS_PORTS_IN: u32 = 4;
    /// connect() waits for the far application.
    pub const TRUTHFUL: u32 = 8;
    /// What comes in clear goes to the daemon; without this bit it is refused.
    pub const PERMISSIVE: u32 = 16;
    /// `PORTS` has ports of either mode that is not the workload's.
    pub const HAS_PORT_MODES: u32 = 32;

    /// Whether it takes plain text at the port that `port_is` asks about, by
    /// one of [`PortKey`]'s directions: the port's mode counts, or else its own.
    #[inline(always)]
    pub fn takes_plaintext(&self, port_is: impl Fn(u16) -> bool) -> bool {
        takes_plaintext(self.flags, port_is)
    }

    /// Its place in `PENDING`, behind that of all.
    #[inline(always)]
    pub const fn account(&self) -> u32 {
        1 + self.slot_base / KINDS
    }

    /// The place of its first listener, by its account.
    #[inline(always)]
    pub const fn first_slot(account: u32) -> u32 {
        (account - 1) * KINDS
    }

    pub const OTHERS: Self = Self {
        found_at: 0,
        standing: Self::NOT_ENROLLED,
        slot_base: 0,
        spread: 0,
        flags: 0,
        primary_v4: Ip::UNSPECIFIED_V4,
        primary_v6: Ip::UNSPECIFIED_V6,
    };
}

#[inline(always)]
fn takes_plaintext(flags: u32, port_is: impl Fn(u16) -> bool) -> bool {
    if flags & Netns::HAS_PORT_MODES != 0 {
        if port_is(PortKey::STRICT) {
            return false;
        }
        if port_is(PortKey::PERMISSIVE) {
            return true;
        }
    }
    flags & Netns::PERMISSIVE != 0
}

/// The one entry of the `INSTANCE` map that each network namespace's sk_lookup
/// program has for itself: it has no other way to learn where it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Instance {
    pub cookie: u64,
    pub slot_base: u32,
    /// 0, as the kernel makes it, refuses everything.
    pub spread: u32,
    pub flags: u32,
    pub tunnel_port: u32,
}

impl Instance {
    /// As [`Netns::takes_plaintext`].
    #[inline(always)]
    pub fn takes_plaintext(&self, port_is: impl Fn(u16) -> bool) -> bool {
        takes_plaintext(self.flags, port_is)
    }
}

/// What a listener takes; its place is `slot_base + kind * spread + nth`.
pub const CAPTURE_V4: u32 = 0;
pub const CAPTURE_V6: u32 = 1;
pub const TUNNEL_V4: u32 = 2;
pub const TUNNEL_V6: u32 = 3;
/// Plain text for the workload.
pub const PLAIN_V4: u32 = 4;
pub const PLAIN_V6: u32 = 5;
pub const KINDS: u32 = 6;

/// One connection within a network namespace, IPv4 mapped: the key of
/// `ORIGINAL_DST` and of `CLIENT_NAMES`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct FlowKey {
    pub cookie: u64,
    pub source: Ip,
    pub target: Ip,
    pub source_port: u16,
    pub target_port: u16,
    zero: u32,
}

impl FlowKey {
    #[inline(always)]
    pub const fn new(cookie: u64, source: Endpoint, target: Endpoint) -> Self {
        Self {
            cookie,
            source: source.ip,
            target: target.ip,
            source_port: source.port,
            target_port: target.port,
            zero: 0,
        }
    }
}

/// Value of `ORIGINAL_DST`: where an application dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Dialled {
    pub ip: Ip,
    pub port: u16,
    zero: u16,
    /// The place in `PENDING` that it counts in; whoever removes it uncounts it.
    pub account: u32,
}

impl Dialled {
    #[inline(always)]
    pub const fn new(at: Endpoint, account: u32) -> Self {
        Self {
            ip: at.ip,
            port: at.port,
            zero: 0,
            account,
        }
    }

    #[inline(always)]
    pub const fn endpoint(&self) -> Endpoint {
        Endpoint {
            ip: self.ip,
            port: self.port,
        }
    }
}

/// Value of `CLIENT_NAMES`: an address and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Place {
    pub ip: Ip,
    pub port: u16,
    /// Not 0 once the hooks have seen the listener that is dialled: its
    /// applications hear the name. Others take the daemon for a neighbour.
    pub seen: u16,
}

impl Place {
    #[inline(always)]
    pub const fn new(at: Endpoint) -> Self {
        Self {
            ip: at.ip,
            port: at.port,
            seen: 0,
        }
    }

    #[inline(always)]
    pub const fn endpoint(&self) -> Endpoint {
        Endpoint {
            ip: self.ip,
            port: self.port,
        }
    }
}

/// Key of `ADDRESSES`: a network namespace's own address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(target_arch = "bpf"), derive(Hash))]
#[repr(C)]
pub struct AddressKey {
    pub cookie: u64,
    pub ip: Ip,
}

/// Data of a key of `NETWORKS`, a longest-prefix trie. The node's networks are
/// those of cookie 0, which no network namespace has. The family stands apart:
/// ::/0 is not to hold the mapped form of every IPv4 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(target_arch = "bpf"), derive(Hash))]
#[repr(C)]
pub struct NetworkKey {
    /// Two halves, so that no padding follows the trie's own length field.
    pub cookie: [u32; 2],
    pub family: u32,
    pub ip: Ip,
}

impl NetworkKey {
    /// Bits before the address.
    pub const HEAD: u32 = 96;
    /// Of an address as a whole.
    pub const BITS: u32 = Self::HEAD + 128;
    pub const NODE: u64 = 0;

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "two halves")]
    pub const fn new(cookie: u64, ip: Ip) -> Self {
        Self {
            cookie: [cookie as u32, (cookie >> 32) as u32],
            family: if ip.is_v4() { 4 } else { 6 },
            ip,
        }
    }
}

/// Bits of the value of `NETWORKS`.
pub const MESH: u32 = 1;
pub const EXCLUDED: u32 = 2;

/// Key of `PORTS`: a port of a workload that is not like the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(target_arch = "bpf"), derive(Hash))]
#[repr(C)]
pub struct PortKey {
    pub cookie: u64,
    pub port: u16,
    pub direction: u16,
    zero: u32,
}

impl PortKey {
    /// Excluded.
    pub const OUT: u16 = 0;
    pub const IN: u16 = 1;
    /// A port at which the node's prober may ask in clear.
    pub const PROBED: u16 = 2;
    /// Takes no plain text, whatever the workload does.
    pub const STRICT: u16 = 3;
    /// Takes it.
    pub const PERMISSIVE: u16 = 4;

    #[inline(always)]
    pub const fn new(cookie: u64, port: u16, direction: u16) -> Self {
        Self {
            cookie,
            port,
            direction,
            zero: 0,
        }
    }
}

/// Key of `ANSWERS`: a destination, as one network namespace sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct AnswerKey {
    pub cookie: u64,
    pub ip: Ip,
    pub port: u16,
    zero: [u16; 3],
}

impl AnswerKey {
    #[inline(always)]
    pub const fn new(cookie: u64, to: Endpoint) -> Self {
        Self {
            cookie,
            ip: to.ip,
            port: to.port,
            zero: [0; 3],
        }
    }
}

/// Value of `ANSWERS`: what a destination answered last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Answer {
    /// Until when that counts, in nanoseconds since the start of the machine.
    pub until: u64,
    pub kind: u32,
    zero: u32,
}

impl Answer {
    /// connect() need not wait for its next answer.
    pub const ACCEPTED: u32 = 1;
    /// connect() fails at once.
    pub const REFUSED: u32 = 2;

    #[inline(always)]
    pub const fn new(kind: u32, until: u64) -> Self {
        Self {
            until,
            kind,
            zero: 0,
        }
    }

    #[inline(always)]
    pub const fn counts(&self, kind: u32, now: u64) -> bool {
        self.kind == kind && now < self.until
    }
}

/// What a socket of a workload carries in its storage, which goes when it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Socket {
    pub cookie: u64,
    /// What the application dialled, and where that was turned to. A socket
    /// can be connected again, so both count only while its peer is `captured`.
    pub dialled: Ip,
    pub captured: Ip,
    /// Its own end, once known: half of the key of `ORIGINAL_DST`.
    pub source: Ip,
    pub dialled_port: u16,
    pub captured_port: u16,
    pub source_port: u16,
    pub state: u16,
    /// Its network namespace's place in `PENDING`.
    pub account: u32,
    /// 1: its SYN is held until the daemon has heard of the far application.
    pub hold: u32,
}

impl Socket {
    /// A raw socket: nothing but the cookie is meant.
    pub const RAW: u16 = 1;
    /// Turned towards the daemon; not in `ORIGINAL_DST` yet.
    pub const CAPTURED: u16 = 2;
    /// In `ORIGINAL_DST`.
    pub const RECORDED: u16 = 3;

    #[inline(always)]
    pub const fn raw(cookie: u64) -> Self {
        Self {
            cookie,
            dialled: Ip::UNSPECIFIED_V6,
            captured: Ip::UNSPECIFIED_V6,
            source: Ip::UNSPECIFIED_V6,
            dialled_port: 0,
            captured_port: 0,
            source_port: 0,
            state: Self::RAW,
            account: 0,
            hold: 0,
        }
    }

    #[inline(always)]
    pub const fn captured(
        cookie: u64,
        account: u32,
        dialled: Endpoint,
        captured: Endpoint,
        hold: bool,
    ) -> Self {
        Self {
            cookie,
            dialled: dialled.ip,
            captured: captured.ip,
            source: Ip::UNSPECIFIED_V6,
            dialled_port: dialled.port,
            captured_port: captured.port,
            source_port: 0,
            state: Self::CAPTURED,
            account,
            hold: hold as u32,
        }
    }

    /// What the application dialled, if the socket's peer is where that was turned to.
    #[inline(always)]
    pub fn dialled_through(&self, peer: Endpoint) -> Option<Endpoint> {
        let captured = self.state == Self::CAPTURED || self.state == Self::RECORDED;
        (captured && self.captured == peer.ip && self.captured_port == peer.port).then_some(
            Endpoint {
                ip: self.dialled,
                port: self.dialled_port,
            },
        )
    }

    /// Its key in `ORIGINAL_DST`.
    #[inline(always)]
    pub const fn flow(&self) -> FlowKey {
        FlowKey {
            cookie: self.cookie,
            source: self.source,
            target: self.captured,
            source_port: self.source_port,
            target_port: self.captured_port,
            zero: 0,
        }
    }
}
