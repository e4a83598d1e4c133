//! `check-config` and `config show`.

use std::path::Path;

use crate::config;

use super::humane::count;
use super::{Exit, complain, fail, say};

pub(super) fn check(path: &Path) -> Exit {
    match config::read(path) {
        Ok(loaded) => {
            for warning in loaded.warnings.lines() {
                complain(&format!("warning: {warning}"));
            }
            let config = loaded.config;
            say(&format!(
                "{}: good: {}, {}, {}\n",
                path.display(),
                count(config.workloads.len(), "workload"),
                count(config.peers.len(), "peer"),
                count(config.services.len(), "service")
            ))
        }
        Err(mistakes) => {
            complain(&mistakes.to_string());
            fail(&count(mistakes.list.len(), "mistake"))
        }
    }
}

pub(super) fn show(path: &Path) -> Exit {
    match config::read(path) {
        Ok(loaded) => say(&config::effective(&loaded.config)),
        Err(mistakes) => fail(&mistakes.to_string()),
    }
}
