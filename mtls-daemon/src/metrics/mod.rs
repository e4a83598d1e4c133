//! What the daemon counts. Each data thread counts in cells of its own, which
//! nothing else writes; the scrape sums them. Labels are types (`labels.rs`),
//! so there is no look-up on the path and nothing that a peer chooses.

mod cells;
mod decisions;
pub mod families;
mod in_clear;
mod kernel;
mod labels;
mod process;
mod sheet;

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mtls_common::counters::{Hook, Outcome as Answer};
use rustls::NamedGroup;

use crate::reason::{Reason, Use};
use crate::spiffe::{SpiffeId, TrustDomain};

use cells::{Cell, Durations, Table};
pub use in_clear::{InClear, Observations, Seen};
pub use labels::{
    Acquire, Caller, ConnectionResult, Decided, Direction, Group, Handshake, HeldConnect, Labels,
    Limit, Outcome, Plaintext, PoolState, Towards, TunnelFault,
};
pub use process::descriptors;
use sheet::Sheet;

/// All metrics of the process. Cheap to clone; every thread may hold one.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    started: SystemTime,
    shards: Mutex<Vec<Arc<Shard>>>,
    facts: Mutex<Facts>,
}

/// What one thread counts.
#[derive(Default)]
struct Shard {
    handshakes: Table<(Direction, Handshake)>,
    handshake_failures: Table<(Direction, Reason)>,
    handshake_duration: Durations<(Direction, Handshake)>,
    pool_acquire: Table<Acquire>,
    pool_connections: Table<PoolState>,
    connections: Table<(Direction, ConnectionResult)>,
    held_connects: Table<HeldConnect>,
    connections_refused: Table<(Direction, Reason)>,
    connections_ended: Table<(Direction, Reason)>,
    connections_open: Table<Direction>,
    connection_establish: Durations<Direction>,
    bytes: Table<(Direction, Towards)>,
    limits: Table<Limit>,
    unknown_workloads: Cell,
    earlier: Table<Outcome>,
    plaintext: Table<(Direction, Plaintext)>,
    callers: Table<(Caller, ConnectionResult)>,
    revocation_unknown: Table<Direction>,
    proofs: Table<(Direction, Outcome)>,
    tunnel_faults: Table<(Direction, TunnelFault)>,
    decisions: decisions::Decisions,
    observed: in_clear::Observed,
}

/// What changes rarely, set by the control thread.
#[derive(Default)]
struct Facts {
    /// By workload name.
    certificates: BTreeMap<String, (SpiffeId, Option<SystemTime>)>,
    renewals: [u64; Outcome::COUNT],
    roots: BTreeMap<TrustDomain, usize>,
    reloads: [u64; Outcome::COUNT],
    config_loaded: Option<SystemTime>,
}

/// A decision of the kernel programs, counted there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookCount {
    pub hook: Hook,
    pub outcome: Answer,
    pub count: u64,
}

/// How full a kernel map is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapUsage {
    pub map: &'static str,
    pub entries: u64,
    pub capacity: u64,
}

/// Whether the programs of a hook are attached where they must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookState {
    pub hook: Hook,
    pub attached: bool,
}

/// What the kernel says, read at each scrape.
#[derive(Clone, Debug, Default)]
pub struct KernelFigures {
    pub counts: Vec<HookCount>,
    pub maps: Vec<MapUsage>,
    pub hooks: Vec<HookState>,
    pub pins_restored: u64,
    /// Workloads by the state of the gate at their veth.
    pub veth_gates: Vec<(&'static str, u64)>,
}

/// What the node's state says, read at each scrape.
#[derive(Clone, Debug, Default)]
pub struct NodeFigures {
    pub ready: bool,
    pub workloads_absent: usize,
    pub workloads_waiting: usize,
    pub workloads_ready: usize,
    pub workloads_failed: usize,
    pub workloads_not_enrolled: usize,
    /// Time since each thread's last sign of life.
    pub heartbeats: Vec<(String, Duration)>,
    pub log_lines_dropped: u64,
    /// By workload, how many it would lose by turning strict.
    pub strict_losses: BTreeMap<String, usize>,
    /// Policies of the cluster, by how they are taken.
    pub policies: Vec<([&'static str; 2], usize)>,
    /// When the first root of each trust bundle ends.
    pub roots_end: BTreeMap<TrustDomain, SystemTime>,
    /// By the kind of source, whether all that it gives is renewed.
    pub sources: BTreeMap<String, bool>,
    pub crls: Vec<NextUpdate>,
}

/// When the successor of a revocation list is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextUpdate {
    pub trust_domain: TrustDomain,
    /// As the operator's own file names it.
    pub issuer: String,
    pub at: SystemTime,
}

impl Metrics {
    pub fn new(now: SystemTime) -> Self {
        Self(Arc::new(Inner {
            started: now,
            shards: Mutex::default(),
            facts: Mutex::default(),
        }))
    }

