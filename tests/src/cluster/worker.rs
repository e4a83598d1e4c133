//! A node of a cluster with a real kubelet and a real containerd: in file
//! systems of its own, each in a cgroup of its own below the attach point.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::cgroup::{self, Cgroup};
use crate::deadline::{Deadline, wait_for};
use crate::error::{Doing, Error, Result};
use crate::mounts::{self, Mounts};
use crate::node::{Family, Node, WIRE};
use crate::process::{Process, Spawn};
use crate::{programs, run};

use super::{ControlPlane, images};

/// A node whose pods are real containers.
pub struct Worker {
    node: Node,
    /// What it has of this machine's disk.
    files: PathBuf,
    bpffs: PathBuf,
    /// Its view of this machine; none while it has no power.
    mounts: Option<Mounts>,
    kubelet: Option<Process>,
    containerd: Option<Process>,
    cgroups: Cgroups,
}

#[derive(Debug)]
struct Cgroups {
    kubelet: Cgroup,
    runtime: Cgroup,
    /// Made by the kubelet, with every pod in it.
    pods: PathBuf,
}

const SOCKET: &str = "/run/containerd/containerd.sock";
const NETWORK: &str = "/etc/cni/net.d/10-node.conflist";
/// Of pods, a file each (host-local).
const ADDRESSES: &str = "/run/cni/node";
/// Where nodes keep what this harness gives them, by the paths they see.
const OWN: &str = "/opt/node";
const STATIC_PODS: &str = "/opt/node/pods";

/// What kubelet and runtime need to come up on a busy machine.
const START: Duration = Duration::from_secs(90);

impl Worker {
    /// Makes a node one of the cluster's, and starts what runs its pods.
    pub fn start(node: &Node, plane: &ControlPlane) -> Result<Self> {
        let root = node.cgroup();
        root.delegate()?;
        cgroup::make_twins(root)?;
        let files = node.scene().data(&format!("node-{}", node.name()))?;
        write_files(node, &files, plane)?;
        // Mounted where the first process of this machine sees it, as on a node.
        let bpffs = node.scene().dir().join(format!("bpffs-{}", node.name()));
        mount_bpffs(&bpffs)?;
        let mounts = Mounts::create(&files, &bpffs, root.path())?;
        let mut worker = Self {
            cgroups: Cgroups {
                kubelet: root.child("kubelet")?,
                runtime: root.child("runtime")?,
                pods: root.path().join("kubepods"),
            },
            kubelet: None,
            containerd: None,
            node: node.clone(),
            mounts: Some(mounts),
            files,
            bpffs,
        };
        worker.register(plane)?;
        worker.start_containerd()?;
        for image in images::all(plane.folder())? {
            worker.import(&image)?;
        }
        worker.start_kubelet()?;
        Ok(worker)
    }

    /// The same of two nodes, which can run pods then.
    pub fn start_both(nodes: [&Node; 2], plane: &ControlPlane) -> Result<[Self; 2]> {
        let [a, b] = nodes;
        let mut workers = [Self::start(a, plane)?, Self::start(b, plane)?];
        for worker in &mut workers {
            worker.wait_until_ready(plane)?;
        }
        Ok(workers)
    }

    /// What a pod's container has said so far, also while nobody can ask for it
    /// by the API server.
    pub fn said(&self, namespace: &str, pod: &str, container: &str) -> Result<String> {
        let files = format!("cat /var/log/pods/{namespace}_{pod}*/{container}/*.log");
        let log = self.spawn("sh")?.args(["-c", &files]).output()?.success()?;
        let lines = log.lines().filter_map(|line| {
            let said = line.split_once(" stdout F ");
            said.or_else(|| line.split_once(" stderr F "))
        });
        Ok(lines.map(|(_, said)| format!("{said}\n")).collect())
    }

