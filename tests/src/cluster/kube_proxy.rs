//! kube-proxy: on a node of its own it is what carries Services, for everybody
//! whom the daemon does not.

use std::path::Path;
use std::time::Duration;

use serde_json::json;

use crate::deadline::{Deadline, wait_for};
use crate::error::{Doing, Result};
use crate::process::Process;
use crate::programs;

use super::{ControlPlane, Worker};

/// A node's, in one of its modes; ends when dropped, and leaves its rules.
pub struct KubeProxy {
    _process: Process,
}

/// For its first rules, on a busy machine.
const START: Duration = Duration::from_secs(60);
/// Where it says how it is.
const HEALTH: &str = "http://127.0.0.1:10256/healthz";

impl KubeProxy {
    /// Starts it in the mode `iptables` or `nftables`, and waits for its first
    /// rules.
    pub fn start(worker: &Worker, plane: &ControlPlane, mode: &str) -> Result<Self> {
        let node = worker.node();
        // What runs on a bridge passes the rules, as nodes have it, if this
        // machine's kernel has br_netfilter.
        for family in ["iptables", "ip6tables"] {
            let key = format!("net/bridge/bridge-nf-call-{family}");
            if Path::new("/proc/sys").join(&key).exists() {
                node.netns().sysctl(&key, "1")?;
            }
        }
        // A Service's address needs a way before a rule makes it another.
        node.netns()
            .ip("route replace default dev pods\nroute replace ::/0 dev pods\n")?;
        programs::need(match mode {
            "iptables" => "iptables",
            _ => "nft",
        })?;
        let config = json!({
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration",
            "mode": mode, "hostnameOverride": node.name(),
            "clientConnection": {"kubeconfig": plane.admin()},
            "clusterCIDR": CLUSTER, "detectLocalMode": "ClusterCIDR",
            "healthzBindAddress": "127.0.0.1:10256",
            // This machine's limits are not the node's.
            "conntrack": {"maxPerCore": 0, "min": 0},
        });
        let name = format!("kube-proxy-{}", node.name());
        let file = plane.folder().join(format!("{name}.json"));
        std::fs::write(&file, config.to_string())
            .doing(|| format!("writing {}", file.display()))?;
        let mut process = worker
            .spawn(programs::kubernetes("kube-proxy")?)?
            .named(&name)
            .arg(format!("--config={}", file.display()))
            .start()?;
        wait_for(
            Deadline::after(START),
            || format!("{name} to have written its rules"),
            || {
                process.must_run()?;
                let curl = node.spawn("curl")?.args(["--silent", "--fail", HEALTH]);
                Ok(curl.output()?.status.success().then_some(()))
            },
        )?;
        Ok(Self { _process: process })
    }
}

/// The networks of both nodes' pods.
const CLUSTER: &str = "10.0.0.0/16,fd00::/32";
