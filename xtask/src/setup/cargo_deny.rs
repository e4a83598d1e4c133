//! cargo-deny, which holds the dependencies against deny.toml. Built once a
//! version into the cache.

use std::path::PathBuf;

use crate::command;
use crate::failure::Result;
use crate::places;
use crate::say;

const VERSION: &str = "0.20.2";

/// The program, built first if need be.
pub(crate) fn ready() -> Result<PathBuf> {
    let folder = places::cache(&format!("cargo-deny-{VERSION}"))?;
    let program = folder.join("bin/cargo-deny");
    if program.exists() {
        return Ok(program);
    }
    say::step(
        "Building",
        &format!("cargo-deny {VERSION} into {} (a minute)", folder.display()),
    );
    let mut cargo = command::cargo();
    // Not optimised: that would take ten times what all its runs will.
    cargo.args(["install", "cargo-deny", "--version", VERSION]);
    cargo.args(["--locked", "--quiet", "--debug", "--root"]);
    cargo
        .arg(&folder)
        .env("CARGO_PROFILE_DEV_DEBUG", "0")
        .env("CARGO_INCREMENTAL", "0");
    for name in ["RUSTFLAGS", "CARGO_TARGET_DIR"] {
        cargo.env_remove(name);
    }
    command::run_quietly(&mut cargo)?;
    Ok(program)
}
