//! cert-manager's own controllers, beside the control plane. Its webhooks are
//! not there: nobody checks who may approve.

use serde_json::{Value, json};

use crate::deadline::{Deadline, wait_for};
use crate::error::Result;
use crate::mesh::Ca;
use crate::process::Process;
use crate::programs;

use super::{ControlPlane, tls_secret};

/// The controllers of issuers, and the signer of CA issuers.
pub struct CertManager {
    _controllers: Process,
}

/// Who approves requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Approver {
    /// cert-manager's own, which approves them all.
    Own,
    /// The story.
    Played,
}

const DEFINITIONS: [&str; 3] = [
    "certificaterequests.yaml",
    "issuers.yaml",
    "clusterissuers.yaml",
];

impl CertManager {
    /// Has the API server serve its objects.
    pub fn define(plane: &ControlPlane) -> Result {
        for file in DEFINITIONS {
            let path = programs::cert_manager(file)?;
            plane.kubectl(&["create", "-f", &path.to_string_lossy()])?;
            let kind = file.trim_end_matches(".yaml");
            plane.wait_until_served(&format!("{kind}.cert-manager.io"))?;
        }
        Ok(())
    }

    pub fn start(plane: &ControlPlane, approver: Approver) -> Result<Self> {
        let controllers = plane
            .node()
            .spawn(programs::cert_manager("cert-manager-controllers")?)?
            .cgroup(plane.cgroup())
            .env("KUBECONFIG", plane.folder().join("kubeconfig"))
            .env(
                "APPROVER",
                match approver {
                    Approver::Own => "on",
                    Approver::Played => "off",
                },
            )
            .start()?;
        Ok(Self {
            _controllers: controllers,
        })
    }

    /// The Secret of the issuer `mesh` of a namespace.
    pub fn give_key(plane: &ControlPlane, namespace: &str, ca: &Ca) -> Result {
        tls_secret(plane, [namespace, "mesh"], &ca.certificate, &ca.key)
    }

    /// An issuer `mesh` that signs with the key in the Secret of that name.
    pub fn issuer(plane: &ControlPlane, namespace: &str) -> Result {
        plane.apply(&json!({
            "apiVersion": "cert-manager.io/v1", "kind": "Issuer",
            "metadata": {"name": "mesh", "namespace": namespace},
            "spec": {"ca": {"secretName": "mesh"}},
        }))
    }

    /// Requests that are there.
    pub fn requests(plane: &ControlPlane, namespace: &str) -> Result<Vec<Value>> {
        let found = plane.get(&["certificaterequests", "-n", namespace])?;
        Ok(found["items"].as_array().cloned().unwrap_or_default())
    }

    /// What an approver or the controller of an issuer says of the next
    /// request that meets `is_it`.
    pub fn say(
        plane: &ControlPlane,
        namespace: &str,
        is_it: impl Fn(&Value) -> bool,
        condition: &Value,
    ) -> Result {
        wait_for(
            Deadline::default(),
            || "a CertificateRequest",
            || {
                let mut requests = Self::requests(plane, namespace)?.into_iter();
                let Some(request) = requests.find(|request| is_it(request)) else {
                    return Ok(None);
                };
                let name = request["metadata"]["name"].as_str().unwrap_or_default();
                let mut conditions = request["status"]["conditions"]
                    .as_array()
                    .cloned()
                    .unwrap_or_default();
                conditions.retain(|one| one["type"] != condition["type"]);
                conditions.push(condition.clone());
                let patch = json!({"status": {"conditions": conditions}}).to_string();
                let words = [
                    "patch",
                    "certificaterequest",
                    "-n",
                    namespace,
                    name,
                    "--subresource=status",
                    "--type=merge",
                    "-p",
                    &patch,
                ];
                plane.kubectl(&words).map(Some)
            },
        )
        .map(drop)
    }
}
