//! The keys of `[cni]`.

use super::Applies::Restart;
use super::Fallback::Is;
use super::Shape::{Bool, List, Name, Path};
use super::{Key, key};

pub(super) const DOC: &str = "The network plug-in by which a pod of the node is enrolled before its first process runs: `mtls-daemon cni`, behind the plug-ins that are there. The daemon installs it and keeps it in place. docs/kubernetes.md says what it asks of a node.";

#[rustfmt::skip]
pub(super) const CNI: [Key; 5] = [
    key("enabled", Bool, Is("false"), Restart, "true",
        "`true`: the plug-in is installed, and pods wait until the daemon has enrolled them. `false`: it is taken out again, if the daemon's entry is there."),
    key("conf_dir", Path, Is(r#""/etc/cni/net.d""#), Restart, r#""/etc/cni/net.d""#,
        "The container runtime's folder of network configurations. The entry is added to the first one, as the runtime reads them."),
    key("bin_dir", Path, Is(r#""/opt/cni/bin""#), Restart, r#""/opt/cni/bin""#,
        "The container runtime's folder of network plug-ins, to which the daemon copies itself."),
    key("socket", Path, Is(r#""/run/mtls-daemon/cni.sock""#), Restart, r#""/run/mtls-daemon/cni.sock""#,
        "Unix socket at which the plug-in finds the daemon; root only. The same path for both: in a pod, its folder is a hostPath."),
    key("exclude", List(&Name), Is(r#"["kube-system"]"#), Restart, r#"["kube-system", "mtls-daemon"]"#,
        "Namespaces whose pods never wait for the daemon. They are enrolled all the same, as if there were no plug-in."),
];
