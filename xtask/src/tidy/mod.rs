//! `cargo xtask tidy`: what the papers say of the code, and the house rules
//! that no compiler holds.
//!
//! Every check but cargo-deny's is a function of the repository's text, so the
//! tests break each rule in a repository of three lines and see the check say so.

mod arrows;
mod dependencies;
mod docs;
mod house;
mod rust;
mod unsafe_code;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::command;
use crate::failure::{Failure, Result, While};
use crate::places;
use crate::say;

/// What the checks look at.
#[derive(Default)]
struct Repository {
    /// All text files by their path from the root, with `/` between components.
    files: BTreeMap<String, String>,
}

/// A rule that is broken, and where.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Mistake {
    file: String,
    line: usize,
    what: String,
}

pub(crate) fn run() -> Result {
    let root = places::repository();
    let repository = Repository::read(root)?;
    let mut mistakes = repository.mistakes(&root.to_string_lossy());
    mistakes.sort();
    for mistake in &mistakes {
        say::error(&mistake.to_string());
    }
    if !mistakes.is_empty() {
        return Err(Failure::new(format!(
            "tidy found {} mistakes",
            mistakes.len()
        )));
    }
    dependencies::check()?;
    say::step("Tidy", &format!("{} files", repository.files.len()));
    Ok(())
}

impl Repository {
    fn mistakes(&self, root: &str) -> Vec<Mistake> {
        let mut mistakes = arrows::check(self);
        mistakes.extend(docs::check(self));
        mistakes.extend(house::check(self, root));
        mistakes.extend(unsafe_code::check(self));
        mistakes
    }

    /// What git tracks or would track; build output and caches are ignored there.
    fn read(root: &Path) -> Result<Self> {
        let mut git = Command::new("git");
        git.current_dir(root).args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ]);
        let names = command::output(&mut git)?;
        let mut files = BTreeMap::new();
        for name in names.split_terminator('\0') {
            match fs::read(root.join(name)) {
                Ok(bytes) => {
                    // What is not text has no rules to keep.
                    if let Ok(text) = String::from_utf8(bytes) {
                        files.insert(name.to_owned(), text);
                    }
                }
                // Deleted, and the deletion not yet staged.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error).doing(format_args!("reading {name}")),
            }
        }
        Ok(Self { files })
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.files.get(name).map(String::as_str)
    }

    /// The files below a folder that end so, with their text.
    fn below<'a>(
        &'a self,
        folder: &'a str,
        ending: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a str)> {
        let all = self
            .files
            .iter()
            .map(|(name, text)| (name.as_str(), text.as_str()));
        all.filter(move |(name, _)| name.starts_with(folder) && name.ends_with(ending))
    }

    #[cfg(test)]
    fn of(files: &[(&str, &str)]) -> Self {
        let files = files
            .iter()
            .map(|&(name, text)| (name.to_owned(), text.to_owned()))
            .collect();
        Self { files }
    }
}

impl Mistake {
    fn at(file: &str, line: usize, what: impl Into<String>) -> Self {
        Self {
            file: file.to_owned(),
            line,
            what: what.into(),
        }
    }

    /// Of a file as a whole, or of one that is not there.
    fn of(file: &str, what: impl Into<String>) -> Self {
        Self::at(file, 1, what)
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.what)
    }
}
