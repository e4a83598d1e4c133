//! What the parts of a configuration say of each other.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::spiffe::TrustDomain;

use super::authentication::check_ports;
use super::mistakes::Complaint;
use super::parse::Draft;
use super::reader::Part;
use super::source::SOURCES;
use super::{Identity, Limits, Network, Source};

pub(super) fn check(
    draft: &Draft<'_>,
    identity: Option<&Identity>,
    network: Option<&Network>,
    limits: Option<&Limits>,
    warnings: &mut Vec<Complaint>,
) {
    names(draft);
    check_ports(draft);
    places(draft);
    let known = addresses(draft);
    services(draft, &known);
    if let Some(identity) = identity {
        sources(draft, identity);
        trust(draft, identity);
        pods(draft, identity);
    }
    if let Some(network) = network {
        networks(draft, network, warnings);
    }
    if let Some(limits) = limits {
        limit_pairs(draft, limits, warnings);
    }
}

fn names(draft: &Draft<'_>) {
    unique(
        "workload",
        draft.workloads.iter().map(|(w, part)| (&w.name, part)),
    );
    unique("peer", draft.peers.iter().map(|(p, part)| (&p.name, part)));
    unique(
        "service",
        draft.services.iter().map(|(s, part)| (&s.name, part)),
    );
    unique(
        "peer authentication",
        draft
            .authentications
            .iter()
            .map(|(it, part)| (&it.name, part)),
    );
}

fn unique<'a, 'r: 'a>(kind: &str, named: impl Iterator<Item = (&'a String, &'a Part<'r>)>) {
    let mut seen = HashSet::new();
    for (name, part) in named {
        if !seen.insert(name) {
            part.complain(
                part.at("name"),
                format!("another {kind} is called {name:?} already"),
                "give each its own name",
            );
        }
    }
}

fn places(draft: &Draft<'_>) {
    let mut seen = HashMap::new();
    for (workload, part) in &draft.workloads {
        if let Some(other) = seen.insert(&workload.place, &workload.name) {
            let key = ["netns", "cgroup", "unit"]
                .into_iter()
                .find(|key| part.has(key))
                .unwrap_or("name");
            part.complain(
                part.at(key),
                format!("workload {other:?} is in the same place"),
                "one network namespace is one workload: keep one of them",
            );
        }
    }
}

/// Every address must mean one thing. Returns those of workloads and peers.
fn addresses(draft: &Draft<'_>) -> HashSet<IpAddr> {
    let mut owners: HashMap<IpAddr, String> = HashMap::new();
    let mut claim = |kind: &str, name: &str, addresses: &[IpAddr], part: &Part<'_>| {
        not_empty(part, "addresses", addresses);
        for (n, address) in addresses.iter().enumerate() {
            let owner = format!("{kind} {name:?}");
            if let Some(other) = owners.insert(*address, owner) {
                part.complain(
                    part.at_item("addresses", n),
                    format!("{address} belongs to {other} already"),
                    "an address stands for one workload, peer or service: write it once",
                );
            }
        }
    };
    for (workload, part) in &draft.workloads {
        claim("workload", &workload.name, &workload.addresses, part);
    }
    for (peer, part) in &draft.peers {
        claim("peer", &peer.name, &peer.addresses, part);
    }
    for (service, part) in &draft.services {
        claim("service", &service.name, &service.addresses, part);
    }
    let workloads = draft.workloads.iter().flat_map(|(w, _)| &w.addresses);
    let peers = draft.peers.iter().flat_map(|(p, _)| &p.addresses);
    workloads.chain(peers).copied().collect()
}

fn services(draft: &Draft<'_>, known: &HashSet<IpAddr>) {
    for (service, part) in &draft.services {
        not_empty(part, "ports", &service.ports);
        not_empty(part, "endpoints", &service.endpoints);
        for n in repeated(service.ports.iter().map(|port| port.port)) {
            part.complain(
                part.at_item("ports", n),
                format!("port {} stands here twice", service.ports[n].port),
                "write it once: it has one target",
            );
        }
        for n in repeated(service.endpoints.iter()) {
            part.complain(
                part.at_item("endpoints", n),
                format!("{} stands here twice", service.endpoints[n]),
                "write it once",
            );
        }
        // A workload that was left out for its own mistakes may be the one meant.
        if !draft.complete {
            continue;
        }
        for (n, endpoint) in service.endpoints.iter().enumerate() {
            if !known.contains(endpoint) {
                part.complain(
                    part.at_item("endpoints", n),
                    format!("{endpoint} is an address of no workload and no peer"),
                    "add a [[peer]] with this address, or correct it",
                );
            }
        }
    }
}

fn not_empty<T>(part: &Part<'_>, key: &str, list: &[T]) {
    if list.is_empty() {
        part.complain(
            part.at(key),
            format!("{key} is empty"),
            "write at least one",
        );
    }
}

