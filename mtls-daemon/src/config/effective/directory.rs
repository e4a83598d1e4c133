//! Who is who, written out again: workloads, peers and services.

use super::super::{Peer, Place, Service, ServicePort, Workload};
use super::sources::source_block;
use super::{Block, block, list, path, plain, text, texts};

pub(super) fn workload_blocks(workload: &Workload, blocks: &mut Vec<Block>) {
    let Workload {
        name,
        spiffe_id,
        place,
        addresses,
        mode,
        port_modes,
        connect,
        source,
        excluded,
        excluded_outbound_ports,
        excluded_inbound_ports,
        // Pods have them, and no file says them.
        probe_ports: _,
    } = workload;
    let (netns, cgroup, unit) = match place {
        Place::Netns(file) => (path(file), None, None),
        Place::Cgroup(folder) => (None, path(folder), None),
        Place::Unit(unit) => (None, None, text(unit)),
        // No file can say it.
        Place::Pod(_) => (None, None, None),
    };
    blocks.push(block(
        "workload",
        Some(name),
        [
            ("name", text(name)),
            ("spiffe_id", text(spiffe_id)),
            ("netns", netns),
            ("cgroup", cgroup),
            ("unit", unit),
            ("addresses", texts(addresses)),
            ("mode", mode.as_ref().and_then(text)),
            ("port_modes", list(port_modes)),
            ("connect", connect.as_ref().and_then(text)),
            ("excluded", texts(excluded)),
            ("excluded_outbound_ports", list(excluded_outbound_ports)),
            ("excluded_inbound_ports", list(excluded_inbound_ports)),
        ],
    ));
    let source = source.as_ref();
    blocks.extend(source.map(|source| source_block("workload", Some(name), source)));
}

pub(super) fn peer_block(peer: &Peer) -> Block {
    let Peer {
        name,
        spiffe_id,
        addresses,
        tunnel,
        enrolled,
    } = peer;
    block(
        "peer",
        Some(name),
        [
            ("name", text(name)),
            ("spiffe_id", text(spiffe_id)),
            ("addresses", texts(addresses)),
            ("tunnel", tunnel.as_ref().and_then(text)),
            ("enrolled", plain(enrolled)),
        ],
    )
}

pub(super) fn service_block(service: &Service) -> Block {
    let Service {
        name,
        addresses,
        ports,
        endpoints,
    } = service;
    block(
        "service",
        Some(name),
        [
            ("name", text(name)),
            ("addresses", texts(addresses)),
            ("ports", list(ports.iter().map(service_port))),
            ("endpoints", texts(endpoints)),
        ],
    )
}

fn service_port(port: &ServicePort) -> String {
    let ServicePort { port, target } = *port;
    match port == target {
        true => port.to_string(),
        false => format!("{{ port = {port}, target = {target} }}"),
    }
}