    /// Processes of a pod, by a word of their command line.
    pub fn processes(&self, uid: &str, word: &str) -> Vec<Pid> {
        let of_pod = |pid: &i32| {
            let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}"));
            let is_its = read("cgroup").is_ok_and(|cgroups| cgroups.contains(uid));
            let command = read("cmdline").unwrap_or_default();
            is_its && command.split('\0').any(|it| it == word)
        };
        let all = cgroup::processes_below(&self.cgroups.pods).into_iter();
        all.filter(of_pod).map(Pid::from_raw).collect()
    }

    /// Runs a program in a container, also while nobody can ask for it by the
    /// API server; what it says.
    pub fn run_in(&self, container: &str, words: &[&str]) -> Result<String> {
        let exec = ["tasks", "exec", "--exec-id", "story", container];
        self.ctr(&[&exec, words].concat())
    }

    /// Of what runs its pods' containers.
    pub fn runtime_log(&self) -> Result<String> {
        let containerd = self.containerd.as_ref();
        let containerd = containerd.ok_or_else(|| Error::Unexpected("no containerd".into()))?;
        Ok(containerd.log())
    }

    /// Gives the kubelet a pod of which it tells the API server, and not the
    /// other way round.
    pub fn start_static_pod(&self, name: &str, pod: &Value) -> Result {
        let file = format!("{}/{name}.json", STATIC_PODS.trim_start_matches('/'));
        write(&self.files.join(file), &pod.to_string())
    }

    /// Has its pods' next one get that address of the fourth version, once
    /// nobody has it any more.
    pub fn give_next(&self, address: &str) -> Result {
        let wrong = |_| Error::Unexpected(format!("no address: {address}"));
        let next: Ipv4Addr = address.parse().map_err(wrong)?;
        let last = Ipv4Addr::from_bits(next.to_bits() - 1);
        let taken = format!("{ADDRESSES}/{address}");
        wait_for(
            Deadline::after(START),
            || format!("{address} to be given back"),
            || {
                let listed = self.spawn("ls")?.arg(&taken).output()?;
                Ok((!listed.status.success()).then_some(()))
            },
        )?;
        let given = format!("printf {last} > {ADDRESSES}/last_reserved_ip.0");
        let write = self.spawn("sh")?.args(["-c", &given]).output()?;
        write.success().map(drop)
    }

    /// Waits until pods can run on it.
    pub fn wait_until_ready(&mut self, plane: &ControlPlane) -> Result {
        let node = format!("node/{}", self.node.name());
        plane.wait("default", &node, "Ready")?;
        self.kubelet()?.must_run()
    }

    pub fn node(&self) -> &Node {
        &self.node
    }

    /// A program of the node itself, among its files.
    pub fn spawn(&self, program: impl AsRef<Path>) -> Result<Spawn> {
        let mounts = self.mounts.as_ref();
        let mounts = mounts.ok_or_else(|| Error::Unexpected("the node has no power".into()))?;
        Ok(self.node.spawn(program)?.mounts(mounts))
    }

    /// Where this machine has the node's own `/run`.
    pub fn run_folder(&self) -> PathBuf {
        self.files.join("run")
    }

    /// `deploy/systemd/mtls-daemon-gate.service`, for this node's part of the
    /// machine's cgroups; returns what it says.
    pub fn arm_gate(&self) -> Result<String> {
        let unit = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../deploy/systemd/mtls-daemon-gate.service");
        let text = fs::read_to_string(&unit).doing(|| format!("reading {}", unit.display()))?;
        let program = "ExecStart=/usr/bin/mtls-daemon ";
        let words = text.lines().find_map(|line| line.strip_prefix(program));
        let words = words.ok_or_else(|| Error::Unreadable {
            what: unit.display().to_string(),
            why: format!("no line begins with {program}"),
        })?;
        self.spawn(programs::daemon()?)?
            .args(words.split_whitespace())
            .args(["--cgroup", mounts::CGROUP])
            .output()?
            .success()
    }

    /// The `type`s of its pods' network plug-ins, in turn.
    pub fn network_plugins(&self) -> Result<Vec<String>> {
        let text = self.spawn("cat")?.arg(NETWORK).output()?.success()?;
        let list: Value = serde_json::from_str(&text).map_err(|error| Error::Unreadable {
            what: format!("{NETWORK}: {text}"),
            why: error.to_string(),
        })?;
        let plugins = list["plugins"].as_array().into_iter().flatten();
        let types = plugins.filter_map(|plugin| plugin["type"].as_str());
        Ok(types.map(str::to_owned).collect())
    }

    /// The cgroup that the kubelet runs in.
    pub fn kubelet_cgroup(&self) -> &Cgroup {
        &self.cgroups.kubelet
    }

    pub fn kubelet(&mut self) -> Result<&mut Process> {
        self.kubelet
            .as_mut()
            .ok_or_else(|| Error::Unexpected("the kubelet does not run".into()))
    }

    /// kill -9. Its pods go on.
    pub fn stop_kubelet(&mut self) -> Result {
        match self.kubelet.take() {
            Some(mut process) => process.kill(),
            None => Ok(()),
        }
    }

    pub fn start_kubelet(&mut self) -> Result {
        let name = self.node.name();
        let addresses = Family::BOTH.map(|family| self.node.wire_address(family).to_string());
        let kubelet = self
            .spawn(programs::kubernetes("kubelet")?)?
            .cgroup(&self.cgroups.kubelet)
            .named(&format!("kubelet-{name}"))
            .arg(format!("--config={OWN}/kubelet.json"))
            .arg(format!("--kubeconfig={OWN}/kubeconfig"))
            .arg(format!("--hostname-override={name}"))
            .arg(format!("--node-ip={}", addresses.join(",")))
            .start()?;
        self.kubelet = Some(kubelet);
        Ok(())
    }

    /// The node loses its power, of which it tells nobody, and boots: what is on
    /// its disk is there again. `first` is what runs before the container
    /// runtime and the kubelet do.
    pub fn reboot(&mut self, first: impl FnOnce(&Self) -> Result) -> Result {
        self.lose_power()?;
        mount_bpffs(&self.bpffs)?;
        let root = self.node.cgroup().path();
        self.mounts = Some(Mounts::create(&self.files, &self.bpffs, root)?);
        first(self)?;
        self.node.netns().ip(&format!("link set {WIRE} up\n"))?;
        self.node.address_wire()?;
        self.start_containerd()?;
        self.start_kubelet()
    }

    fn lose_power(&mut self) -> Result {
        let node = &self.node;
        node.netns().ip(&format!("link set {WIRE} down\n"))?;
        node.cgroup().kill()?;
        for process in [&mut self.kubelet, &mut self.containerd] {
            if let Some(mut process) = process.take() {
                process.kill()?;
            }
        }
        cgroup::remove_tree(&self.cgroups.pods)?;
        cgroup::empty_twins(node.cgroup())?;
        for cgroup in [&self.cgroups.kubelet, &self.cgroups.runtime] {
            cgroup.remake()?;
        }
        self.mounts = None;
        // What nobody has acknowledged would be sent again after the boot, and
        // hold the pods' network namespaces until then.
        let ss = node.spawn("ss")?.args(["--kill", "--tcp", "--all"]);
        ss.output()?.success()?;
        wait_for(
            Deadline::default(),
            || "the pods' interfaces to be gone",
            || {
                let words = ["-json", "link", "show", "master", "pods"];
                let links = node.spawn("ip")?.args(words).output()?.success()?;
                let links: Vec<Value> =
                    serde_json::from_str(&links).map_err(|error| Error::Unreadable {
                        what: format!("the interfaces of the pods: {links}"),
                        why: error.to_string(),
                    })?;
                for name in links.iter().filter_map(|link| link["ifname"].as_str()) {
                    // It may go by itself meanwhile.
                    let _ = node.netns().ip(&format!("link del {name}\n"));
                }
                Ok(links.is_empty().then_some(()))
            },
        )?;
        umount2(&self.bpffs, MntFlags::empty())
            .doing(|| format!("unmounting {}", self.bpffs.display()))?;
        run::remove_folder(&self.run_folder())
    }

    /// Gives the runtime an image's archive.
    pub fn import(&self, archive: &Path) -> Result {
        self.ctr(&["images", "import", &archive.to_string_lossy()])
            .map(drop)
    }

    fn ctr(&self, words: &[&str]) -> Result<String> {
        self.spawn(programs::container_runtime("usr/bin/ctr")?)?
            .args(["--address", SOCKET, "--namespace", "k8s.io"])
            .args(words)
            .output()?
            .success()
    }

    fn start_containerd(&mut self) -> Result {
        let program = programs::container_runtime("usr/bin/containerd")?;
        // It finds its shim and runc by PATH.
        let root = program.ancestors().nth(3).unwrap_or(&program);
        let path = std::env::var("PATH").unwrap_or_default();
        let path = format!("{0}/usr/bin:{0}/usr/sbin:{path}", root.display());
        let containerd = self
            .spawn(&program)?
            .cgroup(&self.cgroups.runtime)
            .named(&format!("containerd-{}", self.node.name()))
            .env("PATH", path)
            .args(["--config", &format!("{OWN}/containerd.toml")])
            .start()?;
        let containerd = self.containerd.insert(containerd);
        containerd.must_run()?;
        wait_for(
            Deadline::after(START),
            || "containerd to answer",
            || Ok(self.ctr(&["version"]).ok()),
        )
        .map(drop)
    }

    /// Its pods' networks are known from the beginning; the rest of a Node the
    /// kubelet tells.
    fn register(&self, plane: &ControlPlane) -> Result {
        let [v4, v6] = self.node.pod_networks();
        plane.apply(&json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": self.node.name()},
            "spec": {"podCIDR": v4, "podCIDRs": [v4, v6]},
        }))
    }

    /// What its containers have said, beside the scene's other logs; of the
    /// daemon's what a failed story shows the end of.
    fn keep_logs(&self) {
        let pods = self.files.join("var-log/pods");
        for (pod, name) in run::list(&pods) {
            for (container, of) in run::list(&pod) {
                for (log, count) in run::list(&container) {
                    let kept = format!("{}-{name}-{of}-{count}", self.node.name());
                    let kept = match name.starts_with("mtls-daemon_") {
                        true => kept,
                        false => kept.replace(".log", ".txt"),
                    };
                    // Whoever ended meanwhile is not missed.
                    let _ = fs::copy(log, self.node.scene().logs().join(kept));
                }
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // First whoever would start the pods again. What cannot be ended here
        // is ended with the scene's cgroup.
        let _ = self.stop_kubelet();
        let _ = cgroup::remove_tree(&self.cgroups.pods);
        if let Some(mut containerd) = self.containerd.take() {
            let _ = containerd.kill();
        }
        let _ = cgroup::remove_tree(self.cgroups.runtime.path());
        self.keep_logs();
    }
}

/// `files` is what the node sees in the root folders of its own.
fn write_files(node: &Node, files: &Path, plane: &ControlPlane) -> Result {
    let own = files.join("opt/node");
    let config = plane.kubeconfig_of_node(node.name());
    write(&own.join("kubeconfig"), &config.to_string())?;
    write(
        &own.join("kubelet.json"),
        &kubelet_config(node)?.to_string(),
    )?;
    write(&own.join("containerd.toml"), CONTAINERD)?;
    // The kubelet complains of a missing one every second.
    let pods = files.join(STATIC_PODS.trim_start_matches('/'));
    fs::create_dir_all(&pods).doing(|| format!("making {}", pods.display()))?;
    write(
        &files.join(NETWORK.trim_start_matches('/')),
        &network_config(node).to_string(),
    )?;
    let plugins = programs::container_runtime("usr/lib/cni/bridge")?;
    let plugins = plugins.parent().unwrap_or(&plugins);
    let folder = files.join("opt/cni/bin");
    fs::create_dir_all(&folder).doing(|| format!("making {}", folder.display()))?;
    for (path, name) in run::list(plugins) {
        symlink(path, folder.join(name)).doing(|| "linking a CNI plugin")?;
    }
    Ok(())
}

fn kubelet_config(node: &Node) -> Result<Value> {
    let root = cgroup::mount_point()?;
    let below = node.cgroup().path().strip_prefix(root);
    let below = below.map_err(|error| Error::Unexpected(error.to_string()))?;
    Ok(json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        // How soon a changed ConfigMap is in its volumes; by default a minute.
        "syncFrequency": "5s",
        "containerRuntimeEndpoint": format!("unix://{SOCKET}"),
        // Two kubelets with one root would end each other's pods.
        "cgroupRoot": format!("/{}", below.display()), "cgroupDriver": "cgroupfs",
        "failCgroupV1": false, "enforceNodeAllocatable": [], "failSwapOn": false,
        // This machine's disk is not the node's.
        "localStorageCapacityIsolation": false, "imageGCHighThresholdPercent": 100,
        "evictionHard": {"memory.available": "0%", "nodefs.available": "0%",
                         "imagefs.available": "0%", "nodefs.inodesFree": "0%"},
        "makeIPTablesUtilChains": false, "resolvConf": "",
        "authentication": {"anonymous": {"enabled": true}, "webhook": {"enabled": false}},
        "authorization": {"mode": "AlwaysAllow"},
        "staticPodPath": STATIC_PODS,
        "volumePluginDir": "/var/lib/kubelet/plugins-of-volumes",
    }))
}

