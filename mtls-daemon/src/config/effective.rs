//! A configuration written out again, with every key: what `config show
//! --effective` prints, and what two configurations are compared by.

mod authorization;
mod cni;
mod directory;
mod kubernetes;
mod sources;

use std::fmt::{Display, Write as _};
use std::path::Path;
use std::time::Duration;

use authorization::{authentication_block, authorization_blocks, policy_block};
use cni::cni_block;
use directory::{peer_block, service_block, workload_blocks};
use kubernetes::kubernetes_block;
use sources::source_block;

use super::keys::{Applies, Fallback, Key, Section};
use super::units::{show_duration, show_size};
use super::{
    Admin, Config, Crl, FederatedBundle, ForeignPastExpiry, Identity, Kernel, Limits, Log,
    LogFormat, Metrics, Mode, Network, Node, Outside, Udp, Unknown, VethGate,
};

/// One table of the file.
pub(super) struct Block {
    pub(super) section: &'static Section,
    /// What tells tables of one array apart: a name.
    pub(super) item: Option<String>,
    /// Values in TOML; `None` where a key is unset.
    pub(super) values: Vec<(&'static Key, Option<String>)>,
}

/// The whole configuration as a file that reads as the same configuration:
/// what stands in `policy.directory` stays there.
pub fn effective(config: &Config) -> String {
    let mut of_file = config.clone();
    of_file
        .authorization
        .retain(|policy| !policy.written.in_directory());
    let mut out = String::new();
    for block in blocks(&of_file) {
        if !block.section.path.is_empty() {
            let _ = write!(out, "\n{}\n", block.section.header());
        }
        for (key, value) in &block.values {
            let line = match (value, key.default) {
                (Some(value), _) => format!("{} = {value}", key.name),
                (None, Fallback::Unset(then)) => format!("# {} is unset: {then}", key.name),
                (None, _) => format!("# {} is unset", key.name),
            };
            let default = match (value, key.default) {
                (Some(value), Fallback::Is(default)) if value == default => ", default",
                _ => "",
            };
            let _ = writeln!(out, "{line:<48} # {}{default}", key.applies);
        }
    }
    out
}

/// Every table of the configuration, each with every key, in the order of the documentation.
pub(super) fn blocks(config: &Config) -> Vec<Block> {
    let Config {
        node,
        kernel,
        network,
        identity,
        workloads,
        peers,
        services,
        policy,
        authorization,
        authentication,
        kubernetes,
        cni,
        limits,
        admin,
        metrics,
        log,
    } = config;
    let mut blocks = vec![
        block("", None, [("version", plain(1))]),
        node_block(node),
        kernel_block(kernel),
        network_block(network),
    ];
    identity_blocks(identity, &mut blocks);
    for workload in workloads {
        workload_blocks(workload, &mut blocks);
    }
    blocks.extend(peers.iter().map(peer_block));
    blocks.extend(services.iter().map(service_block));
    blocks.push(policy_block(policy));
    blocks.extend(authentication.iter().map(authentication_block));
    for policy in authorization {
        authorization_blocks(policy, &mut blocks);
    }
    blocks.extend(kubernetes.as_ref().map(kubernetes_block));
    let Admin { socket } = admin;
    let Metrics { listen } = metrics;
    blocks.extend([
        cni_block(cni),
        limits_block(limits),
        block("admin", None, [("socket", path(socket))]),
        block("metrics", None, [("listen", text(listen))]),
        log_block(log),
    ]);
    blocks
}

fn block<const N: usize>(
    path: &str,
    item: Option<&str>,
    values: [(&str, Option<String>); N],
) -> Block {
    let section = Section::find(path).expect("the table of keys has every section that is written");
    let values = values
        .into_iter()
        .map(|(name, value)| {
            let key = section
                .key(name)
                .expect("the table of keys has every key that is written");
            (key, value)
        })
        .collect();
    Block {
        section,
        item: item.map(str::to_owned),
        values,
    }
}

fn node_block(node: &Node) -> Block {
    let Node {
        name,
        mode,
        floor,
        unknown,
        outside,
        connect,
        workers,
    } = node;
    let unknown = match unknown {
        Unknown::Refuse => "refuse",
        Unknown::Pass => "pass",
    };
    let outside = match outside {
        Outside::Direct => "direct",
        Outside::Refuse => "refuse",
    };
    block(
        "node",
        None,
        [
            ("name", text(name)),
            ("mode", text(mode)),
            ("floor", text(floor)),
            ("unknown", text(unknown)),
            ("outside", text(outside)),
            ("connect", text(connect)),
            ("workers", plain(workers)),
        ],
    )
}

fn kernel_block(kernel: &Kernel) -> Block {
    let Kernel {
        cgroup,
        pins,
        veth_gate,
    } = kernel;
    let cgroup = cgroup.as_deref().and_then(path);
    let veth_gate = match veth_gate {
        VethGate::On => "on",
        VethGate::Off => "off",
    };
    block(
        "kernel",
        None,
        [
            ("cgroup", cgroup),
            ("pins", path(pins)),
            ("veth_gate", text(veth_gate)),
        ],
    )
}

fn network_block(network: &Network) -> Block {
    let Network {
        tunnel_port,
        mesh,
        excluded,
        excluded_outbound_ports,
        excluded_inbound_ports,
        udp,
    } = network;
    let udp = match udp {
        Udp::Pass => "pass",
        Udp::Refuse => "refuse",
    };
    block(
        "network",
        None,
        [
            ("tunnel_port", plain(tunnel_port)),
            ("mesh", texts(mesh)),
            ("excluded", texts(excluded)),
            ("excluded_outbound_ports", list(excluded_outbound_ports)),
            ("excluded_inbound_ports", list(excluded_inbound_ports)),
            ("udp", text(udp)),
        ],
    )
}

fn identity_blocks(identity: &Identity, blocks: &mut Vec<Block>) {
    let Identity {
        trust_domain,
        source,
        clock_skew,
        foreign_past_expiry,
        federated,
        crls,
    } = identity;
    let foreign_past_expiry = match foreign_past_expiry {
        ForeignPastExpiry::Cut => "cut",
        ForeignPastExpiry::Keep => "keep",
    };
    blocks.push(block(
        "identity",
        None,
        [
            ("trust_domain", text(trust_domain)),
            ("clock_skew", duration(clock_skew)),
            ("foreign_past_expiry", text(foreign_past_expiry)),
        ],
    ));
    blocks.extend(source.as_ref().map(|s| source_block("identity", None, s)));
    blocks.extend(federated.iter().map(|federated| {
        let FederatedBundle {
            trust_domain,
            bundle,
        } = federated;
        block(
            "identity.federated",
            Some(trust_domain.as_str()),
            [
                ("trust_domain", text(trust_domain)),
                ("bundle", path(bundle)),
            ],
        )
    }));
    blocks.extend(crls.iter().map(crl_block));
}

fn crl_block(crl: &Crl) -> Block {
    let Crl {
        trust_domain,
        files,
        urls,
        server_ca,
        poll,
        policy,
        depth,
    } = crl;
    let files: Vec<_> = files.iter().map(|file| file.display()).collect();
    block(
        "identity.crl",
        Some(trust_domain.as_str()),
        [
            ("trust_domain", text(trust_domain)),
            ("files", texts(&files)),
            ("urls", texts(urls)),
            ("server_ca", server_ca.as_deref().and_then(path)),
            ("poll", duration(poll)),
            ("policy", text(policy)),
            ("depth", text(depth)),
        ],
    )
}

fn limits_block(limits: &Limits) -> Block {
    let Limits {
        handshake,
        connect,
        establish,
        drain,
        tunnel_idle,
        ping_interval,
        ping_timeout,
        streams_per_tunnel,
        tunnels_per_far_peer,
        pending_per_workload,
        handshakes_per_worker,
        buffer_per_workload,
        buffer_total,
    } = limits;
    block(
        "limits",
        None,
        [
            ("handshake", duration(handshake)),
            ("connect", duration(connect)),
            ("establish", duration(establish)),
            ("drain", duration(drain)),
            ("tunnel_idle", duration(tunnel_idle)),
            ("ping_interval", duration(ping_interval)),
            ("ping_timeout", duration(ping_timeout)),
            ("streams_per_tunnel", plain(streams_per_tunnel)),
            ("tunnels_per_far_peer", plain(tunnels_per_far_peer)),
            ("pending_per_workload", plain(pending_per_workload)),
            ("handshakes_per_worker", plain(handshakes_per_worker)),
            ("buffer_per_workload", size(*buffer_per_workload)),
            ("buffer_total", size(*buffer_total)),
        ],
    )
}

fn log_block(log: &Log) -> Block {
    let Log {
        format,
        filter,
        access,
    } = log;
    let format = match format {
        LogFormat::Human => "human",
        LogFormat::Json => "json",
    };
    block(
        "log",
        None,
        [
            ("format", text(format)),
            ("filter", text(filter)),
            ("access", plain(access)),
        ],
    )
}

impl Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::Permissive => "permissive",
            Self::Strict => "strict",
        })
    }
}

/// Written without quotes.
fn plain(value: impl Display) -> Option<String> {
    Some(value.to_string())
}

/// Written in quotes, and escaped where TOML wants it.
fn text(value: impl Display) -> Option<String> {
    Some(toml::Value::String(value.to_string()).to_string())
}

fn path(path: &Path) -> Option<String> {
    text(path.display())
}

fn duration(value: &Duration) -> Option<String> {
    text(show_duration(*value))
}

fn size(bytes: usize) -> Option<String> {
    text(show_size(bytes as u64))
}

fn list(values: impl IntoIterator<Item = impl Display>) -> Option<String> {
    let values: Vec<String> = values.into_iter().map(|value| value.to_string()).collect();
    Some(format!("[{}]", values.join(", ")))
}

fn texts(values: &[impl Display]) -> Option<String> {
    list(values.iter().filter_map(text))
}

impl Block {
    /// When a change of this table as a whole takes effect.
    pub(super) fn applies(&self) -> Applies {
        let restart = self
            .values
            .iter()
            .any(|(key, _)| key.applies == Applies::Restart);
        if restart {
            Applies::Restart
        } else {
            Applies::Live
        }
    }
}
