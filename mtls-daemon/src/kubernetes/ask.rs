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

/// Who was found at an address. What a pod's mode is, its namespace's labels
/// have a say in.
pub(super) enum Found {
    Pod(Box<Pod>),
    Node,
    Nobody,
}

/// Who is at `address`. A node may say what it likes of its own addresses, and
/// of those of its pods with `hostNetwork`: whichever other pod is there counts.
pub(super) async fn who(
    client: &Client,
    address: IpAddr,
    hints: Hints,
    rules: &Rules,
) -> kube::Result<Found> {
    let mut of_node = hints.of_node;
    if let Some(named) = hints.pod {
        let pods: Api<core::Pod> = Api::namespaced(client.clone(), &named.namespace);
        let pod = pods.get_opt(&named.name).await?;
        let pod = pod.and_then(|pod| Pod::read(pod, rules));
        match judge(pod.filter(|pod| pod.uid == named.uid), address, rules) {
            Found::Pod(pod) => return Ok(Found::Pod(pod)),
            Found::Node => of_node = true,
            Found::Nobody => {}
        }
    }
    let by_address = format!("status.podIP={address}");
    match among(client, &by_address, address, rules).await? {
        Found::Pod(pod) => return Ok(Found::Pod(pod)),
        Found::Node => of_node = true,
        Found::Nobody => {}
    }
    match hints.node {
        // What was asked for knows the first of a pod's addresses only. And
        // where pods have their addresses from, no node has its own.
        Some(node) => {
            let on_node = format!("spec.nodeName={node}");
            match among(client, &on_node, address, rules).await? {
                Found::Pod(pod) => Ok(Found::Pod(pod)),
                Found::Node | Found::Nobody => Ok(Found::Nobody),
            }
        }
        None if of_node => Ok(Found::Node),
        None => Ok(Found::Nobody),
    }
}

async fn among(
    client: &Client,
    fields: &str,
    address: IpAddr,
    rules: &Rules,
) -> kube::Result<Found> {
    let pods: Api<core::Pod> = Api::all(client.clone());
    let pods = pods.list(&ListParams::default().fields(fields)).await?;
    let mut found = Found::Nobody;
    for pod in pods.items {
        match judge(Pod::read(pod, rules), address, rules) {
            Found::Pod(pod) => return Ok(Found::Pod(pod)),
            Found::Node => found = Found::Node,
            Found::Nobody => {}
        }
    }
    Ok(found)
}

fn judge(pod: Option<Pod>, address: IpAddr, rules: &Rules) -> Found {
    let Some(pod) = pod else {
        return Found::Nobody;
    };
    match pod.at(address, None, rules) {
        Who::Workload(_) | Who::NotEnrolled(_) => Found::Pod(Box::new(pod)),
        Who::Node => Found::Node,
        Who::Nobody => Found::Nobody,
    }
}
