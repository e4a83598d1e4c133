//! The plug-in's place on the node: the daemon's own file among the runtime's
//! plug-ins, and our entry in the first of its network configurations, kept
//! there whoever writes that anew.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde_json::Value;
use thiserror::Error;

use crate::config;

use super::conflist::{self, NotUnderstood};
use super::{Entry, TYPE};

/// Why the plug-in is not in its place.
#[derive(Debug, Error)]
pub enum InstallError {
    #[error("{0}: {1}")]
    Io(PathBuf, #[source] io::Error),
    #[error(
        "{0} has no network configuration yet: the cluster's network plug-in writes it, or cni.conf_dir is another folder"
    )]
    Nothing(PathBuf),
    #[error("{0} is left as it is: {1}: mend it, or take it away if another one is meant")]
    NotUnderstood(PathBuf, #[source] NotUnderstood),
    #[error(
        "{0} is left as it is: it is a symbolic link, which writing would replace: put a file there"
    )]
    Link(PathBuf),
    #[error(
        "{0} is left as it is: {1} is there, too, and would be overwritten: take away whichever is not in use"
    )]
    Both(PathBuf, PathBuf),
    #[error("{0} was changed meanwhile")]
    Changed(PathBuf),
}

/// What it took to have it in its place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    pub copied: bool,
    pub written: bool,
}

/// The runtime's folders, and what is to be in them.
#[derive(Clone, Debug)]
pub struct Place {
    conf: PathBuf,
    bin: PathBuf,
    entry: Value,
    /// The copy that was found to be whole.
    copied: Option<Stamp>,
}

/// Inode, size, and when it was changed.
type Stamp = (u64, u64, i64, i64);

/// Names that runtimes do not read, for files in the making, and for what was
/// there before a list was made of it.
const MAKING: &str = "mtls-daemon-new";
const BEFORE: &str = "before-mtls-daemon";

impl Place {
    pub fn new(cni: &config::Cni) -> Self {
        let entry = Entry::new(&cni.socket, &cni.exclude);
        Self {
            conf: cni.conf_dir.clone(),
            bin: cni.bin_dir.clone(),
            entry: serde_json::to_value(entry).expect("texts are JSON"),
            copied: None,
        }
    }

    pub fn folders(&self) -> [&Path; 2] {
        [&self.conf, &self.bin]
    }

    /// Puts everything where it belongs. Nothing is written that is there.
    pub fn put(&mut self) -> Result<Done, InstallError> {
        // The file first: an entry without it fails every pod.
        let copied = self.copy()?;
        let first = self.first()?;
        let text = read(&first)?;
        let of = |error| InstallError::NotUnderstood(first.clone(), error);
        let written = match is_list(&first) {
            true => match conflist::with(&text, &self.entry).map_err(of)? {
                Some(with) => {
                    replace(&first, &text, &with)?;
                    true
                }
                None => false,
            },
            false => {
                let list = conflist::list_of(&text).map_err(of)?;
                let with = conflist::with(&list, &self.entry).map_err(of)?;
                self.make_list(&first, &text, &with.unwrap_or(list))?;
                true
            }
        };
        Ok(Done { copied, written })
    }

    /// Whether our entry is in the configuration that the runtime reads.
    pub fn is_in_force(&self) -> Result<bool, InstallError> {
        let first = self.first()?;
        if !is_list(&first) {
            return Ok(false);
        }
        let found = conflist::entry_in(&read(&first)?);
        let found = found.map_err(|error| InstallError::NotUnderstood(first, error))?;
        Ok(found.as_ref() == Some(&self.entry))
    }

    /// Takes this daemon's entry away, wherever it is; the files that it was
    /// taken from. The plug-in's own file stays: some runtimes end a pod by the
    /// plug-ins that it began with.
    pub fn remove(&self) -> Result<Vec<PathBuf>, InstallError> {
        let mut changed = Vec::new();
        for path in self.configurations()?.iter().filter(|path| is_list(path)) {
            // Who cannot read it has not written there either.
            let Ok(text) = read(path) else { continue };
            let is_mine = |entry: &Value| entry["socket"] == self.entry["socket"];
            let without = match conflist::without(&text, is_mine) {
                Ok(Some(without)) => without,
                Ok(None) | Err(_) => continue,
            };
            match self.before(path) {
                // It comes first from then on. Of a list that somebody wrote
                // anew it says nothing any more.
                Some((before, name)) if is_made_of(&without, &before) => {
                    fs::rename(&before, &name).map_err(on(&name))?;
                    fs::remove_file(path).map_err(on(path))?;
                }
                Some(_) | None => replace(path, &text, &without)?,
            }
            changed.push(path.clone());
        }
        Ok(changed)
    }

    /// This process's own file, by its bytes.
    fn copy(&mut self) -> Result<bool, InstallError> {
        let (own, target) = (Path::new("/proc/self/exe"), self.bin.join(TYPE));
        let is_known = || self.copied.is_some() && stamp(&target).ok() == self.copied;
        if is_known() || is_same(own, &target).unwrap_or(false) {
            self.copied = stamp(&target).ok();
            return Ok(false);
        }
        let making = beside(&target, MAKING);
        fs::copy(own, &making).map_err(on(&making))?;
        let executable = fs::Permissions::from_mode(0o755);
        fs::set_permissions(&making, executable).map_err(on(&making))?;
        into_place(&making, &target)?;
        self.copied = stamp(&target).ok();
        Ok(true)
    }

