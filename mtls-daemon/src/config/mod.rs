//! The node's configuration: one TOML file, parsed into these types once, at
//! the edge; nothing behind this module validates configuration again.
//! `parse.rs` reads the file by the table of keys (`keys.rs`) and reports every
//! mistake at once.

mod address;
mod authentication;
mod authorization;
mod cert_manager;
mod changes;
mod check;
mod cni;
mod directory;
mod document;
mod effective;
mod floor;
pub mod keys;
mod kubernetes;
mod limits;
mod mistakes;
mod modes;
mod parse;
mod port_mode;
mod reader;
mod secrets;
mod source;
mod units;
mod value;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::spiffe::{SpiffeId, TrustDomain};

pub use authentication::PeerAuthentication;
pub use authorization::{
    Action, AuthorizationPolicy, Condition, Holds, Operation, Pattern, Rule, Scope, Selected,
    Source as RuleSource, Written, principal,
};
pub use cert_manager::{CertManager, OwningPod};
pub use changes::{Change, Changes, changes, changes_that_need_a_restart};
pub use cni::Cni;
pub use directory::Stamp;
pub use document::{example, markdown};
pub use effective::effective;
pub use kubernetes::{IdTemplate, IstioPolicies, Kubernetes};
pub use limits::Limits;
pub use mistakes::{Mistake, Mistakes};
pub use parse::{Loaded, read_text};
pub use port_mode::PortMode;
pub use secrets::{PodSecret, SecretName, Secrets};
pub use source::{DiskCa, FileUrl, Files, Login, SelectedBy, Selector, ServerUrl, Spire, Vault};
pub(crate) use units::parse_duration;

/// A node's whole configuration, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub node: Node,
    pub kernel: Kernel,
    pub network: Network,
    pub identity: Identity,
    pub workloads: Vec<Workload>,
    pub peers: Vec<Peer>,
    pub services: Vec<Service>,
    pub policy: Policy,
    /// `[[authorization-policy]]`, of the file and of `policy.directory`. Live.
    pub authorization: Vec<AuthorizationPolicy>,
    /// `[[peer-authentication]]`. Live.
    pub authentication: Vec<PeerAuthentication>,
    /// The cluster that this node belongs to.
    pub kubernetes: Option<Kubernetes>,
    pub cni: Cni,
    pub limits: Limits,
    pub admin: Admin,
    pub metrics: Metrics,
    pub log: Log,
}

/// `[node]`
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Name in logs, status and metrics. Default: the host name. Restart.
    pub name: String,
    /// Mode of workloads that name none. Default: strict. Live.
    pub mode: Mode,
    /// No workload's mode is looser than this. Default: off. Live.
    pub floor: Mode,
    /// What a network namespace that nobody classified may do. Default: refuse. Live.
    pub unknown: Unknown,
    /// Destinations outside of the mesh. Default: direct. Live.
    pub outside: Outside,
    /// When connect() succeeds. Default: truthful. Live.
    pub connect: Connect,
    /// Data threads; 0: one a core. Restart.
    pub workers: usize,
}

/// The file that the daemon reads when nothing else is said.
pub const DEFAULT_PATH: &str = "/etc/mtls-daemon/config.toml";

/// The default of `admin.socket`, for those who cannot read the configuration.
pub const DEFAULT_SOCKET: &str = "/run/mtls-daemon/admin.sock";

/// Reads the file; warnings go to the log.
pub fn load(path: &Path) -> Result<Config, Mistakes> {
    let loaded = read(path)?;
    for warning in loaded.warnings.lines() {
        tracing::warn!("{warning}");
    }
    Ok(loaded.config)
}

/// Reads the file, and those of `policy.directory`.
pub fn read(path: &Path) -> Result<Loaded, Mistakes> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|e| Mistakes::unreadable(&name, &e))?;
    let Loaded {
        config,
        mut warnings,
    } = read_text(&name, &text)?;
    let mut all = config.with_policy_directory()?;
    warnings.append(all.warnings);
    all.warnings = warnings;
    Ok(all)
}

/// Reads a configuration from its text; `name` is what messages call the file.
pub fn parse(name: &str, text: &str) -> Result<Config, Mistakes> {
    Ok(read_text(name, text)?.config)
}

