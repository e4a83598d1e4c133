//! What the stories run against and no distribution has in a version of use,
//! built from source: the authorities SPIRE and OpenBao, and a Kubernetes cluster with
//! Helm and cert-manager. Each is built once a version into the cache, by the
//! go.mod and go.sum below tests/components.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::archive;
use crate::command;
use crate::failure::{Failure, Result, While};
use crate::places;
use crate::say;

/// The stories' authorities.
#[derive(Debug)]
pub(crate) struct Authorities {
    pub(crate) spire: PathBuf,
    pub(crate) openbao: PathBuf,
}

/// A cluster's programs.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) etcd: PathBuf,
    pub(crate) kubernetes: PathBuf,
    pub(crate) helm: PathBuf,
    pub(crate) kubeconform: PathBuf,
    pub(crate) istio: PathBuf,
    pub(crate) cert_manager: PathBuf,
    /// Laid out as Debian's packages lay out a root.
    pub(crate) container_runtime: PathBuf,
}

struct Component {
    /// Its folder below tests/components, and in the cache.
    name: &'static str,
    module: &'static str,
    /// Each with its package, or a file with its place in the module.
    programs: &'static [(&'static str, &'static str)],
    build: Build,
    /// Variables that upstream's own build sets, with their packages.
    stamps: &'static [(&'static str, &'static str)],
}

enum Build {
    /// Where our go.mod is, which holds every dependency, and our main.go, if
    /// upstream has none of use.
    Here,
    /// In a copy of the module, without the lines in these folders that
    /// mention one of the words.
    Trimmed(&'static [&'static str], &'static [&'static str]),
}

const SPIRE: Component = Component {
    name: "spire",
    module: "github.com/spiffe/spire",
    programs: &[
        ("spire-server", "./cmd/spire-server"),
        ("spire-agent", "./cmd/spire-agent"),
    ],
    // The catalogs of plugins: what speaks to a cloud takes more than a third
    // of the build, and is of no use here.
    build: Build::Trimmed(
        &["pkg/server/catalog", "pkg/agent/catalog"],
        &[
            "awsiid",
            "awskms",
            "awspca",
            "awsrolesanywhere",
            "awss3",
            "awssecret",
            "azurekeyvault",
            "azuremsi",
            "ejbca",
            "gcpcas",
            "gcpcloudstorage",
            "gcpiit",
            "gcpkms",
            "gcpsecretmanager",
            "upstreamauthority/vault",
            "vault.BuiltIn",
        ],
    ),
    stamps: &[],
};

const OPENBAO: Component = Component {
    name: "openbao",
    module: "github.com/openbao/openbao",
    programs: &[("openbao", "github.com/openbao/openbao")],
    build: Build::Here,
    stamps: &[],
};

const ETCD: Component = Component {
    name: "etcd",
    module: "go.etcd.io/etcd/server/v3",
    programs: &[("etcd", "go.etcd.io/etcd/server/v3")],
    build: Build::Here,
    stamps: &[],
};

