//! `[[peer-authentication]]`: modes of several workloads at once, and of their
//! ports, in the words of Istio's PeerAuthentication.

use super::authorization::{list, unknown};
use super::mistakes::Complaint;
use super::parse::Draft;
use super::reader::Part;
use super::{Config, Mode, Pattern, PortMode, Selected};

/// One of them. Of several that speak of a workload in the same way, the first
/// that says something counts.
#[derive(Clone, Debug, PartialEq)]
pub struct PeerAuthentication {
    pub name: String,
    pub of: Of,
    /// `None`: of single ports alone.
    pub mode: Option<Mode>,
    pub port_modes: Vec<PortMode>,
}

/// Whom it speaks of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Of {
    Workloads(Vec<Selected>),
    /// Goes behind those that speak of workloads.
    Namespaces(Vec<Pattern>),
}

pub(super) fn read(part: &Part<'_>) -> Option<PeerAuthentication> {
    let name = part.get::<String>("name");
    let workloads = list::<Selected>(part, "workloads");
    let namespaces = list::<Pattern>(part, "namespaces");
    let mode = part.get::<Mode>("mode");
    let port_modes = part.get::<Vec<PortMode>>("port_modes");
    let complain = |at: &str, what: &str, remedy: &str| {
        part.complain(part.at(at), what.to_owned(), remedy);
    };
    let of = match (workloads?, namespaces?) {
        (workloads, none) if none.is_empty() && !workloads.is_empty() => Of::Workloads(workloads),
        (none, namespaces) if none.is_empty() && !namespaces.is_empty() => {
            if part.has("port_modes") {
                let what = "ports of all workloads of a namespace have no mode of their own";
                let remedy = "write workloads = [..] instead, with names or SPIFFE IDs such as \"spiffe://example.org/ns/shop/*\"";
                complain("port_modes", what, remedy);
            }
            Of::Namespaces(namespaces)
        }
        (none, _) => {
            let what = match none.is_empty() {
                true => "it does not say of whom it speaks",
                false => "it speaks of workloads and of namespaces",
            };
            let remedy = "write workloads = [..] or namespaces = [..]; node.mode is for all others";
            complain("name", what, remedy);
            return None;
        }
    };
    if mode.is_none() && !part.has("mode") && !part.has("port_modes") {
        let what = "it says nothing";
        complain("name", what, "write mode = \"strict\", or port_modes");
    }
    Some(PeerAuthentication {
        name: name?,
        of,
        mode,
        port_modes: port_modes?,
    })
}

/// Two modes of one port would be a matter of luck.
pub(super) fn check_ports(draft: &Draft<'_>) {
    let workloads = (draft.workloads.iter()).map(|(it, part)| (&it.port_modes, part));
    let authentications = (draft.authentications.iter()).map(|(it, part)| (&it.port_modes, part));
    for (port_modes, part) in workloads.chain(authentications) {
        for (nth, PortMode { port, .. }) in port_modes.iter().enumerate() {
            if port_modes[..nth].iter().any(|other| other.port == *port) {
                part.complain(
                    part.at_item("port_modes", nth),
                    format!("port {port} stands here twice"),
                    "write it once: it has one mode",
                );
            }
        }
    }
}

/// Names that nobody has.
pub(super) fn warn(
    read: &[(PeerAuthentication, Part<'_>)],
    config: &Config,
    warnings: &mut Vec<Complaint>,
) {
    for (authentication, part) in read {
        let Of::Workloads(selected) = &authentication.of else {
            continue;
        };
        for (nth, one) in selected.iter().enumerate() {
            if unknown(one, config) {
                warnings.push(Complaint::new(
                    part.at_item("workloads", nth),
                    format!("no workload is {one}, so nobody has this mode"),
                    "correct it, or add the [[workload]]",
                ));
            }
        }
    }
}