impl Config {
    /// Every default, of a node where nobody is anybody.
    pub fn of_nobody() -> Result<Self, Mistakes> {
        parse(
            "the defaults",
            "version = 1\n[identity]\ntrust_domain = \"nobody.invalid\"\n",
        )
    }

    /// Where a workload's certificates come from. Checked: every configured workload has one.
    pub fn source_of<'a>(&'a self, workload: &'a Workload) -> Option<&'a Source> {
        workload.source.as_ref().or(self.identity.source.as_ref())
    }

    pub fn connect_of(&self, workload: &Workload) -> Connect {
        workload.connect.unwrap_or(self.node.connect)
    }
}

/// How a workload's connections are treated, from the loosest on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// The daemon leaves the workload alone.
    Off,
    /// Mutual TLS with whoever can, plain text with who is known to have none.
    Permissive,
    /// Mutual TLS or nothing.
    Strict,
}

/// When an application's connect() succeeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connect {
    /// When the far application has accepted.
    Truthful,
    /// At once.
    Early,
}

impl fmt::Display for Connect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Truthful => "truthful",
            Self::Early => "early",
        })
    }
}

/// What connections of an unclassified network namespace meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unknown {
    Refuse,
    Pass,
}

/// What connections to destinations outside of the mesh meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outside {
    Direct,
    Refuse,
}

/// `[kernel]`: where enforcement is attached. Restart.
#[derive(Clone, Debug, PartialEq)]
pub struct Kernel {
    /// Attach point; `None`: the root of the cgroup2 mount.
    pub cgroup: Option<PathBuf>,
    /// Folder on a bpffs that holds the pins. Default: /sys/fs/bpf/mtls-daemon.
    pub pins: PathBuf,
    /// Whether the workloads' veths get a gate. Default: on.
    pub veth_gate: VethGate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VethGate {
    On,
    Off,
}

/// `[network]`
#[derive(Clone, Debug, PartialEq)]
pub struct Network {
    /// Port at which daemons take tunnels. Default: 15008. Restart.
    pub tunnel_port: u16,
    /// Networks of the mesh: an address in one that no workload is known at is refused. Live.
    pub mesh: Vec<IpNet>,
    /// Networks that are never intercepted, in either direction. Live.
    pub excluded: Vec<IpNet>,
    /// Destination ports that outbound interception leaves alone, on every workload. Live.
    pub excluded_outbound_ports: Vec<u16>,
    /// Local ports that inbound enforcement leaves alone, on every workload. Live.
    pub excluded_inbound_ports: Vec<u16>,
    /// UDP of enrolled workloads: passes or is refused. Default: pass. Live.
    pub udp: Udp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Udp {
    Pass,
    Refuse,
}

/// `[identity]`: who issues the workloads' certificates.
#[derive(Clone, Debug, PartialEq)]
pub struct Identity {
    /// Trust domain of this node's workloads. Restart.
    pub trust_domain: TrustDomain,
    /// Source for workloads that name none; `None`: every workload names one.
    pub source: Option<Source>,
    /// Tolerated difference between clocks when a peer's certificate is judged. Default: 0 s. Restart.
    pub clock_skew: Duration,
    /// Connections of peers that cannot prove a renewed certificate. Default: cut. Live.
    pub foreign_past_expiry: ForeignPastExpiry,
    /// Bundles of other trust domains. Live.
    pub federated: Vec<FederatedBundle>,
    /// Revocation lists, one entry a trust domain. Live.
    pub crls: Vec<Crl>,
}

/// What becomes of open connections when the certificate that their tunnel was
/// opened with ends, and the peer's endpoint knows no way to prove a newer one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForeignPastExpiry {
    Cut,
    Keep,
}

/// Where an SVID comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    DiskCa(DiskCa),
    Files(Files),
    Spire(Spire, SelectedBy),
    Vault(Vault),
    /// Of a pod with who it is.
    CertManager(CertManager, Option<OwningPod>),
    /// Of a pod with where its own lies.
    Secrets(Secrets, Option<PodSecret>),
}

/// `[[identity.federated]]`
#[derive(Clone, Debug, PartialEq)]
pub struct FederatedBundle {
    pub trust_domain: TrustDomain,
    pub bundle: PathBuf,
}

