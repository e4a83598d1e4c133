//! `node.floor`: the least that every workload of the node gets, whoever
//! writes the rest of the file.

use super::parse::Draft;
use super::reader::Part;
use super::{Kubernetes, Mode, Node, PortMode};

/// Whatever is looser than the floor is a mistake, where it stands.
pub(super) fn check(draft: &Draft<'_>, node: &Node, kubernetes: Option<&Kubernetes>) {
    let refuse = |part: &Part<'_>, key: &str, mode: Mode| {
        if mode < node.floor {
            part.complain(
                part.at("mode"),
                format!(
                    "{key} is {mode}, and node.floor forbids what is looser than {}",
                    node.floor
                ),
                format!("write mode = \"{}\", or lower node.floor", node.floor),
            );
        }
    };
    refuse(&draft.node, "node.mode", node.mode);
    for (workload, part) in &draft.workloads {
        if let Some(mode) = workload.mode {
            refuse(
                part,
                &format!("the mode of workload {:?}", workload.name),
                mode,
            );
        }
        for PortMode { port, mode } in &workload.port_modes {
            let key = format!("the mode of port {port} of workload {:?}", workload.name);
            refuse(part, &key, *mode);
        }
    }
    for (it, part) in &draft.authentications {
        let whose = format!("peer authentication {:?}", it.name);
        if let Some(mode) = it.mode {
            refuse(part, &format!("the mode of {whose}"), mode);
        }
        for PortMode { port, mode } in &it.port_modes {
            refuse(part, &format!("the mode of port {port} of {whose}"), *mode);
        }
    }
    if let (Some(part), Some(kubernetes)) = (&draft.kubernetes, kubernetes) {
        refuse(part, "kubernetes.mode", kubernetes.mode);
    }
}
