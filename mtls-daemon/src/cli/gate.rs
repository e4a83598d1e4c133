//! `gate`: what a node runs before anything that may become a workload.

use std::path::Path;

use crate::config::{self, Config, DEFAULT_PATH, Mistakes};
use crate::kernel::{Armed, KernelError};

use super::arguments::Gate;
use super::{Exit, complain, fail, say, with_sources};

pub(super) fn command(
    asked: Gate,
    arm: impl FnOnce(&Config) -> Result<Armed, KernelError>,
) -> Exit {
    let mut config = match read(asked.config.as_deref()) {
        Ok(config) => config,
        Err(mistakes) => {
            complain(&mistakes.to_string());
            return fail("the gate is not armed with this configuration");
        }
    };
    if let Some(cgroup) = asked.cgroup {
        config.kernel.cgroup = Some(cgroup);
    }
    if let Some(pins) = asked.pins {
        config.kernel.pins = pins;
    }
    let pins = config.kernel.pins.display();
    match arm(&config) {
        Ok(Armed::Now) => say(&format!(
            "armed, and pinned in {pins}: until a daemon knows who it is, whatever has a network\n\
             namespace of its own is refused. `mtls-daemon detach` takes that away.\n"
        )),
        Ok(Armed::Before) => say(&format!(
            "nothing to do: what is pinned in {pins} is attached, and stays as it is\n"
        )),
        Err(error) => {
            complain(&with_sources(&error));
            fail("the gate is not armed: what starts now is not held back")
        }
    }
}

/// As said, or where the daemon would look; a node whose daemon has its
/// configuration from the cluster has no file.
fn read(asked: Option<&Path>) -> Result<Config, Mistakes> {
    let usual = Path::new(DEFAULT_PATH);
    match asked.or_else(|| usual.exists().then_some(usual)) {
        Some(path) => config::read(path).map(|loaded| loaded.config),
        None => Config::of_nobody(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_named_must_be_there() {
        assert!(read(Some(Path::new("/nowhere/config.toml"))).is_err());
    }

    #[test]
    fn without_a_file_everybody_is_refused() {
        let config = Config::of_nobody().unwrap();
        assert_eq!(config.node.unknown, config::Unknown::Refuse);
        assert!(config.kernel.cgroup.is_none() && config.workloads.is_empty());
        assert_eq!(config.kernel.pins, Path::new("/sys/fs/bpf/mtls-daemon"));
    }
}