    /// Handles for the calling thread; take them once a thread, then clone them.
    pub fn thread(&self) -> ThreadMetrics {
        let shard = Arc::new(Shard::default());
        lock(&self.0.shards).push(Arc::clone(&shard));
        ThreadMetrics {
            shard,
            stays_on_its_thread: PhantomData,
        }
    }

    /// A workload of this node has this certificate now, or none.
    pub fn certificate(&self, workload: &str, id: &SpiffeId, not_after: Option<SystemTime>) {
        self.facts()
            .certificates
            .insert(workload.to_owned(), (id.clone(), not_after));
    }

    /// The workload left the node.
    pub fn forget_certificate(&self, workload: &str) {
        self.facts().certificates.remove(workload);
    }

    pub fn renewal(&self, outcome: Outcome) {
        self.facts().renewals[outcome.index()] += 1;
    }

    pub fn trust_bundle(&self, trust_domain: &TrustDomain, roots: usize) {
        self.facts().roots.insert(trust_domain.clone(), roots);
    }

    /// The first load of the configuration is not a reload: `config_loaded` tells of it.
    pub fn config_reload(&self, outcome: Outcome) {
        self.facts().reloads[outcome.index()] += 1;
    }

    pub fn config_loaded(&self, now: SystemTime) {
        self.facts().config_loaded = Some(now);
    }

    /// Everything, in Prometheus' text format.
    pub fn render(&self, kernel: &KernelFigures, node: &NodeFigures) -> String {
        let mut sheet = Sheet::default();
        self.render_counts(&mut sheet);
        self.render_facts(&mut sheet);
        kernel::render(&mut sheet, kernel, self.in_clear());
        render_node(&mut sheet, node);
        process::render(&mut sheet);
        sheet.number(families::PROCESS_START, &[], unix_seconds(self.0.started));
        sheet.number(families::BUILD_INFO, &[env!("CARGO_PKG_VERSION")], 1.0);
        sheet.encode()
    }

    fn render_counts(&self, sheet: &mut Sheet) {
        let shards = lock(&self.0.shards).clone();
        let shards = shards.as_slice();
        sheet.table(families::HANDSHAKES, shards, |s| &s.handshakes);
        sheet.reasons(families::HANDSHAKE_FAILURES, Use::Handshake, shards, |s| {
            &s.handshake_failures
        });
        sheet.durations(families::HANDSHAKE_DURATION, shards, |s| {
            &s.handshake_duration
        });
        let acquired =
            |how: Acquire| -> u64 { shards.iter().map(|s| s.pool_acquire.at(how).get()).sum() };
        let avoided = acquired(Acquire::Hit) + acquired(Acquire::Wait);
        sheet.count(families::HANDSHAKES_AVOIDED, &[], avoided);
        sheet.table(families::POOL_ACQUIRE, shards, |s| &s.pool_acquire);
        sheet.table(families::POOL_CONNECTIONS, shards, |s| &s.pool_connections);
        sheet.table(families::CONNECTIONS, shards, |s| &s.connections);
        sheet.table(families::HELD_CONNECTS, shards, |s| &s.held_connects);
        sheet.reasons(families::CONNECTIONS_REFUSED, Use::Refused, shards, |s| {
            &s.connections_refused
        });
        sheet.reasons(families::CONNECTIONS_ENDED, Use::Ended, shards, |s| {
            &s.connections_ended
        });
        sheet.table(families::CONNECTIONS_OPEN, shards, |s| &s.connections_open);
        sheet.durations(families::CONNECTION_ESTABLISH, shards, |s| {
            &s.connection_establish
        });
        sheet.table(families::BYTES, shards, |s| &s.bytes);
        sheet.table(families::CALLERS_IN_CLEAR, shards, |s| &s.callers);
        sheet.table(families::LIMIT_REACHED, shards, |s| &s.limits);
        sheet.table(families::REVOCATION_UNKNOWN, shards, |s| {
            &s.revocation_unknown
        });
        sheet.table(families::TUNNEL_PROOFS, shards, |s| &s.proofs);
        sheet.table(families::TUNNEL_FAULTS, shards, |s| &s.tunnel_faults);
        decisions::render(sheet, shards);
        let unknown = shards.iter().map(|s| s.unknown_workloads.get()).sum();
        sheet.count(families::UNKNOWN_WORKLOADS, &[], unknown);
        sheet.table(families::EARLIER_CONNECTIONS, shards, |s| &s.earlier);
    }