const KUBERNETES: Component = Component {
    name: "kubernetes",
    module: "k8s.io/kubernetes",
    programs: &[
        ("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
        (
            "kube-controller-manager",
            "k8s.io/kubernetes/cmd/kube-controller-manager",
        ),
        ("kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy"),
        ("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler"),
        ("kubelet", "k8s.io/kubernetes/cmd/kubelet"),
        ("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
    ],
    build: Build::Here,
    // Unstamped they state a version that their own clients cannot read.
    stamps: &[
        ("k8s.io/component-base/version.gitVersion", "v1.36.3"),
        ("k8s.io/component-base/version.gitMajor", "1"),
        ("k8s.io/component-base/version.gitMinor", "36"),
    ],
};

const HELM: Component = Component {
    name: "helm",
    module: "helm.sh/helm/v3",
    programs: &[("helm", "helm.sh/helm/v3/cmd/helm")],
    build: Build::Here,
    stamps: &[],
};

/// Judges manifests by the API server's schemas.
const KUBECONFORM: Component = Component {
    name: "kubeconform",
    module: "github.com/yannh/kubeconform",
    programs: &[(
        "kubeconform",
        "github.com/yannh/kubeconform/cmd/kubeconform",
    )],
    build: Build::Here,
    stamps: &[],
};

/// Only what its objects look like.
const ISTIO: Component = Component {
    name: "istio",
    module: "istio.io/api",
    programs: &[(
        "customresourcedefinitions.yaml",
        "kubernetes/customresourcedefinitions.gen.yaml",
    )],
    build: Build::Here,
    stamps: &[],
};

/// Its controllers, in a program of ours: upstream's own is a module within
/// the module, which is not published.
const CERT_MANAGER: Component = Component {
    name: "cert-manager",
    module: "github.com/cert-manager/cert-manager",
    programs: &[
        ("cert-manager-controllers", "."),
        (
            "certificaterequests.yaml",
            "deploy/crds/cert-manager.io_certificaterequests.yaml",
        ),
        ("issuers.yaml", "deploy/crds/cert-manager.io_issuers.yaml"),
        (
            "clusterissuers.yaml",
            "deploy/crds/cert-manager.io_clusterissuers.yaml",
        ),
    ],
    build: Build::Here,
    stamps: &[],
};

/// The newest that one of the go.mod files asks for.
const GO: (u32, u32, u32) = (1, 26, 0);
const FLAGS: &[&str] = &["-trimpath", "-ldflags=-s -w", "-buildvcs=false"];

/// The programs, built first if need be.
pub(crate) fn authorities() -> Result<Authorities> {
    Ok(Authorities {
        spire: SPIRE.ready()?,
        openbao: OPENBAO.ready()?,
    })
}

/// The programs, built first if need be.
pub(crate) fn cluster() -> Result<Cluster> {
    Ok(Cluster {
        etcd: ETCD.ready()?,
        kubernetes: KUBERNETES.ready()?,
        helm: HELM.ready()?,
        kubeconform: KUBECONFORM.ready()?,
        istio: ISTIO.ready()?,
        cert_manager: CERT_MANAGER.ready()?,
        container_runtime: archive::container_runtime()?,
    })
}

impl Component {
    /// The folder of its programs.
    fn ready(&self) -> Result<PathBuf> {
        let folder = places::cache(&format!("{}-{:016x}", self.name, self.key()?))?;
        let missing = |(name, _): &&(&str, &str)| !folder.join(name).exists();
        let missing: Vec<_> = self.programs.iter().filter(missing).collect();
        if missing.is_empty() {
            return Ok(folder);
        }
        check_go()?;
        say::step(
            "Building",
            &format!(
                "{} into {} (minutes, once a version)",
                self.name,
                folder.display()
            ),
        );
        let source = folder.join("source");
        let place = match self.build {
            Build::Here => self.pinned(),
            Build::Trimmed(..) => {
                self.copy_trimmed(&source)?;
                source.clone()
            }
        };
        for (name, package) in missing {
            // Under its own name only when it is whole.
            let unfinished = folder.join(format!("{name}.unfinished"));
            if is_file(package) {
                let file = self.downloaded()?.join(package);
                fs::copy(&file, &unfinished).doing(format_args!("copying {}", file.display()))?;
                fs::rename(&unfinished, folder.join(name)).doing(format_args!("keeping {name}"))?;
                continue;
            }
            let build = command::run_quietly(
                go(&place)
                    .arg("build")
                    .args(FLAGS)
                    .args(self.stamp_flag())
                    .arg("-o")
                    .arg(&unfinished)
                    .arg(package),
            );
            build.map_err(|failure| Failure::new(format!("building {name}: {failure}")))?;
            fs::rename(&unfinished, folder.join(name)).doing(format_args!("keeping {name}"))?;
        }
        if source.exists() {
            fs::remove_dir_all(&source).doing(format_args!("removing {}", source.display()))?;
        }
        Ok(folder)
    }

    /// The last -ldflags counts: it says again what `FLAGS` say.
    fn stamp_flag(&self) -> Option<String> {
        let sets = self
            .stamps
            .iter()
            .map(|(name, value)| format!(" -X {name}={value}"));
        let sets: String = sets.collect();
        (!sets.is_empty()).then(|| format!("-ldflags=-s -w{sets}"))
    }

    /// Our go.mod and go.sum for it.
    fn pinned(&self) -> PathBuf {
        places::repository()
            .join("tests/components")
            .join(self.name)
    }

    /// Differs with everything that the programs are made of but for the
    /// compiler.
    fn key(&self) -> Result<u64> {
        let mut hasher = DefaultHasher::new();
        for file in ["go.mod", "go.sum"] {
            let path = self.pinned().join(file);
            let text = fs::read(&path).doing(format_args!("reading {}", path.display()))?;
            text.hash(&mut hasher);
        }
        if let Ok(own) = fs::read(self.pinned().join("main.go")) {
            own.hash(&mut hasher);
        }
        FLAGS.hash(&mut hasher);
        if let Some(flag) = self.stamp_flag() {
            flag.hash(&mut hasher);
        }
        if let Build::Trimmed(folders, words) = self.build {
            (folders, words).hash(&mut hasher);
        }
        Ok(hasher.finish())
    }

    /// The module's folder in Go's cache.
    fn downloaded(&self) -> Result<PathBuf> {
        let pinned = self.pinned();
        command::run_quietly(go(&pinned).args(["mod", "download", self.module]))?;
        let list = &mut go(&pinned);
        let list = list.args(["list", "-m", "-f", "{{.Dir}}", self.module]);
        Ok(PathBuf::from(command::output(list)?.trim()))
    }

    /// Copies the module to `target` and leaves out what is not wanted of it.
    fn copy_trimmed(&self, target: &Path) -> Result {
        let module = self.downloaded()?;
        // One that an earlier attempt left may be half.
        if target.exists() {
            fs::remove_dir_all(target).doing(format_args!("removing {}", target.display()))?;
        }
        let copy = &mut Command::new("cp");
        // Files of Go's module cache are read-only.
        let copy = copy.args(["-r", "--no-preserve=mode"]).arg(module);
        command::run_quietly(copy.arg(target))?;
        let Build::Trimmed(folders, words) = self.build else {
            return Ok(());
        };
        for folder in folders {
            trim(&target.join(folder), words)?;
        }
        Ok(())
    }
}

fn is_file(place: &str) -> bool {
    place.ends_with(".yaml")
}

/// Takes the lines with one of the words out of every Go file of the folder.
fn trim(folder: &Path, words: &[&str]) -> Result {
    let entries = fs::read_dir(folder).doing(format_args!("reading {}", folder.display()))?;
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.extension().is_none_or(|kind| kind != "go") {
            continue;
        }
        let text = fs::read_to_string(&path).doing(format_args!("reading {}", path.display()))?;
        let kept: Vec<&str> = text
            .lines()
            .filter(|line| !words.iter().any(|word| line.contains(word)))
            .collect();
        fs::write(&path, kept.join("\n") + "\n")
            .doing(format_args!("writing {}", path.display()))?;
    }
    Ok(())
}

fn go(folder: &Path) -> Command {
    let mut go = Command::new("go");
    // What surrounds this machine's other Go code is not meant for this.
    go.current_dir(folder).env("GOWORK", "off");
    go.env("GOFLAGS", "-mod=readonly");
    go
}

fn check_go() -> Result {
    let wanted = format!("{}.{}.{}", GO.0, GO.1, GO.2);
    let remedy = "the stories run against SPIRE, OpenBao, Kubernetes and cert-manager, which are built from source; \
                  a distribution's golang package may be too old, the Go project's own release is not";
    if command::find("go").is_none() {
        return Err(Failure::new(format!(
            "this machine lacks Go, from {wanted} on: {remedy}"
        )));
    }
    if command::find("gcc")
        .or_else(|| command::find("cc"))
        .is_none()
    {
        return Err(Failure::new(
            "this machine lacks a C compiler (Debian: gcc), which SPIRE's data store is built with",
        ));
    }
    let said = command::output(Command::new("go").arg("version"))?;
    match version(&said) {
        Some(found) if found >= GO => Ok(()),
        // It fetches the one that is asked for, unless it is told not to.
        Some(found) if found >= (1, 21, 0) && fetches_toolchains() => Ok(()),
        _ => Err(Failure::new(format!(
            "this machine lacks Go, from {wanted} on, and has {}: {remedy}",
            said.trim()
        ))),
    }
}

fn fetches_toolchains() -> bool {
    let asked = command::output(Command::new("go").args(["env", "GOTOOLCHAIN"]));
    asked.is_ok_and(|said| said.trim() == "auto" || said.trim().ends_with("+auto"))
}

/// `go version go1.25.3 linux/amd64` is (1, 25, 3).
fn version(said: &str) -> Option<(u32, u32, u32)> {
    let word = said.split(' ').find_map(|word| word.strip_prefix("go1."))?;
    let digits = |text: &str| -> Option<u32> {
        let end = text.find(|c: char| !c.is_ascii_digit());
        text[..end.unwrap_or(text.len())].parse().ok()
    };
    let (minor, patch) = word.split_once('.').unwrap_or((word, "0"));
    Some((1, digits(minor)?, digits(patch)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_versions_that_go_states() {
        assert_eq!(version("go version go1.25.3 linux/amd64"), Some((1, 25, 3)));
        assert_eq!(version("go version go1.26 linux/amd64"), Some((1, 26, 0)));
        assert_eq!(
            version("go version go1.27rc1 linux/arm64"),
            Some((1, 27, 0))
        );
        assert_eq!(version("go version devel"), None);
    }

    #[test]
    fn every_component_has_its_go_mod_and_it_asks_for_no_newer_go() {
        for component in [
            SPIRE,
            OPENBAO,
            ETCD,
            KUBERNETES,
            HELM,
            KUBECONFORM,
            ISTIO,
            CERT_MANAGER,
        ] {
            component.key().unwrap();
            let text = fs::read_to_string(component.pinned().join("go.mod")).unwrap();
            assert!(text.contains(&format!("require {} v", component.module)));
            let asked = text.lines().find_map(|line| line.strip_prefix("go "));
            let asked = version(&format!("go version go{}", asked.unwrap()));
            assert!(asked.unwrap() <= GO, "{}", component.name);
        }
    }

    #[test]
    fn kubernetes_states_the_version_that_is_built() {
        let text = fs::read_to_string(KUBERNETES.pinned().join("go.mod")).unwrap();
        let stated = KUBERNETES.stamps[0].1;
        assert!(text.contains(&format!("require k8s.io/kubernetes {stated}\n")));
    }

    #[test]
    fn trims_lines() {
        let folder = std::env::temp_dir().join(format!("xtask-trim-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("a.go"), "one\ntwo\nthree\n").unwrap();
        fs::write(folder.join("a.txt"), "two\n").unwrap();
        trim(&folder, &["two"]).unwrap();
        assert_eq!(fs::read(folder.join("a.go")).unwrap(), b"one\nthree\n");
        assert_eq!(fs::read(folder.join("a.txt")).unwrap(), b"two\n");
        fs::remove_dir_all(folder).unwrap();
    }
}
