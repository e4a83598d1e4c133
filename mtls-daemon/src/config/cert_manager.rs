//! `[identity.cert-manager]`: a cluster's cert-manager, which has an issuer of
//! its own choice sign.

use std::path::PathBuf;
use std::time::Duration;

use super::reader::Part;

#[derive(Clone, Debug, PartialEq)]
pub struct CertManager {
    /// Name of the issuer.
    pub issuer: String,
    /// Default: Issuer.
    pub issuer_kind: String,
    /// Default: cert-manager.io.
    pub issuer_group: String,
    /// Where requests are made; `None`: in the pod's own namespace.
    pub namespace: Option<String>,
    /// `None`: the service account of the daemon's own pod.
    pub kubeconfig: Option<PathBuf>,
    /// Lifetime of a workload's certificate. Default: 1 h.
    pub svid_ttl: Duration,
    /// PEM: the roots that peers are verified against.
    pub bundle: PathBuf,
}

/// The pod that a certificate is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwningPod {
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

pub(super) fn cert_manager(part: &Part<'_>) -> Option<CertManager> {
    let issuer = part.get("issuer");
    let issuer_kind = part.get("issuer_kind");
    let issuer_group = part.get("issuer_group");
    let namespace = part.get("namespace");
    let kubeconfig = part.get("kubeconfig");
    let svid_ttl = part.get::<Duration>("svid_ttl");
    let bundle = part.get("bundle");
    Some(CertManager {
        issuer: issuer?,
        issuer_kind: issuer_kind?,
        issuer_group: issuer_group?,
        namespace,
        kubeconfig,
        svid_ttl: svid_ttl?,
        bundle: bundle?,
    })
}
