//! `policy.directory`: what changes there takes effect by itself.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::config::{Config, Stamp};
use crate::metrics::Outcome;

use super::Node;

/// How the folder was found at the last look.
#[derive(Default)]
pub struct Policies {
    stamp: RefCell<Stamp>,
    /// When it last looked otherwise than before.
    changed: Cell<Option<Instant>>,
    /// What is wrong there, since a change that was not taken.
    error: RefCell<Option<String>>,
}

/// File times tick every few milliseconds, so that two writes can carry the
/// same time: for so long after a change the files are read at every look.
const UNSETTLED: Duration = Duration::from_secs(2);

impl Policies {
    /// Everything was read, and all of it was good.
    pub(super) fn settled(&self) {
        self.error.replace(None);
    }

    fn may_have_changed(&self, directory: &Path) -> bool {
        let stamp = Stamp::of(directory);
        if *self.stamp.borrow() != stamp {
            self.stamp.replace(stamp);
            self.changed.set(Some(Instant::now()));
        }
        let unsettled = |changed: Instant| changed.elapsed() <= UNSETTLED;
        self.changed.get().is_some_and(unsettled)
    }
}

impl Node {
    /// Read the folder again if it may have changed. The rest of the
    /// configuration stays as it is, whatever its file says by now.
    pub(super) fn look_at_policies(&self) {
        let config = Arc::clone(&self.config.borrow());
        let Some(directory) = &config.policy.directory else {
            return;
        };
        if !self.origin.policies.may_have_changed(directory) {
            return;
        }
        let read = Config::clone(&config).with_policy_directory();
        let taken = read.map_err(|mistakes| mistakes.to_string());
        match taken {
            Ok(loaded) => {
                let mended = self.origin.policies.error.take().is_some();
                if loaded.config.authorization == config.authorization && !mended {
                    return;
                }
                for warning in loaded.warnings.lines() {
                    tracing::warn!("{warning}");
                }
                self.put_policies_in_force(loaded.config);
            }
            Err(error) => {
                let mut known = self.origin.policies.error.borrow_mut();
                if known.as_ref() == Some(&error) {
                    return;
                }
                self.metrics.config_reload(Outcome::Error);
                tracing::error!(%error, "policies not read again: those before stay in force");
                *known = Some(error);
            }
        }
        self.changes.send_replace(());
    }

    fn put_policies_in_force(&self, config: Config) {
        match self.newest_facts(&config) {
            Ok(facts) => {
                self.facts.send_replace(facts);
                let policies = config.authorization.len();
                self.config.replace(Arc::new(config));
                self.metrics.config_reload(Outcome::Ok);
                tracing::info!(policies, "policies read again");
            }
            // Of the networks, which have not changed.
            Err(error) => tracing::error!(%error, "policies could not be put in force"),
        }
    }

    /// What is wrong with the files as they are now, if anything.
    pub(super) fn reload_error(&self) -> Option<String> {
        let of_file = self.origin.reload_error.borrow().clone();
        of_file.or_else(|| self.origin.policies.error.borrow().clone())
    }
}
