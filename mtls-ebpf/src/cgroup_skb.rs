//! The gates: every packet that a socket of the cgroup sends or receives comes
//! by here, and almost all leave after a few instructions.

use core::ptr::{null_mut, read_volatile, write_volatile};

use aya_ebpf::Global;
use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::helpers::generated::{
    bpf_sk_fullsock, bpf_sk_storage_get, bpf_skb_cgroup_id, bpf_skb_load_bytes, bpf_skc_to_tcp_sock,
};
use aya_ebpf::macros::cgroup_skb;
use aya_ebpf::programs::SkBuffContext;
use aya_log_ebpf::warn;
use mtls_common::addr::{Endpoint, Ip};
use mtls_common::capture::Surroundings;
use mtls_common::counters::{Hook, Outcome};
use mtls_common::gate::{self, Gate, Loopback};
use mtls_common::maps::{FlowKey, Netns, PortKey, Socket};
use mtls_common::probe::{Probe, ProbeKey};
use mtls_common::reports::Event;
use mtls_common::syn::{self, Held};
use mtls_ebpf::context::{AF_INET6, IPPROTO_TCP, LOOPBACK, SOCK_RAW, socket_ends};
use mtls_ebpf::maps::{CLIENT_NAMES, HELD, SOCKETS};
use mtls_ebpf::{facts, report};

/// Where the kernel keeps a socket's network namespace, and in that its
/// cookie, from its own type information: before Linux 6.13 or so there is no
/// helper for it here.
#[unsafe(no_mangle)]
static NET_OFFSET: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static COOKIE_OFFSET: Global<u32> = Global::new(0);

const SYN_SENT: u32 = 2;
const LISTEN: u32 = 10;
const PASS: i32 = 1;
const DROP: i32 = 0;

#[cgroup_skb(egress)]
pub fn egress(ctx: SkBuffContext) -> i32 {
    let Some(sk) = socket(&ctx) else {
        return PASS;
    };
    // SAFETY: a full socket.
    let (protocol, kind, state) = unsafe {
        (
            read_volatile(&raw const (*sk).protocol),
            read_volatile(&raw const (*sk).type_),
            read_volatile(&raw const (*sk).state),
        )
    };
    if kind == SOCK_RAW {
        return raw(&ctx, sk);
    }
    if protocol != IPPROTO_TCP || state != SYN_SENT {
        return PASS;
    }
    // SAFETY: a full socket.
    let to = unsafe { socket_ends(sk, is_v6(sk)) }.peer;
    if interface(&ctx) == LOOPBACK {
        let socket = storage(sk);
        return match (gate::syn_on_loopback(socket, to, facts::listening), socket) {
            (Loopback::Hold, Some(socket)) => hold(&ctx, &socket),
            (Loopback::Drop, _) => DROP,
            _ => PASS,
        };
    }
    let decision = gate::syn_out(
        &Packet {
            ctx: &ctx,
            sk,
            direction: PortKey::OUT,
        },
        to,
    );
    act(&ctx, sk, Hook::Egress, decision)
}

#[cgroup_skb(ingress)]
pub fn ingress(ctx: SkBuffContext) -> i32 {
    let Some(sk) = socket(&ctx) else {
        return PASS;
    };
    // SAFETY: a full socket.
    let (protocol, state) = unsafe {
        (
            read_volatile(&raw const (*sk).protocol),
            read_volatile(&raw const (*sk).state),
        )
    };
    if protocol != IPPROTO_TCP || state != LISTEN {
        return PASS;
    }
    if interface(&ctx) == LOOPBACK {
        tell_dialler(&ctx, sk);
        return PASS;
    }
    // SAFETY: a full socket.
    let port = unsafe { read_volatile(&raw const (*sk).src_port) } as u16;
    let from = source(&ctx);
    let decision = gate::syn_in(
        &Packet {
            ctx: &ctx,
            sk,
            direction: PortKey::IN,
        },
        from,
        port,
    );
    act(&ctx, sk, Hook::Ingress, decision)
}

/// The daemon dials applications from loopback, and hears whether the hooks see
/// the listener that it has reached.
#[inline(always)]
fn tell_dialler(ctx: &SkBuffContext, sk: *mut bpf_sock) {
    let Some((source, target)) = ends(ctx) else {
        return;
    };
    if !source.ip.is_loopback() {
        return;
    }
    let Some(cookie) = cookie(sk) else {
        return;
    };
    if let Some(name) = CLIENT_NAMES.get_ptr_mut(&FlowKey::new(cookie, source, target)) {
        // SAFETY: an entry stays readable and writable as long as a program
        // runs; nobody else writes this field.
        unsafe { write_volatile(&raw mut (*name).seen, 1) };
    }
}