/// `[[identity.crl]]`: revocation lists of a trust domain.
#[derive(Clone, Debug, PartialEq)]
pub struct Crl {
    pub trust_domain: TrustDomain,
    /// PEM or DER: one or more lists each; all issuers' together, with those
    /// of `urls`.
    pub files: Vec<PathBuf>,
    /// Where issuers publish theirs.
    pub urls: Vec<FileUrl>,
    /// PEM: the roots that the servers of `urls` are verified against.
    pub server_ca: Option<PathBuf>,
    /// How often `urls` are fetched. Default: 30 s.
    pub poll: Duration,
    pub policy: CrlPolicy,
    pub depth: CrlDepth,
}

/// What becomes of a certificate whose status no current list tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrlPolicy {
    /// Refused.
    Hard,
    /// Taken, logged and counted.
    Soft,
}

impl fmt::Display for CrlPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hard => "hard",
            Self::Soft => "soft",
        })
    }
}

/// Which certificates of a chain the lists are asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrlDepth {
    Leaf,
    /// The intermediates too.
    Chain,
}

impl fmt::Display for CrlDepth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Leaf => "leaf",
            Self::Chain => "chain",
        })
    }
}

/// `[[workload]]`: a workload of this node.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    /// Unique on the node.
    pub name: String,
    pub spiffe_id: SpiffeId,
    /// How its network namespace is found.
    pub place: Place,
    /// Its addresses; they must be assigned in its network namespace. Of a pod
    /// none: whatever is assigned there.
    pub addresses: Vec<IpAddr>,
    /// `None`: the node's.
    pub mode: Option<Mode>,
    /// `None`: the node's.
    pub connect: Option<Connect>,
    /// `None`: the node's.
    pub source: Option<Source>,
    /// Added to `network.excluded`.
    pub excluded: Vec<IpNet>,
    pub excluded_outbound_ports: Vec<u16>,
    pub excluded_inbound_ports: Vec<u16>,
    /// Ports whose mode is not the workload's.
    pub port_modes: Vec<PortMode>,
    /// Of a pod: where its kubelet probes it.
    pub probe_ports: Vec<u16>,
}

/// How a workload's network namespace is found.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// A file that names it, such as /run/netns/NAME or /proc/PID/ns/net.
    Netns(PathBuf),
    /// A cgroup2 folder: the network namespace of the processes in it.
    Cgroup(PathBuf),
    /// A systemd unit, by its cgroup.
    Unit(String),
    /// A Kubernetes pod of this node, by its UID in the names of its cgroups.
    Pod(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Netns(path) => write!(f, "netns {}", path.display()),
            Self::Cgroup(path) => write!(f, "cgroup {}", path.display()),
            Self::Unit(unit) => write!(f, "unit {unit}"),
            Self::Pod(uid) => write!(f, "pod {uid}"),
        }
    }
}

/// `[[peer]]`: a workload of another node.
#[derive(Clone, Debug, PartialEq)]
pub struct Peer {
    pub name: String,
    pub spiffe_id: SpiffeId,
    pub addresses: Vec<IpAddr>,
    /// `None`: the destination's address and `network.tunnel_port`.
    pub tunnel: Option<SocketAddr>,
    /// Whether a daemon takes tunnels for it.
    pub enrolled: bool,
}

/// `[[service]]`: an address that stands for several workloads.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    pub name: String,
    pub addresses: Vec<IpAddr>,
    pub ports: Vec<ServicePort>,
    /// Addresses of workloads or peers.
    pub endpoints: Vec<IpAddr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServicePort {
    pub port: u16,
    /// Default: the same.
    pub target: u16,
}

/// `[policy]`
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policy {
    /// More policies, a file each or several. Live.
    pub directory: Option<PathBuf>,
}

/// `[admin]`
#[derive(Clone, Debug, PartialEq)]
pub struct Admin {
    /// Unix socket for the operator, root only. Default: /run/mtls-daemon/admin.sock. Restart.
    pub socket: PathBuf,
}

/// `[metrics]`
#[derive(Clone, Debug, PartialEq)]
pub struct Metrics {
    /// Address of /metrics, /healthz and /readyz. Default: 127.0.0.1:15020. Restart.
    pub listen: SocketAddr,
}

/// `[log]`
#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    pub format: LogFormat,
    /// A `tracing` filter, such as `info` or `mtls_daemon::pool=debug`. Live.
    pub filter: String,
    /// One line a connection. Default: on. Live.
    pub access: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Human,
    Json,
}

#[cfg(test)]
mod tests;