    fn in_clear(&self) -> kernel::InClear {
        let shards = lock(&self.0.shards);
        let sum = |index| shards.iter().map(|shard| shard.plaintext.get(index)).sum();
        std::array::from_fn(sum)
    }

    fn render_facts(&self, sheet: &mut Sheet) {
        let facts = self.facts();
        for (workload, (id, not_after)) in &facts.certificates {
            let at = not_after.map_or(0.0, unix_seconds);
            sheet.number(families::CERTIFICATE_EXPIRY, &[workload, id.as_str()], at);
        }
        for &outcome in Outcome::ALL {
            let labels = [outcome.word()];
            let renewals = facts.renewals[outcome.index()];
            sheet.count(families::CERTIFICATE_RENEWALS, &labels, renewals);
            let reloads = facts.reloads[outcome.index()];
            sheet.count(families::CONFIG_RELOADS, &labels, reloads);
        }
        for (trust_domain, &roots) in &facts.roots {
            sheet.count(
                families::TRUST_BUNDLE_ROOTS,
                &[trust_domain.as_str()],
                roots as u64,
            );
        }
        let loaded = facts.config_loaded.map_or(0.0, unix_seconds);
        sheet.number(families::CONFIG_LOADED, &[], loaded);
    }

    fn facts(&self) -> MutexGuard<'_, Facts> {
        lock(&self.0.facts)
    }
}

fn render_node(sheet: &mut Sheet, node: &NodeFigures) {
    let states = [
        ("absent", node.workloads_absent),
        ("waiting", node.workloads_waiting),
        ("ready", node.workloads_ready),
        ("failed", node.workloads_failed),
        ("not_enrolled", node.workloads_not_enrolled),
    ];
    for (state, count) in states {
        sheet.count(families::WORKLOADS, &[state], count as u64);
    }
    for (labels, count) in &node.policies {
        sheet.count(families::CLUSTER_POLICIES, labels, *count as u64);
    }
    let dropped = node.log_lines_dropped;
    sheet.count(families::LOG_LINES_DROPPED, &[], dropped);
    for (workload, &losses) in &node.strict_losses {
        sheet.count(families::STRICT_LOSSES, &[workload], losses as u64);
    }
    sheet.count(families::READY, &[], u64::from(node.ready));
    for (trust_domain, end) in &node.roots_end {
        let labels = [trust_domain.as_str()];
        sheet.number(families::TRUST_BUNDLE_EXPIRY, &labels, unix_seconds(*end));
    }
    for (source, healthy) in &node.sources {
        sheet.count(
            families::IDENTITY_SOURCE_HEALTHY,
            &[source],
            u64::from(*healthy),
        );
    }
    for crl in &node.crls {
        let labels = [crl.trust_domain.as_str(), &crl.issuer];
        sheet.number(families::CRL_NEXT_UPDATE, &labels, unix_seconds(crl.at));
    }
    for (thread, age) in &node.heartbeats {
        sheet.number(families::HEARTBEAT_AGE, &[thread], age.as_secs_f64());
    }
}

/// Handles of one thread. Not `Send`: its cells have a single writer.
pub struct ThreadMetrics {
    shard: Arc<Shard>,
    stays_on_its_thread: PhantomData<*const ()>,
}

impl Clone for ThreadMetrics {
    fn clone(&self) -> Self {
        Self {
            shard: Arc::clone(&self.shard),
            stays_on_its_thread: PhantomData,
        }
    }
}

impl ThreadMetrics {
    pub fn handshake_done(
        &self,
        direction: Direction,
        resumed: bool,
        group: Option<NamedGroup>,
        took: Duration,
    ) {
        let group = Group::from(group);
        let labels = (direction, Handshake::Done { resumed, group });
        self.shard.handshakes.at(labels).add(1);
        self.shard.handshake_duration.observe(labels, took);
    }

