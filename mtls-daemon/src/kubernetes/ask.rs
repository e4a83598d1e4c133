//! Who is at an address: pods of other nodes, asked for when a connection
//! needs to know, and only then.

use std::net::IpAddr;

use k8s_openapi::api::core::v1 as core;
use kube::api::ListParams;
use kube::{Api, Client};

use crate::spiffe::SpiffeId;

use super::pods::{Pod, Rules};
use super::services::PodRef;

/// What helps to find the pod at an address.
#[derive(Debug, Default)]
pub(super) struct Hints {
    /// The pod that an EndpointSlice has there.
    pub(super) pod: Option<PodRef>,
    /// The node that gives its pods such addresses.
    pub(super) node: Option<String>,
}

/// The identity of the pod at `address`; `None` if no pod with an identity is
/// there.
pub(super) async fn who(
    client: &Client,
    address: IpAddr,
    hints: Hints,
    rules: &Rules,
) -> kube::Result<Option<SpiffeId>> {
    if let Some(named) = hints.pod {
        let pods: Api<core::Pod> = Api::namespaced(client.clone(), &named.namespace);
        let pod = pods.get_opt(&named.name).await?;
        let pod = pod.and_then(|pod| Pod::read(pod, rules));
        let id = pod
            .filter(|pod| pod.uid == named.uid)
            .and_then(|pod| identity_at(&pod, address, rules));
        if id.is_some() {
            return Ok(id);
        }
    }
    let by_address = format!("status.podIP={address}");
    let found = among(client, &by_address, address, rules).await?;
    match (found, hints.node) {
        // That knows the first of a pod's addresses only.
        (None, Some(node)) => {
            let on_node = format!("spec.nodeName={node}");
            among(client, &on_node, address, rules).await
        }
        (found, _) => Ok(found),
    }
}

async fn among(
    client: &Client,
    fields: &str,
    address: IpAddr,
    rules: &Rules,
) -> kube::Result<Option<SpiffeId>> {
    let pods: Api<core::Pod> = Api::all(client.clone());
    let pods = pods.list(&ListParams::default().fields(fields)).await?;
    let mut at_address = (pods.items.into_iter())
        .filter_map(|pod| identity_at(&Pod::read(pod, rules)?, address, rules));
    Ok(at_address.next())
}

fn identity_at(pod: &Pod, address: IpAddr, rules: &Rules) -> Option<SpiffeId> {
    let is_there = pod.addresses.contains(&address);
    is_there.then(|| pod.identity(rules)).flatten()
}
