//! Where a kubelet puts its pods' cgroups: below a folder `kubepods`, in one of
//! three classes of service, under names that hold the pods' UIDs. Both of its
//! cgroup drivers are known here, and so is a root of its own above them.

use std::path::{Path, PathBuf};

/// How deep a kubelet's `cgroupRoot`, or that of a node in a container, may lie.
const DEPTH: usize = 4;

/// The kubelets of this machine, by their pods' roots.
pub(super) struct Kubelets(Vec<PathBuf>);

impl Kubelets {
    pub(super) fn look(cgroup2: &Path) -> Self {
        Self(roots(cgroup2))
    }

    /// The pod's cgroup.
    pub(super) fn find(&self, uid: &str) -> Option<PathBuf> {
        let all = self.0.iter().flat_map(|root| candidates(root, uid));
        all.into_iter().find(|path| path.is_dir())
    }
}

/// Whether a folder in a pod's is a container's. CRI-O's monitor runs in the
/// host's network namespace.
pub(super) fn is_container(name: &str) -> bool {
    !name.starts_with("crio-conmon-")
}

/// Every folder that a kubelet calls its pods' root.
fn roots(cgroup2: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut level = vec![cgroup2.to_owned()];
    for _ in 0..DEPTH {
        let folders = level
            .iter()
            .filter_map(|folder| std::fs::read_dir(folder).ok());
        let inner = folders.flat_map(|entries| entries.flatten().map(|entry| entry.path()));
        let (roots, others) = inner.filter(|path| path.is_dir()).partition(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name == "kubepods" || name == "kubepods.slice" || name.ends_with("-kubepods.slice")
        });
        found.extend::<Vec<PathBuf>>(roots);
        level = others;
    }
    found
}

/// The guaranteed class has no folder of its own.
const CLASSES: [&str; 3] = ["burstable", "besteffort", ""];

fn candidates(root: &Path, uid: &str) -> Vec<PathBuf> {
    let name = root.file_name().unwrap_or_default().to_string_lossy();
    let Some(slice) = name.strip_suffix(".slice") else {
        let pod = format!("pod{uid}");
        return CLASSES.map(|class| root.join(class).join(&pod)).to_vec();
    };
    // The name of a slice holds its parents', and dashes part them.
    let uid = uid.replace('-', "_");
    let of_class = |class: &str| match class {
        "" => root.join(format!("{slice}-pod{uid}.slice")),
        class => root
            .join(format!("{slice}-{class}.slice"))
            .join(format!("{slice}-{class}-pod{uid}.slice")),
    };
    CLASSES.map(of_class).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0f1d3a6e-9a3f-4d3e-8f57-3c1d2b7a9e10";

    /// Trees as kubelets make them; the containers' names are cut.
    #[test]
    fn pods_are_found_below_every_kubelet() {
        for tree in [
            // containerd, cgroupfs driver, each class.
            "kubepods/pod0f1d3a6e-9a3f-4d3e-8f57-3c1d2b7a9e10",
            "kubepods/burstable/pod0f1d3a6e-9a3f-4d3e-8f57-3c1d2b7a9e10",
            "kubepods/besteffort/pod0f1d3a6e-9a3f-4d3e-8f57-3c1d2b7a9e10",
            // A kubelet with a cgroupRoot of its own.
            "node-1/kubepods/besteffort/pod0f1d3a6e-9a3f-4d3e-8f57-3c1d2b7a9e10",
            // systemd driver: containerd or CRI-O.
            "kubepods.slice/kubepods-pod0f1d3a6e_9a3f_4d3e_8f57_3c1d2b7a9e10.slice",
            "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0f1d3a6e_9a3f_4d3e_8f57_3c1d2b7a9e10.slice",
            "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod0f1d3a6e_9a3f_4d3e_8f57_3c1d2b7a9e10.slice",
            // A node in a container, as kind makes them.
            "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod0f1d3a6e_9a3f_4d3e_8f57_3c1d2b7a9e10.slice",
        ] {
            let root = std::env::temp_dir().join(format!("mtls-pods-{}", std::process::id()));
            let pod = root.join(tree);
            std::fs::create_dir_all(pod.join("cri-containerd-5a1c.scope")).unwrap();
            std::fs::create_dir_all(root.join("system.slice/containerd.service")).unwrap();
            let kubelets = Kubelets::look(&root);
            let found = kubelets.find(UID);
            let other = kubelets.find("11111111-9a3f-4d3e-8f57-3c1d2b7a9e10");
            std::fs::remove_dir_all(&root).unwrap();
            assert_eq!(found, Some(pod));
            assert_eq!(other, None);
        }
    }

    #[test]
    fn a_monitor_is_no_container() {
        assert!(is_container("crio-5a1c.scope"));
        assert!(is_container("cri-containerd-5a1c.scope"));
        assert!(!is_container("crio-conmon-5a1c.scope"));
    }
}