    pub fn handshake_failed(&self, direction: Direction, reason: Reason) {
        let labels = (direction, Handshake::Failed);
        self.shard.handshakes.at(labels).add(1);
        self.shard.handshake_failures.at((direction, reason)).add(1);
    }

    /// The same, and how long it took to fail.
    pub fn handshake_failed_after(&self, direction: Direction, reason: Reason, took: Duration) {
        self.handshake_failed(direction, reason);
        let labels = (direction, Handshake::Failed);
        self.shard.handshake_duration.observe(labels, took);
    }

    /// A peer was taken although no revocation list told its status.
    pub fn revocation_unknown(&self, direction: Direction) {
        self.shard.revocation_unknown.at(direction).add(1);
    }

    /// A peer proved a renewed certificate on an open tunnel, or failed to.
    pub fn tunnel_proof(&self, direction: Direction, outcome: Outcome) {
        self.shard.proofs.at((direction, outcome)).add(1);
    }

    /// A tunnel was ended for what its peer did.
    pub fn tunnel_fault(&self, direction: Direction, fault: TunnelFault) {
        self.shard.tunnel_faults.at((direction, fault)).add(1);
    }

    /// An application waited in connect(), and this is what came of it.
    pub fn connect_held(&self, how: HeldConnect) {
        self.shard.held_connects.at(how).add(1);
    }

    pub fn pool_acquired(&self, how: Acquire) {
        self.shard.pool_acquire.at(how).add(1);
    }

    /// A pooled tunnel went from one state to another; `None` before its first and after its last.
    pub fn pool_moved(&self, from: Option<PoolState>, to: Option<PoolState>) {
        if let Some(from) = from {
            self.shard.pool_connections.at(from).lower();
        }
        if let Some(to) = to {
            self.shard.pool_connections.at(to).add(1);
        }
    }

    pub fn connection_refused(&self, direction: Direction, reason: Reason) {
        let labels = (direction, ConnectionResult::Refused);
        self.shard.connections.at(labels).add(1);
        self.shard
            .connections_refused
            .at((direction, reason))
            .add(1);
    }

    /// Bytes may flow from now on; `took` since the connection was accepted.
    pub fn connection_established(&self, direction: Direction, took: Duration) {
        let labels = (direction, ConnectionResult::Established);
        self.shard.connections.at(labels).add(1);
        self.shard.connections_open.at(direction).add(1);
        self.shard.connection_establish.observe(direction, took);
    }

    /// An established connection is over.
    pub fn connection_ended(&self, direction: Direction, reason: Reason) {
        self.shard.connections_open.at(direction).lower();
        let labels = (direction, reason);
        self.shard.connections_ended.at(labels).add(1);
    }

    /// Call once a turn of the loop, not once a read.
    pub fn bytes(&self, direction: Direction, towards: Towards, count: u64) {
        self.shard.bytes.at((direction, towards)).add(count);
    }

    pub fn limit_reached(&self, limit: Limit) {
        self.shard.limits.at(limit).add(1);
    }

    /// The daemon carries a connection without a tunnel.
    pub fn carried_in_clear(&self, direction: Direction, why: Plaintext) {
        self.shard.plaintext.at((direction, why)).add(1);
    }

    pub fn earlier_connections(&self, outcome: Outcome, count: usize) {
        self.shard.earlier.at(outcome).add(count as u64);
    }

    /// Somebody called a workload of this node in clear.
    pub fn called_in_clear(&self, caller: Caller, result: ConnectionResult) {
        self.shard.callers.at((caller, result)).add(1);
    }

    pub fn unknown_workload(&self) {
        self.shard.unknown_workloads.add(1);
    }
}

/// The cells stay consistent when a thread panics while it holds the lock:
/// each update is one insertion or addition.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn unix_seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}

#[cfg(test)]
mod tests;
