//! `check-config` and `config show`.

use std::path::Path;

use crate::config;

use super::{Exit, complain, fail, say};

pub(super) fn check(path: &Path) -> Exit {
    match config::read(path) {
        Ok(loaded) => {
            for warning in loaded.warnings.lines() {
                complain(&format!("warning: {warning}"));
            }
            let (workloads, peers) = (loaded.config.workloads.len(), loaded.config.peers.len());
            say(&format!(
                "{}: good: {workloads} workloads, {peers} peers, {} services\n",
                path.display(),
                loaded.config.services.len()
            ))
        }
        Err(mistakes) => {
            complain(&mistakes.to_string());
            match mistakes.list.len() {
                1 => fail("1 mistake"),
                count => fail(&format!("{count} mistakes")),
            }
        }
    }
}

pub(super) fn show(path: &Path) -> Exit {
    match config::read(path) {
        Ok(loaded) => say(&config::effective(&loaded.config)),
        Err(mistakes) => fail(&mistakes.to_string()),
    }
}
