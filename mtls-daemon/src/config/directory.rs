//! `policy.directory`: policies in files of their own, which other people or
//! programs may write than those who write the configuration.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use toml::de::DeTable;

use super::authorization::{self, AuthorizationPolicy};
use super::mistakes::{Complaint, Mistakes};
use super::parse::syntax;
use super::reader::{Part, Reader};
use super::{Config, Loaded};

/// A file that is larger than this is something else.
const MAX_SIZE: u64 = 4 << 20;

/// What the folder's files look like from outside: when it changes, they are
/// worth reading again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stamp(Vec<(PathBuf, [i64; 5])>);

impl Stamp {
    /// Costs a stat(2) a file. What cannot be looked at is left out: reading
    /// will tell.
    pub fn of(directory: &Path) -> Self {
        let files = files(directory).unwrap_or_default();
        let stamp = |path: PathBuf| {
            let meta = fs::metadata(&path).ok()?;
            let (size, inode) = (meta.size().cast_signed(), meta.ino().cast_signed());
            let changed = [meta.ctime(), meta.ctime_nsec(), meta.mtime_nsec()];
            let [second, nanosecond, modified] = changed;
            Some((path, [size, inode, second, nanosecond, modified]))
        };
        Self(files.into_iter().filter_map(stamp).collect())
    }
}

impl Config {
    /// With what stands in `policy.directory` now, in place of what stood there.
    pub fn with_policy_directory(mut self) -> Result<Loaded, Mistakes> {
        self.authorization
            .retain(|policy| !policy.written.in_directory());
        let mut warnings = Mistakes::default();
        let Some(directory) = self.policy.directory.clone() else {
            return Ok(Loaded {
                config: self,
                warnings,
            });
        };
        let shown = directory.display().to_string();
        let files = files(&directory).map_err(|error| {
            Mistakes::of_file(
                &shown,
                format!("the folder of policies cannot be read: {error}"),
                "make it, or take policy.directory out",
            )
        })?;
        let mut mistakes = Mistakes::default();
        for path in files {
            match read(&path, &self) {
                Ok((policies, strange)) => {
                    self.authorization.extend(policies);
                    warnings.append(strange);
                }
                Err(wrong) => mistakes.append(wrong),
            }
        }
        match mistakes.is_empty() {
            true => Ok(Loaded {
                config: self,
                warnings,
            }),
            false => Err(mistakes),
        }
    }
}

/// In the order of their names. Hidden ones are not for us: editors keep
/// theirs there, and Kubernetes its `..data`.
fn files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let hidden = path
            .file_name()
            .is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden
            && path
                .extension()
                .is_some_and(|extension| extension == "toml")
        {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// The policies of one file. `config` is what was read before it.
fn read(path: &Path, config: &Config) -> Result<(Vec<AuthorizationPolicy>, Mistakes), Mistakes> {
    let name = path.display().to_string();
    let unreadable = |error: io::Error| {
        Mistakes::of_file(
            &name,
            format!("the policies cannot be read: {error}"),
            "correct its permissions, or take it away",
        )
    };
    let size = fs::metadata(path).map_err(unreadable)?.len();
    if size > MAX_SIZE {
        let what = format!("{size} bytes are too many for a file of policies");
        return Err(Mistakes::of_file(&name, what, "split it, or take it away"));
    }
    let text = fs::read_to_string(path).map_err(unreadable)?;
    let (document, errors) = DeTable::parse_recoverable(&text);
    let reader = Reader::of_directory(&name, &text);
    let mut warnings = Vec::new();
    let policies = {
        let root = Part::root(&reader, document.get_ref());
        policies(&root, config, &mut warnings)
    };
    let (values, structure) = reader.into_complaints();
    let complaints: Vec<Complaint> = match errors.is_empty() {
        true => values.into_iter().chain(structure).collect(),
        false => syntax(&errors, &text),
    };
    match complaints.is_empty() {
        true => Ok((policies, Mistakes::in_text(&name, &text, warnings))),
        false => Err(Mistakes::in_text(&name, &text, complaints)),
    }
}

fn policies(
    root: &Part<'_>,
    config: &Config,
    warnings: &mut Vec<Complaint>,
) -> Vec<AuthorizationPolicy> {
    for (name, at) in root.names() {
        if !matches!(name, "version" | "authorization-policy") {
            root.complain(
                at,
                format!("a file of policies has no {name:?}"),
                "write it in the configuration itself; here are only [[authorization-policy]] tables",
            );
        }
    }
    super::parse::version(root);
    let read = authorization::read(root);
    authorization::unique(&read, &config.authorization);
    authorization::warn(&read, config, warnings);
    read.into_iter().map(|read| read.policy).collect()
}