/// Positions of what stood there before.
fn repeated<T: Eq + Hash>(items: impl Iterator<Item = T>) -> Vec<usize> {
    let mut seen = HashSet::new();
    items
        .enumerate()
        .filter_map(|(n, item)| (!seen.insert(item)).then_some(n))
        .collect()
}

fn names_source(part: &Part<'_>) -> bool {
    SOURCES.iter().any(|name| part.has(name))
}

fn sources(draft: &Draft<'_>, identity: &Identity) {
    let node_has_source = identity.source.is_some() || names_source(&draft.identity);
    for (workload, part) in &draft.workloads {
        if names_source(part) {
            continue;
        }
        if !node_has_source {
            part.complain(
                part.at("name"),
                format!("nothing issues certificates for workload {:?}", workload.name),
                "add one for the node, such as [identity.disk-ca], [identity.spire], [identity.vault] or [identity.cert-manager], or [workload.files] for this one",
            );
        }
        if let Some(Source::CertManager(asked, _)) = &identity.source
            && asked.namespace.is_none()
        {
            part.complain(
                part.at("name"),
                format!("workload {:?} is no pod, and has no namespace in which its certificates could be asked for", workload.name),
                "add identity.cert-manager.namespace, or [workload.cert-manager] with one",
            );
        }
        if let Some(Source::Secrets(..)) = &identity.source {
            part.complain(
                part.at("name"),
                format!("workload {:?} is no pod, and has no Secret", workload.name),
                "give it a source of its own, such as [workload.files]",
            );
        }
        let domain = workload.spiffe_id.trust_domain();
        if domain != identity.trust_domain {
            part.complain(
                part.at("spiffe_id"),
                format!(
                    "{} is not in the node's trust domain {}, so the node's source cannot issue it",
                    workload.spiffe_id, identity.trust_domain
                ),
                "correct the id, or give the workload a source of its own: [workload.files] or [workload.disk-ca]",
            );
        }
    }
}

/// Each pod has an identity of its own, which no file can hold beforehand.
fn pods(draft: &Draft<'_>, identity: &Identity) {
    let Some(part) = &draft.kubernetes else {
        return;
    };
    let issues = match &identity.source {
        Some(source) => !matches!(source, Source::Files(_)),
        // What is wrong with it is said already.
        None => names_source(&draft.identity),
    };
    if !issues {
        part.complain(
            part.at("node_name"),
            "nothing issues certificates for the pods of this node".to_owned(),
            "add [identity.disk-ca], [identity.spire], [identity.vault], [identity.cert-manager] or [identity.secrets]",
        );
    }
}

/// Every peer must belong to a trust domain whose roots are known here.
fn trust(draft: &Draft<'_>, identity: &Identity) {
    let mut seen = HashSet::new();
    for (federated, part) in &draft.federated {
        let domain = &federated.trust_domain;
        if *domain == identity.trust_domain {
            part.complain(
                part.at("trust_domain"),
                format!("{domain} is the node's own trust domain"),
                "its roots come from the node's source: take this [[identity.federated]] out",
            );
        } else if !seen.insert(domain) {
            part.complain(
                part.at("trust_domain"),
                format!("{domain} stands here twice"),
                "put all its roots in one bundle",
            );
        }
    }
    let mut listed = HashSet::new();
    for (crl, part) in &draft.crls {
        if crl.files.is_empty() && crl.urls.is_empty() {
            part.complain(
                part.at("files"),
                "nothing says where its lists are".to_owned(),
                "add files = [..], or urls = [..] where their issuer publishes them",
            );
        }
        if crl.server_ca.is_none() && crl.urls.iter().any(|url| url.server.tls) {
            part.complain(
                part.at("urls"),
                "nothing says which authority vouches for the server".to_owned(),
                "add server_ca, a PEM file with the root of the server's certificate",
            );
        }
        if !listed.insert(&crl.trust_domain) {
            part.complain(
                part.at("trust_domain"),
                format!("{} has revocation lists already", crl.trust_domain),
                "name all its files and URLs in one [[identity.crl]]",
            );
        }
    }
    // An agent hands out the bundles that its entries federate with.
    let brings_others = (draft.workloads.iter())
        .map(|(workload, _)| workload.source.as_ref())
        .chain([identity.source.as_ref()])
        .any(|source| matches!(source, Some(Source::Spire(..))));
    let own_sources = draft
        .workloads
        .iter()
        .filter(|(workload, _)| workload.source.is_some())
        .map(|(workload, _)| workload.spiffe_id.trust_domain());
    let known: HashSet<TrustDomain> = own_sources
        .chain(draft.federated.iter().map(|(f, _)| f.trust_domain.clone()))
        .chain([identity.trust_domain.clone()])
        .collect();
    for (crl, part) in &draft.crls {
        if draft.complete && !known.contains(&crl.trust_domain) {
            part.complain(
                part.at("trust_domain"),
                format!(
                    "nothing here is verified against the trust domain {}",
                    crl.trust_domain
                ),
                "correct the name, or add [[identity.federated]] with its roots",
            );
        }
    }
    for (peer, part) in &draft.peers {
        let domain = peer.spiffe_id.trust_domain();
        if draft.complete && !brings_others && !known.contains(&domain) {
            part.complain(
                part.at("spiffe_id"),
                format!("the trust domain {domain} is not known here, so this peer can never be verified"),
                "add [[identity.federated]] with its roots, or correct the id",
            );
        }
    }
}

