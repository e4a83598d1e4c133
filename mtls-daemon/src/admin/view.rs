//! The node as operators see it. The core implements `NodeView`; the types
//! are also the wire format of the admin socket and of `--output json`.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::config::{Mode, Place};
use crate::kubernetes::{Kind, Standing};
use crate::metrics::{HookState, KernelFigures};
use crate::policy::{Explanation, NoAnswer, Question};
use crate::reason::Reason;
use crate::spiffe::{SpiffeId, TrustDomain};
use crate::trace::ConnectionId;

use super::strict::StrictReadiness;
use super::text;

pub type LocalFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// What the control thread can say about the node, and do for the operator.
pub trait NodeView {
    fn status(&self) -> NodeStatus;

    /// The workloads' certificates, and what peers' are judged by.
    fn certificates(&self) -> Certificates;

    /// Whether the hooks are attached, read now.
    fn hooks(&self) -> Vec<HookState>;

    /// The hooks, the kernel's counters and its maps, read now. The counters
    /// take some hundred system calls: for scrapes only.
    fn kernel(&self) -> KernelFigures;

    /// Every connection that the workers carry or are establishing.
    fn connections(&self) -> LocalFuture<'_, Vec<Connection>>;

    /// What the policies in force say of a connection.
    fn policy_test(&self, question: &Question) -> Result<Explanation, NoAnswer>;

    /// Whether the workloads could turn strict.
    fn strict_readiness(&self) -> Vec<StrictReadiness>;

    /// Starts to enrol a workload, or tries again at once if it is enrolled
    /// and not ready, and returns its name. Its state in `status` is waiting
    /// from then on until it is ready or failed.
    fn enrol(&self, request: EnrolRequest) -> LocalFuture<'_, Result<String, EnrolRefusal>>;

    /// Marked changed whenever a workload's state in `status` may have changed.
    fn changes(&self) -> watch::Receiver<()>;
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    pub node: String,
    pub version: String,
    pub pid: u32,
    #[serde(with = "text::time")]
    pub started: SystemTime,
    pub config: ConfigStatus,
    #[serde(flatten)]
    pub phase: Phase,
    pub workloads: Vec<WorkloadStatus>,
    /// Network namespaces that live on at no workload's place: refused.
    #[serde(default)]
    pub displaced: Vec<Displaced>,
    pub trust_bundles: Vec<TrustBundleStatus>,
    /// Of the trust domains that have revocation lists.
    pub revocation: Vec<RevocationStatus>,
    /// Of the Kubernetes cluster, if the node belongs to one.
    #[serde(default)]
    pub cluster: Option<ClusterStatus>,
    /// Why the pins that somebody removed are not put back.
    #[serde(default)]
    pub pins_error: Option<String>,
    /// Why the network plug-in is not in its place, where it should be.
    #[serde(default)]
    pub plugin_error: Option<String>,
    /// Workloads of other nodes that the configuration names.
    pub peers: usize,
    pub services: usize,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// The API server has told everything once; what it tells no more stays.
    pub known: bool,
    /// Pods of this node that have a network namespace of their own.
    pub pods: usize,
    /// AuthorizationPolicies and PeerAuthentications that select one of them.
    #[serde(default)]
    pub policies: Vec<PolicyStatus>,
    /// Why it does not tell of changes.
    pub error: Option<String>,
}

/// How an object of Istio's API is taken.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PolicyStatus {
    pub kind: Kind,
    /// NAMESPACE/NAME
    pub name: String,
    pub standing: Standing,
    /// What of it is not judged as it is written.
    pub complaints: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Displaced {
    pub netns_cookie: u64,
    /// As `lsns` and `/proc/PID/ns/net` show it.
    pub netns_inode: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConfigStatus {
    pub path: PathBuf,
    #[serde(with = "text::time")]
    pub loaded: SystemTime,
    /// Why the last reload was refused, if it was.
    pub reload_error: Option<String>,
    /// Changed keys that wait for a restart.
    pub restart_needed: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "snake_case")]
