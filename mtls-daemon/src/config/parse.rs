//! From the file's text to the validated configuration: every section in
//! turn, then what they say of each other (`check.rs`).

use std::collections::HashSet;
use std::time::Duration;

use toml::de::DeTable;

use super::authentication;
use super::authorization;
use super::check;
use super::cni;
use super::floor;
use super::kubernetes::kubernetes;
use super::limits::limits;
use super::mistakes::{Complaint, Mistakes, place_of};
use super::reader::{Part, Reader};
use super::source::source;
use super::value::is_name;
use super::{
    Admin, Config, Connect, Crl, CrlDepth, CrlPolicy, FederatedBundle, ForeignPastExpiry, Identity,
    Kernel, Log, LogFormat, Metrics, Mode, Network, Node, Outside, Peer, PeerAuthentication, Place,
    Policy, Service, Source, Udp, Unknown, Workload,
};

/// A good configuration, and what is strange about it.
#[derive(Debug)]
pub struct Loaded {
    pub config: Config,
    pub warnings: Mistakes,
}

/// The items of the file with the parts that they were read from, for the checks between them.
pub(super) struct Draft<'r> {
    pub(super) node: Part<'r>,
    pub(super) network: Part<'r>,
    pub(super) limits: Part<'r>,
    pub(super) identity: Part<'r>,
    pub(super) federated: Vec<(FederatedBundle, Part<'r>)>,
    pub(super) crls: Vec<(Crl, Part<'r>)>,
    pub(super) workloads: Vec<(Workload, Part<'r>)>,
    pub(super) peers: Vec<(Peer, Part<'r>)>,
    pub(super) services: Vec<(Service, Part<'r>)>,
    pub(super) authentications: Vec<(PeerAuthentication, Part<'r>)>,
    pub(super) kubernetes: Option<Part<'r>>,
    /// No workload, peer or service was left out for its mistakes.
    pub(super) complete: bool,
}

/// Reads a configuration from its text; `name` is what messages call the file.
pub fn read_text(name: &str, text: &str) -> Result<Loaded, Mistakes> {
    let (document, errors) = DeTable::parse_recoverable(text);
    let reader = Reader::new(name, text);
    let mut warnings = Vec::new();
    let config = {
        let root = Part::root(&reader, document.get_ref());
        read(&root, &mut warnings)
    };
    let (mut complaints, structure) = reader.into_complaints();
    if errors.is_empty() {
        complaints.extend(structure);
    } else {
        // The parser has gone on as well as it could. What single values say
        // is worth telling now; what is missing or misplaced may be its doing.
        complaints = besides(text, syntax(&errors, text), complaints);
    }
    match config {
        Some(config) if complaints.is_empty() => Ok(Loaded {
            config,
            warnings: Mistakes::in_text(name, text, warnings),
        }),
        _ => Err(Mistakes::in_text(name, text, complaints)),
    }
}

/// The first error of each line: those behind it are mostly its consequences.
pub(super) fn syntax(errors: &[toml::de::Error], text: &str) -> Vec<Complaint> {
    let mut complaints: Vec<Complaint> = errors
        .iter()
        .map(|error| {
            Complaint::new(
                error.span().unwrap_or(text.len()..text.len()),
                format!("this is not TOML: {}", error.message()),
                "correct the line; texts stand in \"quotes\", lists in [brackets]",
            )
        })
        .collect();
    complaints.sort_by_key(|complaint| complaint.span.start);
    complaints.dedup_by_key(|complaint| place_of(text, complaint.span.start).line);
    complaints
}

/// `first`, and those of `more` that are on other lines.
fn besides(text: &str, mut first: Vec<Complaint>, more: Vec<Complaint>) -> Vec<Complaint> {
    let line = |complaint: &Complaint| place_of(text, complaint.span.start).line;
    let lines: HashSet<usize> = first.iter().map(line).collect();
    first.extend(
        more.into_iter()
            .filter(|complaint| !lines.contains(&line(complaint))),
    );
    first
}

fn read(root: &Part<'_>, warnings: &mut Vec<Complaint>) -> Option<Config> {
    version(root);
    let node_part = root.table("node");
    let node = node(&node_part);
    let kernel = kernel(&root.table("kernel"));
    let network_part = root.table("network");
    let network = network(&network_part);
    let identity_part = root.table("identity");
    let identity = identity(&identity_part);
    let (federated, _) = each(&identity_part, "federated", federated);
    let (crls, _) = each(&identity_part, "crl", crl);
    let nodes = identity.as_ref().and_then(|own| own.source.as_ref());
    let (workloads, complete_workloads) = each(root, "workload", |part| workload(part, nodes));
    let (peers, complete_peers) = each(root, "peer", peer);
    let (services, complete_services) = each(root, "service", service);
    let (authentications, _) = each(root, "peer-authentication", authentication::read);
    let policies = authorization::read(root);
    authorization::unique(&policies, &[]);
    let policy = Policy {
        directory: root.table("policy").get("directory"),
    };
    let kubernetes_part = root.maybe("kubernetes");
    let cluster = kubernetes_part
        .as_ref()
        .map(|part| kubernetes(part, node.as_ref()));
    let cni_part = root.table("cni");
    let cni = cni::cni(&cni_part);
    let limits_part = root.table("limits");
    let limits = limits(&limits_part);
    let admin = root
        .table("admin")
        .get("socket")
        .map(|socket| Admin { socket });
    let metrics = root
        .table("metrics")
        .get("listen")
        .map(|listen| Metrics { listen });
    let log = log(&root.table("log"));

    let draft = Draft {
        node: node_part,
        network: network_part,
        limits: limits_part,
        identity: identity_part,
        federated,
        crls,
        workloads,
        peers,
        services,
        authentications,
        kubernetes: kubernetes_part,
        complete: complete_workloads && complete_peers && complete_services,
    };
    check::check(
        &draft,
        identity.as_ref(),
        network.as_ref(),
        limits.as_ref(),
        warnings,
    );

    if let (Some(cni), Some(identity)) = (&cni, &identity) {
        cni::check(&cni_part, cni, draft.kubernetes.is_some(), identity);
    }
    if let Some(node) = &node {
        floor::check(&draft, node, cluster.as_ref().and_then(Option::as_ref));
    }

    let mut identity = identity?;
    identity.federated = values(draft.federated);
    identity.crls = values(draft.crls);
    let mut config = Config {
        node: node?,
        kernel: kernel?,
        network: network?,
        identity,
        workloads: values(draft.workloads),
        peers: values(draft.peers),
        services: values(draft.services),
        policy,
        authorization: Vec::new(),
        authentication: Vec::new(),
        kubernetes: match cluster {
            Some(cluster) => Some(cluster?),
            None => None,
        },
        cni: cni?,
        limits: limits?,
        admin: admin?,
        metrics: metrics?,
        log: log?,
    };
    authentication::warn(&draft.authentications, &config, warnings);
    config.authentication = values(draft.authentications);
    authorization::warn(&policies, &config, warnings);
    config.authorization = policies.into_iter().map(|read| read.policy).collect();
    Some(config)
}

fn values<T>(items: Vec<(T, Part<'_>)>) -> Vec<T> {
    items.into_iter().map(|(item, _)| item).collect()
}

/// Every `[[name]]` that could be read, and whether all could.
fn each<'r, T>(
    root: &Part<'r>,
    name: &str,
    read: impl Fn(&Part<'r>) -> Option<T>,
) -> (Vec<(T, Part<'r>)>, bool) {
    let parts = root.each(name);
    let count = parts.len();
    let items: Vec<_> = parts
        .into_iter()
        .filter_map(|part| Some((read(&part)?, part)))
        .collect();
    let complete = items.len() == count;
    (items, complete)
}

pub(super) fn version(root: &Part<'_>) {
    match root.get::<u32>("version") {
        Some(1) | None => {}
        Some(other) => root.complain(
            root.at("version"),
            format!("version {other} is not known to this daemon"),
            "write version = 1, or use the daemon that the file is for",
        ),
    }
}

fn node(part: &Part<'_>) -> Option<Node> {
    let given = part.get::<String>("name");
    let name = given.or_else(|| host_name(part));
    let mode = part.get::<Mode>("mode");
    let floor = part.get::<Mode>("floor");
    let unknown = part.get::<Unknown>("unknown");
    let outside = part.get::<Outside>("outside");
    let connect = part.get::<Connect>("connect");
    let workers = part.get::<usize>("workers");
    Some(Node {
        name: name?,
        mode: mode?,
        floor: floor?,
        unknown: unknown?,
        outside: outside?,
        connect: connect?,
        workers: workers?,
    })
}

fn host_name(part: &Part<'_>) -> Option<String> {
    if part.has("name") {
        return None;
    }
    let host = nix::unistd::gethostname().ok()?.into_string().ok();
    let name = host.filter(|host| is_name(host));
    if name.is_none() {
        part.complain(
            part.at("name"),
            "the host's name does not serve as node.name".to_owned(),
            "write node.name",
        );
    }
    name
}

fn kernel(part: &Part<'_>) -> Option<Kernel> {
    let cgroup = part.get("cgroup");
    let pins = part.get("pins");
    let veth_gate = part.get("veth_gate");
    Some(Kernel {
        cgroup,
        pins: pins?,
        veth_gate: veth_gate?,
    })
}

fn network(part: &Part<'_>) -> Option<Network> {
    let tunnel_port = part.get::<u16>("tunnel_port");
    let mesh = part.get("mesh");
    let excluded = part.get("excluded");
    let excluded_outbound_ports = part.get("excluded_outbound_ports");
    let excluded_inbound_ports = part.get("excluded_inbound_ports");
    let udp = part.get::<Udp>("udp");
    Some(Network {
        tunnel_port: tunnel_port?,
        mesh: mesh?,
        excluded: excluded?,
        excluded_outbound_ports: excluded_outbound_ports?,
        excluded_inbound_ports: excluded_inbound_ports?,
        udp: udp?,
    })
}

/// Without its lists, which come with their own parts.
fn identity(part: &Part<'_>) -> Option<Identity> {
    let trust_domain = part.get("trust_domain");
    let clock_skew = part.get::<Duration>("clock_skew");
    let foreign_past_expiry = part.get::<ForeignPastExpiry>("foreign_past_expiry");
    let source = source(part, None);
    Some(Identity {
        trust_domain: trust_domain?,
        source,
        clock_skew: clock_skew?,
        foreign_past_expiry: foreign_past_expiry?,
        federated: Vec::new(),
        crls: Vec::new(),
    })
}

fn federated(part: &Part<'_>) -> Option<FederatedBundle> {
    let trust_domain = part.get("trust_domain");
    let bundle = part.get("bundle");
    Some(FederatedBundle {
        trust_domain: trust_domain?,
        bundle: bundle?,
    })
}

fn crl(part: &Part<'_>) -> Option<Crl> {
    let trust_domain = part.get("trust_domain");
    let files = part.get("files");
    let urls = part.get("urls");
    let server_ca = part.get("server_ca");
    let poll = part.get::<Duration>("poll");
    let policy = part.get::<CrlPolicy>("policy");
    let depth = part.get::<CrlDepth>("depth");
    Some(Crl {
        trust_domain: trust_domain?,
        files: if part.has("files") {
            files?
        } else {
            Vec::new()
        },
        urls: if part.has("urls") { urls? } else { Vec::new() },
        server_ca,
        poll: poll?,
        policy: policy?,
        depth: depth?,
    })
}

fn workload(part: &Part<'_>, node: Option<&Source>) -> Option<Workload> {
    let name = part.get("name");
    let spiffe_id = part.get("spiffe_id");
    let place = place(part);
    let addresses = part.get("addresses");
    let mode = part.get::<Mode>("mode");
    let port_modes = part.get("port_modes");
    let connect = part.get::<Connect>("connect");
    let source = source(part, node);
    let excluded = part.get("excluded");
    let excluded_outbound_ports = part.get("excluded_outbound_ports");
    let excluded_inbound_ports = part.get("excluded_inbound_ports");
    Some(Workload {
        name: name?,
        spiffe_id: spiffe_id?,
        place: place?,
        addresses: addresses?,
        mode,
        port_modes: port_modes?,
        connect,
        source,
        excluded: excluded?,
        excluded_outbound_ports: excluded_outbound_ports?,
        excluded_inbound_ports: excluded_inbound_ports?,
        probe_ports: Vec::new(),
    })
}

fn place(part: &Part<'_>) -> Option<Place> {
    let found = [
        part.get("netns").map(Place::Netns),
        part.get("cgroup").map(Place::Cgroup),
        part.get("unit").map(Place::Unit),
    ];
    let given: Vec<&str> = ["netns", "cgroup", "unit"]
        .into_iter()
        .filter(|name| part.has(name))
        .collect();
    match given.as_slice() {
        [_] => found.into_iter().flatten().next(),
        [] => {
            part.complain(
                part.at("name"),
                "nothing says where the workload is".to_owned(),
                "add one of netns, cgroup and unit",
            );
            None
        }
        [_, second, ..] => {
            part.complain(
                part.at(second),
                format!("the workload is in one place, here are {}", given.len()),
                "keep one of netns, cgroup and unit",
            );
            None
        }
    }
}

fn peer(part: &Part<'_>) -> Option<Peer> {
    let name = part.get("name");
    let spiffe_id = part.get("spiffe_id");
    let addresses = part.get("addresses");
    let tunnel = part.get("tunnel");
    let enrolled = part.get::<bool>("enrolled");
    Some(Peer {
        name: name?,
        spiffe_id: spiffe_id?,
        addresses: addresses?,
        tunnel,
        enrolled: enrolled?,
    })
}

fn service(part: &Part<'_>) -> Option<Service> {
    let name = part.get("name");
    let addresses = part.get("addresses");
    let ports = part.get("ports");
    let endpoints = part.get("endpoints");
    Some(Service {
        name: name?,
        addresses: addresses?,
        ports: ports?,
        endpoints: endpoints?,
    })
}

fn log(part: &Part<'_>) -> Option<Log> {
    let format = part.get::<LogFormat>("format");
    let filter = part.get("filter");
    let access = part.get::<bool>("access");
    Some(Log {
        format: format?,
        filter: filter?,
        access: access?,
    })
}