    /// The one that the runtime reads: by name, whatever is in it.
    fn first(&self) -> Result<PathBuf, InstallError> {
        let first = self.configurations()?.into_iter().next();
        let first = first.ok_or_else(|| InstallError::Nothing(self.conf.clone()))?;
        let about = fs::symlink_metadata(&first).map_err(on(&first))?;
        match about.is_symlink() {
            true => Err(InstallError::Link(first)),
            false => Ok(first),
        }
    }

    fn configurations(&self) -> Result<Vec<PathBuf>, InstallError> {
        let folder = match fs::read_dir(&self.conf) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            folder => folder.map_err(on(&self.conf))?,
        };
        let paths = folder.map(|entry| entry.map(|entry| entry.path()));
        let mut paths = paths
            .collect::<io::Result<Vec<_>>>()
            .map_err(on(&self.conf))?;
        paths.retain(|path| {
            let extension = path.extension().unwrap_or_default();
            ["conf", "conflist", "json"]
                .iter()
                .any(|it| extension == *it)
        });
        paths.sort();
        Ok(paths)
    }

    /// A list in the place of a single plug-in's configuration. At every moment
    /// one of the two is there.
    fn make_list(&self, path: &Path, text: &str, list: &str) -> Result<(), InstallError> {
        let made = path.with_extension("conflist");
        let before = beside(path, BEFORE);
        if made.exists() && self.before(&made).is_none() {
            return Err(InstallError::Both(path.to_owned(), made));
        }
        write_new(&before, text, path)?;
        write_new(&made, list, path)?;
        if read(path)? != text {
            return Err(InstallError::Changed(path.to_owned()));
        }
        fs::remove_file(path).map_err(on(path))
    }

    /// What a list was made of, and that one's name.
    fn before(&self, list: &Path) -> Option<(PathBuf, PathBuf)> {
        let names = ["conf", "json"].map(|extension| list.with_extension(extension));
        let mut names = names.into_iter().map(|name| (beside(&name, BEFORE), name));
        names.find(|(before, _)| before.exists())
    }
}

fn is_list(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension == "conflist")
}

/// `.NAME.ending`, in the same folder.
fn beside(path: &Path, ending: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{ending}"))
}

/// Another one's change is not lost, but for the moment of the renaming.
fn replace(path: &Path, was: &str, now: &str) -> Result<(), InstallError> {
    let making = beside(path, MAKING);
    write(&making, now, path)?;
    if read(path)? != was {
        return Err(InstallError::Changed(path.to_owned()));
    }
    into_place(&making, path)
}

fn write_new(path: &Path, text: &str, like: &Path) -> Result<(), InstallError> {
    let making = beside(path, MAKING);
    write(&making, text, like)?;
    into_place(&making, path)
}

/// Readable for whoever may read its model.
fn write(path: &Path, text: &str, like: &Path) -> Result<(), InstallError> {
    let permissions = fs::metadata(like).map_err(on(like))?.permissions();
    fs::write(path, text).map_err(on(path))?;
    fs::set_permissions(path, permissions).map_err(on(path))
}

/// Whole, also after a power failure.
fn into_place(making: &Path, path: &Path) -> Result<(), InstallError> {
    let synced = File::open(making).and_then(|file| file.sync_all());
    synced.map_err(on(making))?;
    fs::rename(making, path).map_err(on(path))?;
    let folder = path.parent().unwrap_or(path);
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(on(folder))
}

fn is_made_of(list: &str, before: &Path) -> bool {
    let before = fs::read_to_string(before);
    before.is_ok_and(|before| conflist::list_of(&before).is_ok_and(|made| made == list))
}

fn stamp(path: &Path) -> io::Result<Stamp> {
    let about = fs::metadata(path)?;
    Ok((about.ino(), about.size(), about.ctime(), about.ctime_nsec()))
}

fn is_same(own: &Path, other: &Path) -> io::Result<bool> {
    let about = fs::metadata(other)?;
    if fs::metadata(own)?.size() != about.size() || about.permissions().mode() & 0o111 == 0 {
        return Ok(false);
    }
    let open = |path| File::open(path).map(BufReader::new);
    let (mut own, mut other) = (open(own)?, open(other)?);
    loop {
        let (ours, theirs) = (own.fill_buf()?, other.fill_buf()?);
        let both = ours.len().min(theirs.len());
        if both == 0 {
            return Ok(ours.is_empty() && theirs.is_empty());
        }
        if ours[..both] != theirs[..both] {
            return Ok(false);
        }
        own.consume(both);
        other.consume(both);
    }
}

fn read(path: &Path) -> Result<String, InstallError> {
    fs::read_to_string(path).map_err(on(path))
}

fn on(path: &Path) -> impl FnOnce(io::Error) -> InstallError + use<> {
    let path = path.to_owned();
    move |error| InstallError::Io(path, error)
}
