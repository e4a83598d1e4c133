//! The one table of configuration keys: what each means, its default, and
//! whether a change takes effect live. The reader takes its defaults and
//! bounds from here; docs/configuration.md, the example in deploy/ and
//! `config show --effective` are written from here.

mod authorization;
mod cni;
mod kubernetes;
mod limits;
mod shape;
mod sources;

use std::fmt;
use std::time::Duration;

use authorization::{AUTHORIZATION_POLICY, FROM, PEER_AUTHENTICATION, POLICY, TO};
use cni::CNI;
use kubernetes::KUBERNETES;
use limits::LIMITS;
pub use shape::Shape;
use sources::{
    NODE_CERT_MANAGER, NODE_DISK_CA, NODE_FILES, NODE_SECRETS, NODE_SPIRE, NODE_VAULT,
    WORKLOAD_CERT_MANAGER, WORKLOAD_DISK_CA, WORKLOAD_FILES, WORKLOAD_SPIRE, WORKLOAD_VAULT,
};

/// A table of the file, or one of an array of tables.
#[derive(Debug)]
pub struct Section {
    /// Without brackets; empty for the top of the file.
    pub path: &'static str,
    /// `[[path]]`, any number of times.
    pub repeated: bool,
    pub doc: &'static str,
    pub keys: &'static [Key],
}

