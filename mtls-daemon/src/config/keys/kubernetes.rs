//! The keys of `[kubernetes]`.

use super::Applies::Restart;
use super::Fallback::{Is, Unset};
use super::Shape::{Choice, IdTemplate, LabelPrefix, Name, Path};
use super::{Key, MODES, key};

#[rustfmt::skip]
pub(super) const KUBERNETES: [Key; 10] = [
    key("node_name", Name, Unset("`NODE_NAME` of the environment, or else `node.name`"), Restart, r#""node-a""#,
        "The node's name in the cluster. A DaemonSet sets `NODE_NAME` from `spec.nodeName`."),
    key("kubeconfig", Path, Unset("the service account of the daemon's own pod"), Restart, r#""/etc/kubernetes/mtls-daemon.conf""#,
        "A kubeconfig file that says where the API server is and how the daemon logs in."),
    key("daemonset", Name, Unset("the daemon stays until it is taken away by hand"), Restart, r#""mtls-daemon""#,
        "The DaemonSet that the daemon runs in, in its own namespace. Where that has something in its annotation `mtls-daemon.io/uninstall`, the daemon detaches for good and says so in an Event. When the daemon ends because it is deleted, or does not say `mtls-daemon.io/cni: \"true\"` in an annotation any more, the daemon takes its network plug-in's entry away."),
    key("spiffe_path", IdTemplate, Is(r#""/ns/{namespace}/sa/{service_account}""#), Restart, r#""/ns/{namespace}/sa/{service_account}""#,
        "Path of the pods' SPIFFE IDs in `identity.trust_domain`; `{namespace}` and `{service_account}` stand for the pod's. The same on all nodes."),
    key("label_prefix", LabelPrefix, Is(r#""mtls-daemon.io""#), Restart, r#""mtls-daemon.io""#,
        "What the labels and annotations that the daemon heeds begin with: the label `PREFIX/mode` of a namespace, and the label or annotation `PREFIX/mode` of a pod, which goes first, are `strict`, `permissive` or `off`."),
    key("mode", MODES, Is(r#""off""#), Restart, r#""off""#,
        "Mode of the pods of which no label speaks."),
    key("kubelet_cgroup", Path, Unset("its probes are refused, but at excluded ports"), Restart, r#""/sys/fs/cgroup/system.slice/kubelet.service""#,
        "The cgroup2 folder that the kubelet runs in. Its probes of enrolled pods come in, in clear, at the ports of their liveness, readiness and startup probes, and nobody else's; also while the daemon is down."),
    key("istio_policies", Choice(&["read", "ignore"]), Is(r#""read""#), Restart, r#""read""#,
        "Istio's AuthorizationPolicies and PeerAuthentications, where the cluster has their CustomResourceDefinitions: `read` holds this node's pods to them, beside the policies of files, `ignore` does not ask for them."),
    key("istio_root_namespace", Name, Is(r#""istio-system""#), Restart, r#""istio-system""#,
        "The namespace whose objects speak of the pods of every namespace: `meshConfig.rootNamespace`."),
    key("state", Path, Is(r#""/var/lib/mtls-daemon/cluster""#), Restart, r#""/var/lib/mtls-daemon/cluster""#,
        "File in which the daemon keeps what it knows of the cluster, for a start while the API server is away. Each daemon of a machine has its own. Its folder is made with mode 0700 if it is not there."),
];