/// Hands the SYN to the daemon, which lets it go or refuses it. What cannot be
/// handed over passes: connect() then succeeds before anybody has answered.
#[inline(always)]
fn hold(ctx: &SkBuffContext, socket: &Socket) -> i32 {
    // SAFETY: the kernel's context.
    let length = unsafe { read_volatile(&raw const (*ctx.skb.skb).len) };
    let dialled = Endpoint {
        ip: socket.dialled,
        port: socket.dialled_port,
    };
    let mut held = Held::new(socket.cookie, dialled, length as u16);
    if copy(ctx, &mut held) == length && HELD.output(&held, 0).is_ok() {
        report::count(Hook::Egress, Outcome::Held);
        DROP
    } else {
        report::count(Hook::Egress, Outcome::NotHeld);
        PASS
    }
}

/// Copies the packet, and returns how long it is. The verifier wants lengths
/// that it knows, so all that a SYN can have are tried; longer than the first
/// is none that is held.
#[inline(always)]
fn copy(ctx: &SkBuffContext, held: &mut Held) -> u32 {
    macro_rules! first_of {
        ($($length:literal)*) => {$(
            // SAFETY: the kernel's context; the packet's place is that long.
            let done = unsafe {
                bpf_skb_load_bytes(
                    ctx.skb.skb.cast(),
                    0,
                    held.packet.as_mut_ptr().cast(),
                    $length,
                )
            };
            if done == 0 {
                return $length;
            }
        )*};
    }
    const _: () = assert!(syn::LONGEST == 100);
    first_of!(100 96 92 88 84 80 76 72 68 64 60 56 52 48 44 40);
    0
}

#[inline(always)]
fn act(ctx: &SkBuffContext, sk: *mut bpf_sock, hook: Hook, decision: Gate) -> i32 {
    match decision {
        Gate::Pass(why) => {
            report::count(hook, why);
            PASS
        }
        Gate::Drop(why) => {
            report::count(hook, why);
            let cookie = cookie(sk).unwrap_or(0);
            if why as u8 == Outcome::RefusedUnknown as u8 {
                report_unknown(ctx, cookie);
            } else if report::due(cookie, 1 << 32 | hook as u64, report::SECOND) {
                warn!(
                    ctx,
                    "the packet gate (hook {}) stopped a connection of network namespace {}",
                    hook as u32,
                    cookie
                );
            }
            DROP
        }
    }
}

/// Whoever holds a packet back tells who should know about its socket: a pod
/// that only serves opens no connection that the connect hooks could report.
#[inline(always)]
fn report_unknown(ctx: &SkBuffContext, cookie: u64) {
    if report::due(cookie, u64::from(Event::UNKNOWN_NETNS), report::SECOND) {
        // SAFETY: the kernel's context.
        let cgroup = unsafe { bpf_skb_cgroup_id(ctx.skb.skb) };
        report::send(&Event::unknown_netns(cookie, cgroup, 0));
    }
}

/// A packet of a raw socket: of those that were marked at birth, nothing that
/// holds TCP gets out. The kernel's own, which send resets, are not marked.
#[inline(always)]
fn raw(ctx: &SkBuffContext, sk: *mut bpf_sock) -> i32 {
    if storage(sk).is_none_or(|socket| socket.state != Socket::RAW) {
        return PASS;
    }
    if gate::holds_tcp(|at| ctx.load::<u8>(at as usize).ok()) {
        report::count(Hook::Egress, Outcome::RefusedRaw);
        return DROP;
    }
    PASS
}

/// The packet's full socket.
#[inline(always)]
fn socket(ctx: &SkBuffContext) -> Option<*mut bpf_sock> {
    // SAFETY: the kernel's context; the helper gives null or a full socket.
    unsafe {
        let sk = (*ctx.skb.skb).__bindgen_anon_2.sk;
        if sk.is_null() {
            return None;
        }
        let full = bpf_sk_fullsock(sk);
        (!full.is_null()).then_some(full)
    }
}

#[inline(always)]
fn storage(sk: *mut bpf_sock) -> Option<Socket> {
    // SAFETY: a full socket; its storage is copied.
    unsafe {
        bpf_sk_storage_get(
            (&raw const SOCKETS).cast_mut().cast(),
            sk.cast(),
            null_mut(),
            0,
        )
        .cast::<Socket>()
        .as_ref()
        .copied()
    }
}

/// Not the socket's bound device, nor sk_lookup's idea of it, but where the
/// packet really is: loopback for all traffic within the namespace.
#[inline(always)]
fn interface(ctx: &SkBuffContext) -> u32 {
    // SAFETY: the kernel's context.
    unsafe { read_volatile(&raw const (*ctx.skb.skb).ifindex) }
}

#[inline(always)]
fn is_v6(sk: *mut bpf_sock) -> bool {
    // SAFETY: a full socket.
    unsafe { read_volatile(&raw const (*sk).family) == AF_INET6 }
}

