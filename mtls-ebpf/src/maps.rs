//! Every map that is pinned and outlives the daemon, once. The names are those
//! of `mtls_common::maps::name`.

use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC};
use aya_ebpf::btf_maps::{
    Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf, SkStorage, SockMap,
};
use aya_ebpf::macros::btf_map;
use mtls_common::counters;
use mtls_common::maps::{
    AddressKey, Answer, AnswerKey, Dialled, FlowKey, Netns, NetworkKey, Node, Place, PortKey,
    Socket, capacity,
};
use mtls_common::probe::ProbeKey;
use mtls_common::reports::{Event, ReportKey};
use mtls_common::syn::Held;

/// Memory by the entry and not by the capacity, for maps that are mostly empty.
const SPARSE: usize = BPF_F_NO_PREALLOC as usize;

/// The node's policy.
#[btf_map]
pub static NODE: Array<Node, 1> = Array::new();

/// Network namespace cookie -> what is known about it.
#[btf_map]
pub static NETNS: HashMap<u64, Netns, { capacity::NETNS }, SPARSE> = HashMap::new();

/// Cgroups whose sockets are the daemon's.
#[btf_map]
pub static EXEMPT: HashMap<u64, u32, { capacity::EXEMPT }, SPARSE> = HashMap::new();

/// Addresses that a network namespace has itself.
#[btf_map]
pub static ADDRESSES: HashMap<AddressKey, u32, { capacity::ADDRESSES }, SPARSE> = HashMap::new();

/// Networks of the mesh, and excluded ones.
#[btf_map]
pub static NETWORKS: LpmTrie<NetworkKey, u32, { capacity::NETWORKS }, SPARSE> = LpmTrie::new();

/// Ports that a workload has excluded.
#[btf_map]
pub static PORTS: HashMap<PortKey, u32, { capacity::PORTS }, SPARSE> = HashMap::new();

/// The daemon's listeners. A place empties itself when its listener closes.
#[btf_map]
pub static LISTENERS: SockMap<{ capacity::LISTENERS }> = SockMap::new();

/// What a socket was meant for; goes with the socket.
#[btf_map]
pub static SOCKETS: SkStorage<Socket> = SkStorage::new();

/// From a captured connection's SYN to the daemon's accept. Never LRU: an
/// evicted entry would be a wrong answer. Allocated ahead, so that a full
/// machine refuses no connection for want of an entry.
#[btf_map]
pub static ORIGINAL_DST: HashMap<FlowKey, Dialled, { capacity::ORIGINAL_DST }> = HashMap::new();

/// How many are in there: of all at place 0, and of each network namespace at
/// its account. Whoever adds or removes one counts, here or in the daemon.
#[btf_map]
pub static PENDING: Array<i64, { capacity::PENDING }, { BPF_F_MMAPABLE as usize }> = Array::new();

/// For whom the daemon dialled an application.
#[btf_map]
pub static CLIENT_NAMES: HashMap<FlowKey, Place, { capacity::CLIENT_NAMES }, SPARSE> =
    HashMap::new();

/// What destinations answered a moment ago. LRU: a miss costs one more attempt
/// and decides nothing.
#[btf_map]
pub static ANSWERS: LruHashMap<AnswerKey, Answer, { capacity::ANSWERS }> = LruHashMap::new();

/// Connections of the node's prober: 0 while they are open, then when they
/// ended. LRU: the oldest give their place to new ones.
#[btf_map]
pub static PROBES: LruHashMap<ProbeKey, u64, { capacity::PROBES }> = LruHashMap::new();

/// Interface of the node -> cookie of the enrolled network namespace at its
/// other end.
#[btf_map]
pub static VETHS: HashMap<u32, u64, { capacity::VETHS }, SPARSE> = HashMap::new();

/// When something was last reported. LRU: a miss costs one more report.
#[btf_map]
pub static REPORTED: LruHashMap<ReportKey, u64, { capacity::REPORTED }> = LruHashMap::new();

#[btf_map]
pub static COUNTERS: PerCpuArray<u64, { counters::COUNT as usize }> = PerCpuArray::new();

#[btf_map]
pub static EVENTS: RingBuf<Event, { capacity::EVENTS }> = RingBuf::new();

/// SYNs that the daemon has not heard of yet: room for some 1,900.
#[btf_map]
pub static HELD: RingBuf<Held, { capacity::HELD }> = RingBuf::new();