pub enum Phase {
    /// Hooks are not attached yet.
    Starting,
    Serving,
    /// Enforces nothing, for its DaemonSet is being uninstalled.
    Detached {
        /// As the DaemonSet's annotation has it.
        asked_by: String,
        /// What keeps it from that.
        still_attached: Option<String>,
    },
    /// Takes no new connections; resets what is open at the deadline.
    Draining {
        #[serde(with = "text::time")]
        deadline: SystemTime,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkloadStatus {
    pub name: String,
    #[serde(with = "text")]
    pub identity: SpiffeId,
    pub place: Place,
    pub mode: Mode,
    /// By whose word it has that mode.
    #[serde(default)]
    pub because: String,
    /// When it was last put where it is, or lost.
    #[serde(with = "text::option_time", default)]
    pub since: Option<SystemTime>,
    #[serde(flatten)]
    pub state: WorkloadState,
    pub svid: Option<SvidStatus>,
    /// Why the last renewal failed, if it did; the certificate may still be good.
    pub renewal_error: Option<String>,
    pub netns_cookie: Option<u64>,
    pub addresses: Vec<IpAddr>,
    /// Open connections, both directions.
    pub connections: usize,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum WorkloadState {
    /// Nothing is at the place where it is to be found; what was there before,
    /// if it still runs, is refused.
    Absent { detail: String },
    /// Something is still being put into place.
    Waiting { detail: String },
    /// Hooks, listeners and certificate are in place.
    Ready,
    Failed {
        #[serde(with = "text")]
        reason: Reason,
        detail: String,
    },
    /// Somebody wants it enrolled, and it is of a kind that cannot be: it
    /// talks in clear.
    NotEnrolled {
        #[serde(with = "text")]
        reason: Reason,
        detail: String,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SvidStatus {
    #[serde(with = "text::time")]
    pub not_before: SystemTime,
    #[serde(with = "text::time")]
    pub not_after: SystemTime,
    pub serial: String,
    /// Name of the authority that signed it.
    #[serde(default)]
    pub issuer: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrustBundleStatus {
    #[serde(with = "text")]
    pub trust_domain: TrustDomain,
    pub roots: usize,
    pub generation: u64,
    /// Why the newest state of its file is not in force, if it is not.
    #[serde(default)]
    pub error: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RevocationStatus {
    #[serde(with = "text")]
    pub trust_domain: TrustDomain,
    /// `hard` or `soft`.
    pub policy: String,
    /// `chain` or `leaf`.
    pub depth: String,
    /// Why there is no list to ask, or none that is newer.
    pub error: Option<String>,
    pub lists: Vec<RevocationListStatus>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RevocationListStatus {
    pub issuer: String,
    #[serde(with = "text::time")]
    pub this_update: SystemTime,
    #[serde(with = "text::time")]
    pub next_update: SystemTime,
    pub entries: usize,
}

/// Everything about certificates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Certificates {
    pub certificates: Vec<CertificateStatus>,
    pub roots: Vec<RootStatus>,
    pub revocation: Vec<RevocationStatus>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CertificateStatus {
    pub workload: String,
    #[serde(with = "text")]
    pub identity: SpiffeId,
    /// Where it comes from: disk-ca, files, ...
    pub source: String,
    /// `None`: the workload has none, and its connections are refused.
    pub svid: Option<SvidStatus>,
    /// When the source is asked again; `None`: it sends by itself.
    #[serde(with = "text::option_time")]
    pub next_renewal: Option<SystemTime>,
    pub renewals_succeeded: u64,
    pub renewals_failed: u64,
    pub error: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RootStatus {
    #[serde(with = "text")]
    pub trust_domain: TrustDomain,
    pub subject: String,
    #[serde(with = "text::time")]
    pub not_before: SystemTime,
    #[serde(with = "text::time")]
    pub not_after: SystemTime,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Connection {
    #[serde(with = "text::connection_id")]
    pub id: ConnectionId,
    pub direction: ConnectionDirection,
    pub stage: Stage,
    /// The workload of this node.
    pub workload: String,
    #[serde(with = "text::option")]
    pub source: Option<SpiffeId>,
    #[serde(with = "text::option")]
    pub destination: Option<SpiffeId>,
    pub client: Option<SocketAddr>,
    pub original_dst: Option<SocketAddr>,
    /// The other end of the tunnel.
    pub peer: Option<SocketAddr>,
    pub to_server: u64,
    pub to_client: u64,
    #[serde(with = "text::seconds", rename = "age_seconds")]
    pub age: Duration,
    pub worker: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConnectionDirection {
    Outbound,
    Inbound,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    Establishing,
    Open,
}

/// What to enrol: a configured workload, found by its place or its name, or
/// one that comes with its own identity.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EnrolRequest {
    pub place: Place,
    pub name: Option<String>,
    #[serde(with = "text::option", default)]
    pub spiffe_id: Option<SpiffeId>,
    /// Empty: the configured ones, or all global addresses in its network namespace.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EnrolRefusal {
    #[serde(with = "text")]
    pub reason: Reason,
    pub detail: String,
}