/// The bridge that other stories' pods are on, too.
fn network_config(node: &Node) -> Value {
    let ranges = node
        .pod_networks()
        .map(|subnet| json!([{"subnet": subnet}]));
    json!({
        "cniVersion": "0.4.0", "name": "node",
        "plugins": [{
            "type": "bridge", "bridge": "pods", "isGateway": true, "hairpinMode": true,
            "ipam": {
                "type": "host-local", "dataDir": "/run/cni", "ranges": ranges,
                "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
            },
        }],
    })
}

/// Images come by `import` alone. A process without CAP_SYS_RESOURCE cannot
/// lower the score by which the kernel chooses whom to kill.
const CONTAINERD: &str = r#"
version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "local.test/pause:1"
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/opt/cni/bin"
    conf_dir = "/etc/cni/net.d"
"#;

/// It goes with the scene.
fn mount_bpffs(folder: &Path) -> Result {
    fs::create_dir_all(folder).doing(|| format!("making {}", folder.display()))?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("bpf"), folder, Some("bpf"), flags, Some("mode=0700"))
        .doing(|| format!("mounting a bpffs on {}", folder.display()))
}

fn write(path: &Path, text: &str) -> Result {
    let write = || {
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        fs::write(path, text)
    };
    write().doing(|| format!("writing {}", path.display()))
}
