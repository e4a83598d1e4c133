//! `[kubernetes]` written out again.

use super::super::{IstioPolicies, Kubernetes};
use super::{Block, block, path, text};

pub(super) fn kubernetes_block(kubernetes: &Kubernetes) -> Block {
    let Kubernetes {
        node,
        kubeconfig,
        daemonset,
        spiffe_path,
        label_prefix,
        mode,
        kubelet_cgroup,
        istio_policies,
        istio_root_namespace,
        state,
    } = kubernetes;
    let istio_policies = match istio_policies {
        IstioPolicies::Read => "read",
        IstioPolicies::Ignore => "ignore",
    };
    block(
        "kubernetes",
        None,
        [
            ("node_name", text(node)),
            ("kubeconfig", kubeconfig.as_deref().and_then(path)),
            ("daemonset", daemonset.as_ref().and_then(text)),
            ("spiffe_path", text(spiffe_path)),
            ("label_prefix", text(label_prefix)),
            ("mode", text(mode)),
            ("kubelet_cgroup", kubelet_cgroup.as_deref().and_then(path)),
            ("istio_policies", text(istio_policies)),
            ("istio_root_namespace", text(istio_root_namespace)),
            ("state", path(state)),
        ],
    )
}
