//! Who is at an address: pods of other nodes, asked for when a connection
//! needs to know, and only then.

use std::net::IpAddr;

use k8s_openapi::api::core::v1 as core;
use kube::api::ListParams;
use kube::{Api, Client};

use crate::directory::Who;

use super::pods::{Pod, Rules};
use super::services::PodRef;

/// What helps to find the pod at an address.
#[derive(Debug, Default)]
pub(super) struct Hints {
    /// The pod that an EndpointSlice has there.
    pub(super) pod: Option<PodRef>,
    /// The node that gives its pods such addresses.
    pub(super) node: Option<String>,
    /// A node says that it is its own.
    pub(super) of_node: bool,
}

/// Who is at `address`. A node may say what it likes of its own addresses, and
/// of those of its pods with `hostNetwork`: whichever other pod is there counts.
pub(super) async fn who(
    client: &Client,
    address: IpAddr,
    hints: Hints,
    rules: &Rules,
) -> kube::Result<Who> {
    let mut of_node = hints.of_node;
    if let Some(named) = hints.pod {
        let pods: Api<core::Pod> = Api::namespaced(client.clone(), &named.namespace);
        let pod = pods.get_opt(&named.name).await?;
        let pod = pod.and_then(|pod| Pod::read(pod, rules));
        let pod = pod.filter(|pod| pod.uid == named.uid);
        match pod.map(|pod| pod.at(address, rules)) {
            Some(Who::Workload(id)) => return Ok(Who::Workload(id)),
            Some(Who::Node) => of_node = true,
            Some(Who::Nobody) | None => {}
        }
    }
    let by_address = format!("status.podIP={address}");
    match among(client, &by_address, address, rules).await? {
        Who::Workload(id) => return Ok(Who::Workload(id)),
        Who::Node => of_node = true,
        Who::Nobody => {}
    }
    match hints.node {
        // What was asked for knows the first of a pod's addresses only. And
        // where pods have their addresses from, no node has its own.
        Some(node) => {
            let on_node = format!("spec.nodeName={node}");
            match among(client, &on_node, address, rules).await? {
                Who::Workload(id) => Ok(Who::Workload(id)),
                Who::Node | Who::Nobody => Ok(Who::Nobody),
            }
        }
        None if of_node => Ok(Who::Node),
        None => Ok(Who::Nobody),
    }
}

async fn among(client: &Client, fields: &str, address: IpAddr, rules: &Rules) -> kube::Result<Who> {
    let pods: Api<core::Pod> = Api::all(client.clone());
    let pods = pods.list(&ListParams::default().fields(fields)).await?;
    let mut found = Who::Nobody;
    for pod in pods.items {
        match Pod::read(pod, rules).map(|pod| pod.at(address, rules)) {
            Some(Who::Workload(id)) => return Ok(Who::Workload(id)),
            Some(Who::Node) => found = Who::Node,
            Some(Who::Nobody) | None => {}
        }
    }
    Ok(found)
}
