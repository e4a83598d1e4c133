//! What deny.toml says of the dependencies: licences, bans, sources, and, where
//! their database is at hand, advisories.

use std::path::PathBuf;
use std::process::Command;

use crate::command;
use crate::failure::Result;
use crate::places;
use crate::say;
use crate::setup::cargo_deny;

/// Each with a lock file of its own; one deny.toml for all.
const WORKSPACES: [&str; 3] = ["Cargo.toml", "mtls-ebpf/Cargo.toml", "fuzz/Cargo.toml"];

pub(super) fn check() -> Result {
    let program = cargo_deny::ready()?;
    let at_hand = advisories().is_some_and(|folder| folder.exists());
    for workspace in WORKSPACES {
        let deny = |options: &[&str], checks: &[&str]| {
            let mut deny = Command::new(&program);
            deny.current_dir(places::repository())
                .args(["--manifest-path", workspace, "--locked", "--all-features"])
                .args(["--log-level", "error"])
                .args(options)
                .args(["check", "--hide-inclusion-graph"])
                .args(checks);
            command::run_quietly(&mut deny)
        };
        deny(&[], &["bans", "licenses", "sources"])?;
        if at_hand {
            // As of when somebody fetched them: a check says the same twice.
            deny(&["--offline"], &["advisories"])?;
        }
    }
    if !at_hand {
        say::step(
            "Skipped",
            "advisories: `cargo deny fetch db` brings their database",
        );
    }
    Ok(())
}

/// Where cargo-deny keeps it.
fn advisories() -> Option<PathBuf> {
    let cargo_home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo"));
    Some(cargo_home.or(home)?.join("advisory-dbs"))
}
