//! `[cni]`: the network plug-in that holds pods back until they are enrolled.

use std::path::PathBuf;

use super::reader::Part;
use super::{Identity, SelectedBy, Source};

/// `[cni]`
#[derive(Clone, Debug, PartialEq)]
pub struct Cni {
    /// Default: not. Restart.
    pub enabled: bool,
    /// Of the runtime's network configurations. Default: /etc/cni/net.d. Restart.
    pub conf_dir: PathBuf,
    /// Of the runtime's plug-ins. Default: /opt/cni/bin. Restart.
    pub bin_dir: PathBuf,
    /// Where the plug-in finds the daemon. Default: /run/mtls-daemon/cni.sock. Restart.
    pub socket: PathBuf,
    /// Namespaces whose pods never wait. Default: kube-system. Restart.
    pub exclude: Vec<String>,
}

pub(super) fn cni(part: &Part<'_>) -> Option<Cni> {
    let enabled = part.get::<bool>("enabled");
    let conf_dir = part.get("conf_dir");
    let bin_dir = part.get("bin_dir");
    let socket = part.get("socket");
    let exclude = part.get("exclude");
    Some(Cni {
        enabled: enabled?,
        conf_dir: conf_dir?,
        bin_dir: bin_dir?,
        socket: socket?,
        exclude: exclude?,
    })
}

/// Pods that wait for what cannot come would wait for ever.
pub(super) fn check(part: &Part<'_>, cni: &Cni, has_cluster: bool, identity: &Identity) {
    if !cni.enabled {
        return;
    }
    if !has_cluster {
        part.complain(
            part.at("enabled"),
            "the plug-in holds pods back, and nothing says which pods there are".to_owned(),
            "add [kubernetes], or take [cni] out",
        );
    }
    if let Some(Source::Spire(_, SelectedBy::Pid)) = identity.source {
        part.complain(
            part.at("enabled"),
            "a pod that waits has no process yet that SPIRE's agent could attest".to_owned(),
            "leave identity.spire.select at \"name\": the agent is asked by the pod's selectors then",
        );
    }
}
