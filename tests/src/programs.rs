//! Finding programs: our own binaries beside the running one, and the
//! distribution's, with the package that holds each.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The small application that stories put into pods.
pub fn test_app() -> Result<PathBuf> {
    built("mtls-test-app", "MTLS_TEST_APP", "mtls-tests")
}

/// The real daemon.
pub fn daemon() -> Result<PathBuf> {
    built("mtls-daemon", "MTLS_DAEMON", "mtls-daemon")
}

/// The same without shared libraries, for images.
pub fn image_daemon() -> Result<PathBuf> {
    std::env::var_os("MTLS_IMAGE_DAEMON").map_or_else(daemon, |path| Ok(path.into()))
}

/// Folder for the logs of failed stories, beside the binaries.
pub fn failure_logs() -> Result<PathBuf> {
    let app = test_app()?;
    Ok(app
        .parent()
        .unwrap_or_else(|| Path::new("."))
        .join("failed-stories"))
}

/// A binary of this workspace: named by `variable`, or in the build folder
/// that the running program comes from.
fn built(name: &str, variable: &str, package: &str) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        return Ok(path.into());
    }
    let own = std::env::current_exe().unwrap_or_default();
    own.ancestors()
        .skip(1)
        .take(3)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .ok_or_else(|| {
            Error::Unexpected(format!(
                "{name} is not built; run: cargo build -p {package} --bins (or set {variable})"
            ))
        })
}

/// A program of SPIRE's.
pub fn spire(program: &str) -> Result<PathBuf> {
    component("spire", "MTLS_TEST_SPIRE", program)
}

/// OpenBao.
pub fn openbao() -> Result<PathBuf> {
    component("openbao", "MTLS_TEST_OPENBAO", "openbao")
}

/// The store of a cluster's API server.
pub fn etcd() -> Result<PathBuf> {
    component("etcd", "MTLS_TEST_ETCD", "etcd")
}

/// A program of Kubernetes.
pub fn kubernetes(program: &str) -> Result<PathBuf> {
    component("kubernetes", "MTLS_TEST_KUBERNETES", program)
}

pub fn helm() -> Result<PathBuf> {
    component("helm", "MTLS_TEST_HELM", "helm")
}

pub fn kubeconform() -> Result<PathBuf> {
    component("kubeconform", "MTLS_TEST_KUBECONFORM", "kubeconform")
}

/// What the objects of Istio's API look like.
pub fn istio_definitions() -> Result<PathBuf> {
    component("istio", "MTLS_TEST_ISTIO", "customresourcedefinitions.yaml")
}

/// cert-manager's controllers, or a definition of its objects.
pub fn cert_manager(file: &str) -> Result<PathBuf> {
    component("cert-manager", "MTLS_TEST_CERT_MANAGER", file)
}

/// A file of what nodes run their containers with, by its path in a root.
pub fn container_runtime(path: &str) -> Result<PathBuf> {
    component("container-runtime", "MTLS_TEST_CONTAINER_RUNTIME", path)
}

/// A program that `cargo xtask setup` built or fetched: in the folder that `variable`
/// names, or else the newest in the cache.
fn component(name: &str, variable: &str, program: &str) -> Result<PathBuf> {
    let named = std::env::var_os(variable).map(|folder| PathBuf::from(folder).join(program));
    named
        .filter(|path| path.is_file())
        .or_else(|| newest_in_cache(name, program))
        .ok_or_else(|| {
            Error::Unexpected(format!(
                "{program} is not there; run: cargo xtask setup authorities cluster (or set {variable})"
            ))
        })
}

fn newest_in_cache(name: &str, program: &str) -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?;
    let built = crate::run::list(&cache.join("mtls-daemon"));
    let built = built
        .into_iter()
        .filter(|(_, folder)| folder.starts_with(&format!("{name}-")))
        .map(|(path, _)| path.join(program));
    built
        .filter_map(|path| Some((path.metadata().ok()?.modified().ok()?, path)))
        .max()
        .map(|(_, path)| path)
}

/// A distribution's program; without it the story fails and says what to install.
pub fn need(program: &str) -> Result<PathBuf> {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    // Debian's PostgreSQL clients in PATH are wrappers in Perl; the real ones first.
    postgresql_folders()
        .into_iter()
        .chain(std::env::split_paths(&folders))
        .chain(["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
        .ok_or_else(|| Error::Missing {
            program: program.to_owned(),
            package: package_of(program),
        })
}

/// What gives a program a clock of its own, if it is loaded before it.
pub fn libfaketime() -> Result<PathBuf> {
    let architectures = std::fs::read_dir("/usr/lib")
        .into_iter()
        .flatten()
        .flatten();
    architectures
        .map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"))
        .find(|path| path.is_file())
        .ok_or_else(|| Error::Unexpected("libfaketime is not there: install libfaketime".into()))
}

/// Debian keeps a server's programs apart for each major version; newest first.
fn postgresql_folders() -> Vec<PathBuf> {
    let mut versions: Vec<(u32, PathBuf)> = crate::run::list(Path::new("/usr/lib/postgresql"))
        .into_iter()
        .filter_map(|(path, name)| Some((name.parse().ok()?, path.join("bin"))))
        .collect();
    versions.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    versions.into_iter().map(|(_, path)| path).collect()
}

/// Debian's package for each program that stories use.
fn package_of(program: &str) -> &'static str {
    match program {
        "ip" => "iproute2",
        "systemd-analyze" => "systemd",
        "dnsmasq" => "dnsmasq-base",
        "nft" => "nftables",
        "nginx" => "nginx-light",
        "curl" => "curl",
        "redis-server" => "redis-server",
        "redis-cli" | "redis-benchmark" => "redis-tools",
        "initdb" | "postgres" | "pg_ctl" => "postgresql",
        "psql" => "postgresql-client",
        "pgbench" => "postgresql-contrib",
        "iperf3" => "iperf3",
        "iptables" => "iptables",
        _ => "(find its package with: apt-file search)",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_names_its_package() {
        assert!(need("sh").is_ok());
        let missing = need("redis-benchmark-that-nobody-has").unwrap_err();
        assert!(missing.to_string().contains("is not installed"));
        assert_eq!(package_of("pgbench"), "postgresql-contrib");
    }
}
