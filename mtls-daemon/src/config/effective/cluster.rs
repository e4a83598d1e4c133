//! The cluster that a node belongs to, and how it takes its pods.

use super::super::{Cni, Kubernetes};
use super::{Block, block, path, plain, text, texts};

pub(super) fn kubernetes_block(kubernetes: &Kubernetes) -> Block {
    let Kubernetes {
        node,
        kubeconfig,
        spiffe_path,
        label_prefix,
        mode,
        kubelet_cgroup,
        state,
    } = kubernetes;
    block(
        "kubernetes",
        None,
        [
            ("node_name", text(node)),
            ("kubeconfig", kubeconfig.as_deref().and_then(path)),
            ("spiffe_path", text(spiffe_path)),
            ("label_prefix", text(label_prefix)),
            ("mode", text(mode)),
            ("kubelet_cgroup", kubelet_cgroup.as_deref().and_then(path)),
            ("state", path(state)),
        ],
    )
}

pub(super) fn cni_block(cni: &Cni) -> Block {
    let Cni {
        enabled,
        conf_dir,
        bin_dir,
        socket,
        exclude,
        daemonset,
    } = cni;
    block(
        "cni",
        None,
        [
            ("enabled", plain(enabled)),
            ("conf_dir", path(conf_dir)),
            ("bin_dir", path(bin_dir)),
            ("socket", path(socket)),
            ("exclude", texts(exclude)),
            ("daemonset", daemonset.as_ref().and_then(text)),
        ],
    )
}