#[derive(Debug)]
pub struct Key {
    pub name: &'static str,
    pub shape: Shape,
    pub default: Fallback,
    pub applies: Applies,
    pub doc: &'static str,
    /// A value in TOML, for the example file.
    pub example: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallback {
    Required,
    /// This value, in TOML.
    Is(&'static str),
    /// No value; in words, what happens then.
    Unset(&'static str),
}

/// When a changed value takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applies {
    /// At the reload (SIGHUP).
    Live,
    /// When the daemon is started again.
    Restart,
}

use Applies::{Live, Restart};
use Fallback::{Is, Required, Unset};
use Shape::*;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
const KIB: u64 = 1024;
const GIB: u64 = 1 << 30;

/// The `mode` of a node and of a workload. Istio's words are accepted too.
pub const MODES: Shape = Choice(&["off", "permissive", "strict"]);

/// The `connect` of a node and of a workload.
const CONNECTS: Shape = Choice(&["truthful", "early"]);

#[rustfmt::skip]
const fn key(
    name: &'static str, shape: Shape, default: Fallback, applies: Applies,
    example: &'static str, doc: &'static str,
) -> Key {
    Key { name, shape, default, applies, doc, example }
}

/// Every section, in the order of the documentation.
#[rustfmt::skip]
pub const SECTIONS: &[Section] = &[
    Section {
        path: "", repeated: false,
        doc: "",
        keys: &[
            key("version", Version, Required, Restart, "1",
                "Version of the file's format: 1."),
        ],
    },
    Section {
        path: "node", repeated: false,
        doc: "The node, and what holds for workloads that say nothing else.",
        keys: &[
            key("name", Name, Unset("the host's name"), Restart, r#""node-a""#,
                "The node's name in logs and in `status`."),
            key("mode", MODES, Is(r#""strict""#), Live, r#""strict""#,
                "`strict`: the workloads' connections travel in mutual TLS or not at all. `permissive`: what comes in clear is taken, too, past the policies, and who is known to have no daemon is reached in clear. `off`: the daemon leaves them alone. (STRICT, PERMISSIVE and DISABLE are accepted as spellings.)"),
            key("floor", MODES, Is(r#""off""#), Live, r#""strict""#,
                "The loosest mode that any workload may have. A looser `mode` in this file is a mistake; a pod whose label asks for one gets the floor."),
            key("unknown", Choice(&["refuse", "pass"]), Is(r#""refuse""#), Live, r#""refuse""#,
                "Connections from a network namespace that nobody has classified: `refuse` answers ECONNREFUSED and reports it, `pass` lets them through in clear."),
            key("outside", Choice(&["direct", "refuse"]), Is(r#""direct""#), Live, r#""direct""#,
                "Connections of enrolled workloads to destinations outside of the mesh: `direct` lets them through in clear and counts them, `refuse` refuses them."),
            key("connect", CONNECTS, Is(r#""truthful""#), Live, r#""truthful""#,
                "When the workloads' connect() succeeds: `truthful`, when the far application has accepted, and it is refused when that refuses; where it accepted another connection of the workload within the last few seconds it is not asked first. `early`, at once: a refusal comes as a reset."),
            key("workers", Count(0, 1024), Is("0"), Restart, "0",
                "Threads that carry connections; 0 for one a core."),
        ],
    },
    Section {
        path: "kernel", repeated: false,
        doc: "Where enforcement is attached. It stays when the daemon goes; only `mtls-daemon detach` takes it away, and being uninstalled (`kubernetes.daemonset`).",
        keys: &[
            key("cgroup", Path, Unset("the root of the cgroup2 mount"), Restart, r#""/sys/fs/cgroup""#,
                "The cgroup2 folder below which connections are intercepted."),
            key("pins", Path, Is(r#""/sys/fs/bpf/mtls-daemon""#), Restart, r#""/sys/fs/bpf/mtls-daemon""#,
                "Folder on the host's bpffs that holds the pinned programs and maps. One a daemon."),
            key("veth_gate", Choice(&["on", "off"]), Is(r#""on""#), Restart, r#""on""#,
                "A gate at the node's end of each workload's veth, where it has one and the kernel is 6.6 or newer: it stops what packet sockets and sockets of other cgroups send in the workload's namespace. See the metric `mtls_veth_gates`."),
        ],
    },
    Section {
        path: "network", repeated: false,
        doc: "",
        keys: &[
            key("tunnel_port", Port, Is("15008"), Restart, "15008",
                "TCP port at which daemons take tunnels, on the workloads' own addresses. It must be the same on all nodes, or be written in each `peer.tunnel`."),
            key("mesh", List(&Network), Is("[]"), Live, r#"["10.0.0.0/16", "fd00::/48"]"#,
                "Networks of the mesh. A destination in one of them that is no known workload is refused; one in none of them is outside."),
            key("excluded", List(&Network), Is("[]"), Live, r#"["10.0.255.0/24"]"#,
                "Networks that are never intercepted: connections to and from them travel in clear."),
            key("excluded_outbound_ports", List(&Port), Is("[]"), Live, "[9100]",
                "Destination ports that are not intercepted on the way out, for every workload."),
            key("excluded_inbound_ports", List(&Port), Is("[]"), Live, "[9100]",
                "Ports of the workloads that take connections in clear, for every workload. Health checks that come from outside of the mesh need this."),
            key("udp", Choice(&["pass", "refuse"]), Is(r#""pass""#), Live, r#""pass""#,
                "UDP of enrolled workloads, which the daemon does not carry: `pass` lets it through in clear, `refuse` refuses it."),
        ],
    },
    Section {
        path: "identity", repeated: false,
        doc: "Who issues the workloads' certificates: one of [identity.disk-ca], [identity.files], [identity.spire], [identity.vault], [identity.cert-manager] and [identity.secrets], unless every workload brings its own.",
        keys: &[
            key("trust_domain", TrustDomain, Required, Restart, r#""example.org""#,
                "The trust domain of this node's workloads."),
            key("clock_skew", Duration(Duration::ZERO, MINUTE.saturating_mul(5)), Is(r#""0s""#), Restart, r#""0s""#,
                "Difference between clocks that is tolerated when the dates of a peer's certificate are judged."),
            key("foreign_past_expiry", Choice(&["cut", "keep"]), Is(r#""cut""#), Live, r#""cut""#,
                "Open connections through a peer that is no mtls-daemon, and cannot prove its renewed certificate on an open tunnel: `cut` resets them when the certificate ends that the tunnel was opened with, `keep` lets them go on."),
        ],
    },
    Section {
        path: "identity.disk-ca", repeated: false,
        doc: "An authority whose key lies on this node: the daemon itself issues short-lived certificates, in memory.",
        keys: &NODE_DISK_CA,
    },
    Section {
        path: "identity.files", repeated: false,
        doc: "Certificates that something else writes to disk.",
        keys: &NODE_FILES,
    },
    Section {
        path: "identity.spire", repeated: false,
        doc: "The SPIRE agent of this node, asked for the workloads' certificates by its Delegated Identity API.",
        keys: &NODE_SPIRE,
    },
    Section {
        path: "identity.vault", repeated: false,
        doc: "The PKI secrets engine of OpenBao or HashiCorp Vault, which signs certificates for keys that the daemon makes. It logs in by `token_file`, by `role_id` and `secret_id_file`, or by `auth_role`.",
        keys: &NODE_VAULT,
    },
    Section {
        path: "identity.cert-manager", repeated: false,
        doc: "The cluster's cert-manager: each certificate is asked for by a CertificateRequest for a key that the daemon makes, which an approver lets pass, an issuer signs, and the daemon deletes.",
        keys: &NODE_CERT_MANAGER,
    },
    Section {
        path: "identity.secrets", repeated: false,
        doc: "Certificates that lie in Secrets of the pods' namespaces, as cert-manager's Certificates keep them, each followed while a pod of its account runs on the node.",
        keys: &NODE_SECRETS,
    },
    Section {
        path: "identity.federated", repeated: true,
        doc: "Another trust domain whose workloads are verified against its own roots.",
        keys: &[
            key("trust_domain", TrustDomain, Required, Live, r#""partner.example""#,
                "The other trust domain."),
            key("bundle", Path, Required, Live, r#""/etc/mtls-daemon/partner.pem""#,
                "PEM file: its roots."),
        ],
    },
    Section {
        path: "identity.crl", repeated: true,
        doc: "Revocation lists of a trust domain, the node's own or a federated one. Without them, short lives do the work: a certificate that nobody renews is soon over.",
        keys: &[
            key("trust_domain", TrustDomain, Required, Live, r#""example.org""#,
                "Whose certificates they are asked about."),
            key("files", List(&Path), Unset("all come from `urls`"), Live, r#"["/etc/mtls-daemon/crl.pem"]"#,
                "PEM or DER files with lists of issuers of the trust domain. Read again when they change."),
            key("urls", List(&FileUrl), Unset("all come from `files`"), Live, r#"["https://vault.example.org:8200/v1/pki/crl"]"#,
                "Where issuers publish their lists, PEM or DER. Together with `files`, the lists of all issuers."),
            key("server_ca", Path, Unset("`urls` are in plain HTTP"), Live, r#""/etc/mtls-daemon/vault-ca.pem""#,
                "PEM file: the roots that the servers of `urls` are verified against, and no others."),
            key("poll", Duration(SECOND, DAY), Is(r#""30s""#), Live, r#""30s""#,
                "How often `urls` are fetched: a revoked peer is cut so long after its issuer says so, at most."),
            key("policy", Choice(&["hard", "soft"]), Is(r#""hard""#), Live, r#""hard""#,
                "A certificate whose issuer has no list here, or none that is current and genuine: `hard` refuses it, `soft` takes it, logs it and counts it."),
            key("depth", Choice(&["chain", "leaf"]), Is(r#""chain""#), Live, r#""chain""#,
                "`chain` asks about intermediate authorities too, `leaf` about the workload's certificate alone."),
        ],
    },
    Section {
        path: "workload", repeated: true,
        doc: "A workload of this node: a network namespace with an identity. Exactly one of `netns`, `cgroup` and `unit` says where it is. Changed exclusions hold for new connections; so does `connect`; any other change enrols it anew and resets its open connections.",
        keys: &[
            key("name", Name, Required, Live, r#""web""#,
                "Its name in logs, metrics and `status`; unique on the node."),
            key("spiffe_id", SpiffeId, Required, Live, r#""spiffe://example.org/web""#,
                "Its identity."),
            key("netns", Path, Unset("see `cgroup` and `unit`"), Live, r#""/run/netns/web""#,
                "The file that names its network namespace, such as /run/netns/NAME or /proc/PID/ns/net."),
            key("cgroup", Path, Unset("see `netns` and `unit`"), Live, r#""/sys/fs/cgroup/web""#,
                "A cgroup2 folder: the network namespace of the processes in it."),
            key("unit", Unit, Unset("see `netns` and `cgroup`"), Live, r#""web.service""#,
                "A systemd unit with a network namespace of its own (PrivateNetwork= or NetworkNamespacePath=)."),
            key("addresses", List(&Ip), Required, Live, r#"["10.0.1.4", "fd00:0:0:1::4"]"#,
                "Its addresses, assigned in its network namespace."),
            key("mode", MODES, Unset("`node.mode`"), Live, r#""strict""#,
                "As `node.mode`, for this workload."),
            key("port_modes", List(&PortWithMode), Is("[]"), Live, r#"[{ port = 8080, mode = "permissive" }]"#,
                "Ports with a mode of their own for what comes in: `permissive` and `strict` as for a workload; `off` is plain text alone, past the daemon, for a port that speaks TLS of its own."),
            key("connect", CONNECTS, Unset("`node.connect`"), Live, r#""early""#,
                "As `node.connect`, for this workload."),
            key("excluded", List(&Network), Is("[]"), Live, "[]",
                "Networks that are not intercepted, besides `network.excluded`."),
            key("excluded_outbound_ports", List(&Port), Is("[]"), Live, "[]",
                "Destination ports that are not intercepted, besides the network's."),
            key("excluded_inbound_ports", List(&Port), Is("[]"), Live, "[8081]",
                "Its ports that take connections in clear, besides the network's."),
        ],
    },
    Section {
        path: "workload.disk-ca", repeated: false,
        doc: "The workload's own authority, in place of the node's.",
        keys: &WORKLOAD_DISK_CA,
    },
    Section {
        path: "workload.files", repeated: false,
        doc: "The workload's own certificate files, in place of the node's source.",
        keys: &WORKLOAD_FILES,
    },
    Section {
        path: "workload.spire", repeated: false,
        doc: "What the workload has otherwise than [identity.spire] says, or an agent of its own.",
        keys: &WORKLOAD_SPIRE,
    },
    Section {
        path: "workload.vault", repeated: false,
        doc: "The workload's own PKI, in place of the node's source.",
        keys: &WORKLOAD_VAULT,
    },
    Section {
        path: "workload.cert-manager", repeated: false,
        doc: "The workload's own issuer, in place of the node's source.",
        keys: &WORKLOAD_CERT_MANAGER,
    },
    Section {
        path: "peer", repeated: true,
        doc: "A workload of another node.",
        keys: &[
            key("name", Name, Required, Live, r#""db""#,
                "Its name in logs and `status`; unique among the peers."),
            key("spiffe_id", SpiffeId, Required, Live, r#""spiffe://example.org/db""#,
                "The identity that must be proved at its addresses, and may be proved from them."),
            key("addresses", List(&Ip), Required, Live, r#"["10.0.2.7"]"#,
                "Its addresses."),
            key("tunnel", Peer, Unset("the destination's own address, at `network.tunnel_port`"), Live, r#""10.0.2.7:15008""#,
                "Address and port at which its daemon takes tunnels for it."),
            key("enrolled", Bool, Is("true"), Live, "true",
                "`false`: it is known that no daemon takes tunnels for it. Permissive workloads reach it in clear, strict ones not at all."),
        ],
    },
    Section {
        path: "service", repeated: true,
        doc: "An address that stands for several workloads. Connections to it go round among those that answered lately.",
        keys: &[
            key("name", Name, Required, Live, r#""databases""#,
                "Its name in logs; unique among the services."),
            key("addresses", List(&Ip), Required, Live, r#"["10.96.0.10"]"#,
                "The addresses that clients dial."),
            key("ports", List(&ServicePort), Required, Live, "[5432, { port = 80, target = 8080 }]",
                "The ports that clients dial. `target` is the port of the endpoints, the same if it is left out."),
            key("endpoints", List(&Ip), Required, Live, r#"["10.0.2.7"]"#,
                "Addresses of the workloads and peers behind it."),
        ],
    },
    Section {
        path: "policy", repeated: false,
        doc: "",
        keys: &POLICY,
    },
    Section {
        path: "peer-authentication", repeated: true,
        doc: "Modes of several workloads at once: Istio's PeerAuthentication. What a workload says itself goes before it, and those that speak of workloads go before those that speak of namespaces; of several that say something of one workload, or of a port of it, the first counts. docs/policy.md has the whole order.",
        keys: &PEER_AUTHENTICATION,
    },
    Section {
        path: "authorization-policy", repeated: true,
        doc: "Who may connect to workloads of this node: Istio's AuthorizationPolicy, as far as it speaks of connections and not of what is said in them. docs/policy.md has its meaning.",
        keys: &AUTHORIZATION_POLICY,
    },
    Section {
        path: "authorization-policy.rules", repeated: true,
        doc: "The policy matches a connection that one of its rules matches. A rule matches if one of its `from` does and one of its `to`; without `from` it matches whoever calls, without `to` every port. Each may be written in one line: rules = [{ from = [{ principals = [\"example.org/web\"] }], to = [{ ports = [5432] }] }].",
        keys: &[],
    },
    Section {
        path: "authorization-policy.rules.from", repeated: true,
        doc: "Where a connection comes from: each list that is written must agree.",
        keys: &FROM,
    },
    Section {
        path: "authorization-policy.rules.to", repeated: true,
        doc: "What it is to: each list that is written must agree.",
        keys: &TO,
    },
    Section {
        path: "kubernetes", repeated: false,
        doc: "The Kubernetes cluster that this node belongs to: its pods, enrolled by label, and its Services. Without this section the daemon asks no API server. The pods' certificates come from [identity.disk-ca], [identity.spire], [identity.vault], [identity.cert-manager] or [identity.secrets].",
        keys: &KUBERNETES,
    },
    Section { path: "cni", repeated: false, doc: cni::DOC, keys: &CNI },
    Section { path: "limits", repeated: false, doc: limits::DOC, keys: &LIMITS },
    Section {
        path: "admin", repeated: false,
        doc: "What `mtls-daemon status`, `connections` and `enrol` talk to.",
        keys: &[
            key("socket", Path, Is(r#""/run/mtls-daemon/admin.sock""#), Restart, r#""/run/mtls-daemon/admin.sock""#,
                "Unix socket for the operator. Root only; its folder is made with mode 0700 if it is not there."),
        ],
    },
    Section {
        path: "metrics", repeated: false,
        doc: "What is seen from outside, by plain HTTP: /metrics, /healthz and /readyz. No key and no peer-chosen text is shown there.",
        keys: &[
            key("listen", Socket, Is(r#""127.0.0.1:15020""#), Restart, r#""127.0.0.1:15020""#,
                "Address and port to listen at, in the host's network namespace."),
        ],
    },
    Section {
        path: "log", repeated: false,
        doc: "",
        keys: &[
            key("format", Choice(&["human", "json"]), Is(r#""human""#), Restart, r#""human""#,
                "How the lines on standard error look."),
            key("filter", Filter, Is(r#""info""#), Live, r#""info""#,
                "What is logged: a level, or levels by module, such as `info,mtls_daemon::pool=debug`."),
            key("access", Bool, Is("true"), Live, "true",
                "One line for each connection, at its end."),
        ],
    },
];

impl Section {
    /// The section of this path; `None` when there is none.
    pub fn find(path: &str) -> Option<&'static Self> {
        SECTIONS.iter().find(|section| section.path == path)
    }

    pub fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }

    /// As it is written in the file: `[node]` or `[[workload]]`.
    pub fn header(&self) -> String {
        match self.repeated {
            true => format!("[[{}]]", self.path),
            false => format!("[{}]", self.path),
        }
    }

    /// `node.mode`, as messages call a key.
    pub fn path_of(&self, key: &str) -> String {
        match self.path {
            "" => key.to_owned(),
            path => format!("{path}.{key}"),
        }
    }
}

impl fmt::Display for Applies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Live => "live",
            Restart => "restart",
        })
    }
}