/// The packet's source address. A packet too short to have one has none that
/// is excluded.
#[inline(always)]
fn source(ctx: &SkBuffContext) -> Ip {
    let version = ctx.load::<u8>(0).unwrap_or(0) >> 4;
    if version == 4 {
        ctx.load::<u32>(12).map_or(Ip::UNSPECIFIED_V6, Ip::v4)
    } else {
        ctx.load::<[u32; 4]>(8).map_or(Ip::UNSPECIFIED_V6, Ip)
    }
}

/// Where the TCP header begins. The kernel's listeners see none with another
/// header between; where there is one this is none that anybody looks at.
#[inline(always)]
fn header(ctx: &SkBuffContext) -> Option<usize> {
    let first = ctx.load::<u8>(0).ok()?;
    if first >> 4 == 4 {
        return Some(usize::from(first & 0xf) * 4);
    }
    let is_tcp = u32::from(ctx.load::<u8>(6).ok()?) == IPPROTO_TCP;
    is_tcp.then_some(40)
}

#[inline(always)]
fn probe(ctx: &SkBuffContext) -> Option<ProbeKey> {
    let (source, target) = ends(ctx)?;
    Some(ProbeKey::new(source, target))
}

/// Both ends of a TCP packet, its source first.
#[inline(always)]
fn ends(ctx: &SkBuffContext) -> Option<(Endpoint, Endpoint)> {
    let ports = header(ctx)?;
    let (source, target) = if ctx.load::<u8>(0).ok()? >> 4 == 4 {
        let source = Ip::v4(ctx.load::<u32>(12).ok()?);
        let target = Ip::v4(ctx.load::<u32>(16).ok()?);
        (source, target)
    } else {
        let source = Ip(ctx.load::<[u32; 4]>(8).ok()?);
        let target = Ip(ctx.load::<[u32; 4]>(24).ok()?);
        (source, target)
    };
    let [source_port, target_port] = ctx.load::<[u16; 2]>(ports).ok()?;
    let end = |ip, port| Endpoint {
        ip,
        port: u16::from_be(port),
    };
    Some((end(source, source_port), end(target, target_port)))
}

#[inline(always)]
fn cookie(sk: *mut bpf_sock) -> Option<u64> {
    // SAFETY: a full socket; the helper gives null or a socket that may be
    // read where its type says there is a field, which is where the offsets
    // come from. Whoever has a socket has its network namespace.
    unsafe {
        let tcp = bpf_skc_to_tcp_sock(sk.cast());
        if tcp.is_null() {
            return None;
        }
        let net = read_volatile(
            tcp.cast::<u8>()
                .add(NET_OFFSET.load() as usize)
                .cast::<*const u8>(),
        );
        Some(read_volatile(
            net.add(COOKIE_OFFSET.load() as usize).cast::<u64>(),
        ))
    }
}

/// A packet and its socket.
struct Packet<'a> {
    ctx: &'a SkBuffContext,
    sk: *mut bpf_sock,
    direction: u16,
}

impl Surroundings for Packet<'_> {
    #[inline(always)]
    fn netns(&self) -> Option<(u64, Netns)> {
        cookie(self.sk).and_then(facts::netns)
    }

    #[inline(always)]
    fn exempt(&self) -> bool {
        // SAFETY: the kernel's context.
        facts::exempt(unsafe { bpf_skb_cgroup_id(self.ctx.skb.skb) })
    }

    #[inline(always)]
    fn own_address(&self, cookie: u64, ip: Ip) -> bool {
        facts::own_address(cookie, ip)
    }

    #[inline(always)]
    fn port_excluded(&self, cookie: u64, port: u16) -> bool {
        facts::port_is(cookie, port, self.direction)
    }

    #[inline(always)]
    fn networks(&self, cookie: u64, ip: Ip) -> u32 {
        facts::networks(cookie, ip)
    }

    #[inline(always)]
    fn pass_unknown(&self) -> bool {
        facts::pass_unknown()
    }

    #[inline(always)]
    fn pass_outside(&self) -> bool {
        facts::pass_outside()
    }

    #[inline(always)]
    fn opens(&self) -> bool {
        const FLAGS: usize = 13;
        const ACK: u8 = 0x10;
        let flags = header(self.ctx).and_then(|at| self.ctx.load::<u8>(at + FLAGS).ok());
        flags.is_none_or(|flags| flags & ACK == 0)
    }

    #[inline(always)]
    fn probed(&self, cookie: u64, port: u16) -> Option<Probe> {
        // The port that the socket listens at is the packet's.
        if !facts::port_is(cookie, port, PortKey::PROBED) {
            return None;
        }
        facts::probed(cookie, &probe(self.ctx)?)
    }
}