fn networks(draft: &Draft<'_>, network: &Network, warnings: &mut Vec<Complaint>) {
    let part = &draft.network;
    for (key, list) in [("mesh", &network.mesh), ("excluded", &network.excluded)] {
        for (n, net) in list.iter().enumerate() {
            if overlaps_loopback(net) {
                part.complain(
                    part.at_item(key, n),
                    format!("{net} covers loopback addresses"),
                    "take it out: loopback connections never leave the workload and always pass",
                );
            }
        }
    }
    for (n, mesh) in network.mesh.iter().enumerate() {
        if let Some(excluded) = network.excluded.iter().find(|net| net.contains(mesh)) {
            part.complain(
                part.at_item("mesh", n),
                format!("{mesh} is excluded as a whole, by {excluded}"),
                "take it out of mesh, or exclude less",
            );
        }
    }
    for key in ["excluded_outbound_ports", "excluded_inbound_ports"] {
        let ports = match key {
            "excluded_outbound_ports" => &network.excluded_outbound_ports,
            _ => &network.excluded_inbound_ports,
        };
        tunnel_port_stays(part, key, ports, network);
    }
    for (workload, part) in &draft.workloads {
        tunnel_port_stays(
            part,
            "excluded_outbound_ports",
            &workload.excluded_outbound_ports,
            network,
        );
        tunnel_port_stays(
            part,
            "excluded_inbound_ports",
            &workload.excluded_inbound_ports,
            network,
        );
        warn_excluded(part, &workload.addresses, network, warnings);
    }
    for (peer, part) in &draft.peers {
        warn_excluded(part, &peer.addresses, network, warnings);
    }
    if network.mesh.is_empty() && draft.kubernetes.is_none() {
        warnings.push(Complaint::new(
            part.at("mesh"),
            "network.mesh is empty, so every address that is no known workload counts as outside",
            "write the networks of the nodes' workloads, and a workload that is not known yet is refused instead of reached in clear",
        ));
    }
}

fn tunnel_port_stays(part: &Part<'_>, key: &str, ports: &[u16], network: &Network) {
    if let Some(n) = ports.iter().position(|port| *port == network.tunnel_port) {
        part.complain(
            part.at_item(key, n),
            format!("{} is the port of the tunnels", network.tunnel_port),
            "take it out: tunnels are never intercepted, and nothing else may be at this port",
        );
    }
}

fn warn_excluded(
    part: &Part<'_>,
    addresses: &[IpAddr],
    network: &Network,
    warnings: &mut Vec<Complaint>,
) {
    for (n, address) in addresses.iter().enumerate() {
        if let Some(net) = network.excluded.iter().find(|net| net.contains(address)) {
            warnings.push(Complaint::new(
                part.at_item("addresses", n),
                format!("{address} lies in the excluded network {net}, so connections to and from it travel in clear"),
                "exclude less, if that is not meant",
            ));
        }
    }
}

fn overlaps_loopback(net: &IpNet) -> bool {
    match net {
        IpNet::V4(net) => {
            let loopback = Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8);
            net.contains(&loopback) || loopback.contains(net)
        }
        IpNet::V6(net) => {
            let loopback = Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128);
            net.contains(&loopback)
        }
    }
}

fn limit_pairs(draft: &Draft<'_>, limits: &Limits, warnings: &mut Vec<Complaint>) {
    let part = &draft.limits;
    if limits.buffer_total < limits.buffer_per_workload {
        part.complain(
            at_any(part, ["buffer_total", "buffer_per_workload"]),
            "limits.buffer_total is less than limits.buffer_per_workload".to_owned(),
            "raise the one or lower the other",
        );
    }
    if limits.establish < limits.connect.max(limits.handshake) {
        warnings.push(Complaint::new(
            at_any(part, ["establish", "connect"]),
            "limits.establish is shorter than one of its steps, limits.connect or limits.handshake",
            "raise it above both, or the step's own limit never applies",
        ));
    }
}

fn at_any<const N: usize>(part: &Part<'_>, keys: [&str; N]) -> Range<usize> {
    let written = keys.into_iter().find(|key| part.has(key));
    part.at(written.unwrap_or(keys[0]))
}
