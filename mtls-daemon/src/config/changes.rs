//! What a reload would change, and which of it waits for a restart.

use std::collections::BTreeMap;
use std::fmt;

use super::Config;
use super::effective::{Block, blocks};
use super::keys::Applies;

/// The differences between two configurations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Take effect at the reload.
    pub live: Vec<Change>,
    /// Take effect when the daemon is started again.
    pub restart: Vec<Change>,
}

/// A key, or a whole table, that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// `limits.drain`, or `workload "web".mode`, or `workload "web"` for all of it.
    pub key: String,
    /// In TOML; `None` when it was unset, or the table was not there.
    pub was: Option<String>,
    pub now: Option<String>,
}

/// What differs in `new`.
pub fn changes(old: &Config, new: &Config) -> Changes {
    let (old, new) = (by_name(old), by_name(new));
    let mut changes = Changes::default();
    for (name, block) in &old {
        match new.get(name) {
            Some(now) => changes.compare(name, block, now),
            None => changes.add(block.applies(), name.clone(), Some("there"), None),
        }
    }
    for (name, block) in &new {
        if !old.contains_key(name) {
            changes.add(block.applies(), name.clone(), None, Some("there"));
        }
    }
    changes
}

/// The keys that differ in `new` and wait for a restart.
pub fn changes_that_need_a_restart(old: &Config, new: &Config) -> Vec<String> {
    let waiting = changes(old, new).restart;
    waiting.into_iter().map(|change| change.key).collect()
}

impl Changes {
    pub fn is_empty(&self) -> bool {
        self.live.is_empty() && self.restart.is_empty()
    }

    fn compare(&mut self, name: &str, old: &Block, new: &Block) {
        for ((key, was), (_, now)) in old.values.iter().zip(&new.values) {
            if was != now {
                let path = format!("{name}.{}", key.name);
                self.add(key.applies, path, was.as_deref(), now.as_deref());
            }
        }
    }

    fn add(&mut self, applies: Applies, key: String, was: Option<&str>, now: Option<&str>) {
        let change = Change {
            key,
            was: was.map(str::to_owned),
            now: now.map(str::to_owned),
        };
        match applies {
            Applies::Live => self.live.push(change),
            Applies::Restart => self.restart.push(change),
        }
    }
}

fn by_name(config: &Config) -> BTreeMap<String, Block> {
    blocks(config)
        .into_iter()
        .map(|block| {
            let name = match &block.item {
                Some(item) => format!("{} {item:?}", block.section.path),
                None => block.section.path.to_owned(),
            };
            (name, block)
        })
        .collect()
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unset = "unset";
        write!(
            f,
            "{}: {} -> {}",
            self.key,
            self.was.as_deref().unwrap_or(unset),
            self.now.as_deref().unwrap_or(unset)
        )
    }
}
