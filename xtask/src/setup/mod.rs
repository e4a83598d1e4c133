//! `cargo xtask setup`: what a command needs that this machine lacks. Says
//! what it does, starts no service, touches nothing that is already there.

pub(crate) mod archive;
pub(crate) mod cargo_deny;
pub(crate) mod components;
pub(crate) mod envoy;
mod machine;
pub(crate) mod packages;
pub(crate) mod toolchain;

use crate::failure::{Failure, Result};
use crate::say::{self, Stopwatch};

/// What a command is about to need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// A compiler and linker for the kernel programs.
    Build,
    /// A kernel and the rights to load programs and make network namespaces.
    Kernel,
    /// The real applications that the demo and the tests put to work.
    Apps,
    /// Envoy, as the tunnel's peer.
    Envoy,
    /// Others that give mutual TLS, for the benchmark.
    Peers,
    /// The authorities that issue the stories' certificates.
    Authorities,
    /// A Kubernetes cluster: control plane, kubelet, container runtime, Helm.
    Cluster,
    /// A machine emulator, to boot other kernels.
    Emulator,
}

impl Need {
    pub(crate) fn parse(word: &str) -> Result<Self> {
        match word {
            "build" => Ok(Self::Build),
            "kernel" => Ok(Self::Kernel),
            "apps" => Ok(Self::Apps),
            "envoy" => Ok(Self::Envoy),
            "peers" => Ok(Self::Peers),
            "authorities" => Ok(Self::Authorities),
            "cluster" => Ok(Self::Cluster),
            "emulator" => Ok(Self::Emulator),
            _ => Err(Failure::usage(format!(
                "setup knows build, kernel, apps, envoy, peers, authorities, cluster and emulator, not {word:?}"
            ))),
        }
    }
}

/// Meets the needs, or says exactly what is missing.
pub(crate) fn run(needs: &[Need]) -> Result {
    let clock = Stopwatch::start();
    // One visit to the package manager for all of them.
    if needs.contains(&Need::Kernel) {
        machine::check()?;
    }
    let mut wanted = Vec::new();
    if needs.contains(&Need::Apps) {
        wanted.extend(packages::APPS);
    }
    if needs.contains(&Need::Peers) {
        wanted.extend(packages::PEERS);
    }
    if needs.contains(&Need::Emulator) {
        wanted.extend(packages::EMULATOR);
    }
    packages::install(&wanted)?;
    if needs.contains(&Need::Envoy) {
        envoy::ready()?;
    }
    if needs.contains(&Need::Authorities) {
        components::authorities()?;
    }
    if needs.contains(&Need::Cluster) {
        components::cluster()?;
    }
    if needs.contains(&Need::Build) {
        toolchain::ready()?;
    }
    say::step(
        "Setup",
        &format!("is complete ({:.1} s)", clock.elapsed().as_secs_f32()),
    );
    Ok(())
}
