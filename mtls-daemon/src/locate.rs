//! Finding a workload's network namespace from what the configuration says.

mod kubepods;

use std::collections::HashSet;
use std::io;
use std::os::unix::fs::DirEntryExt;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::config::Place;

/// Why no network namespace was found.
#[derive(Debug, Error)]
pub enum LocateError {
    #[error("{0} is not there yet")]
    Absent(PathBuf),
    #[error("no process runs in {0} yet")]
    Empty(PathBuf),
    #[error("no cgroup of the pod {0} below {1} yet")]
    NoPod(String, PathBuf),
    #[error("no cgroup of the unit {0} below {1}: is the unit started?")]
    NoUnit(String, PathBuf),
    #[error("reading {0}")]
    Read(PathBuf, #[source] io::Error),
}

/// Where a workload is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// A file that names its network namespace.
    pub netns: PathBuf,
    /// Its cgroup, where one is known.
    pub cgroup: Option<PathBuf>,
}

/// Find `place`. `cgroup2` is the mount of the unified cgroup tree.
pub fn locate(place: &Place, cgroup2: &Path) -> Result<Located, LocateError> {
    match place {
        Place::Netns(path) if path.exists() => Ok(Located {
            netns: path.clone(),
            cgroup: None,
        }),
        Place::Netns(path) => Err(LocateError::Absent(path.clone())),
        Place::Cgroup(path) => in_cgroup(path.clone()),
        Place::Unit(unit) => {
            let path = unit_cgroup(unit, cgroup2)
                .ok_or_else(|| LocateError::NoUnit(unit.clone(), cgroup2.to_owned()))?;
            in_cgroup(path)
        }
        Place::Pod(uid) => {
            let path = kubepods::Kubelets::look(cgroup2)
                .find(uid)
                .ok_or_else(|| LocateError::NoPod(uid.clone(), cgroup2.to_owned()))?;
            in_pod(path)
        }
    }
}

/// Those of `uids` whose pods have a cgroup here.
pub fn pods(uids: Vec<&str>, cgroup2: &Path) -> HashSet<String> {
    let here = kubepods::Kubelets::look(cgroup2);
    let found = uids.into_iter().filter(|uid| here.find(uid).is_some());
    found.map(str::to_owned).collect()
}

/// Find a pod again where it was found before: its UID is given to no other.
pub fn locate_again(pod: &Path) -> Result<Located, LocateError> {
    in_pod(pod.to_owned())
}

/// A pod's oldest container is its sandbox, to which its network namespace
/// belongs; the kernel numbers cgroups in the order in which they are made.
fn in_pod(pod: PathBuf) -> Result<Located, LocateError> {
    let folder = match std::fs::read_dir(&pod) {
        Ok(folder) => folder.flatten(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(LocateError::Absent(pod));
        }
        Err(error) => return Err(LocateError::Read(pod, error)),
    };
    let mut containers: Vec<(u64, PathBuf)> = folder
        .filter(|entry| kubepods::is_container(&entry.file_name().to_string_lossy()))
        .map(|entry| (entry.ino(), entry.path()))
        .filter(|(_, path)| path.is_dir())
        .collect();
    containers.sort_unstable();
    for (_, container) in containers {
        match first_process(&container) {
            Ok(Some(pid)) => {
                return Ok(Located {
                    netns: PathBuf::from(format!("/proc/{pid}/ns/net")),
                    cgroup: Some(pod),
                });
            }
            // It has just ended; the next one shares its namespace.
            Ok(None) | Err(LocateError::Absent(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Err(LocateError::Empty(pod))
}

fn in_cgroup(cgroup: PathBuf) -> Result<Located, LocateError> {
    match first_process(&cgroup)? {
        Some(pid) => {
            let netns = PathBuf::from(format!("/proc/{pid}/ns/net"));
            Ok(Located {
                netns,
                cgroup: Some(cgroup),
            })
        }
        None => Err(LocateError::Empty(cgroup)),
    }
}

/// The first process in `cgroup` or below it.
fn first_process(cgroup: &Path) -> Result<Option<u32>, LocateError> {
    let procs = cgroup.join("cgroup.procs");
    let text = match std::fs::read_to_string(&procs) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(LocateError::Absent(cgroup.to_owned()));
        }
        Err(error) => return Err(LocateError::Read(procs, error)),
    };
    // A process of another pid namespace shows as 0.
    if let Some(pid) = text
        .lines()
        .find_map(|line| line.parse().ok().filter(|pid| *pid != 0))
    {
        return Ok(Some(pid));
    }
    let folder = std::fs::read_dir(cgroup).map_err(|e| LocateError::Read(cgroup.to_owned(), e))?;
    for entry in folder.flatten().filter(|entry| entry.path().is_dir()) {
        match first_process(&entry.path()) {
            Ok(None) | Err(LocateError::Absent(_)) => {}
            found => return found,
        }
    }
    Ok(None)
}

/// A unit's cgroup lies below the slices that systemd made for it.
fn unit_cgroup(unit: &str, cgroup2: &Path) -> Option<PathBuf> {
    let mut slices = vec![cgroup2.to_owned()];
    while let Some(folder) = slices.pop() {
        let candidate = folder.join(unit);
        if candidate.is_dir() {
            return Some(candidate);
        }
        let inner = std::fs::read_dir(&folder)
            .ok()?
            .flatten()
            .map(|entry| entry.path());
        slices.extend(inner.filter(|path| path.extension().is_some_and(|e| e == "slice")));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_is_not_there_is_waited_for() {
        let place = Place::Netns("/run/netns/surely-not-there".into());
        assert!(matches!(
            locate(&place, Path::new("/")),
            Err(LocateError::Absent(_))
        ));
    }

    #[test]
    fn a_unit_is_found_below_its_slices() {
        let root = std::env::temp_dir().join(format!("mtls-unit-{}", std::process::id()));
        let unit = root.join("system.slice/system-web.slice/web@1.service");
        std::fs::create_dir_all(&unit).unwrap();
        let found = unit_cgroup("web@1.service", &root);
        let missing = unit_cgroup("db.service", &root);
        std::fs::remove_dir_all(&root).unwrap();
        assert_eq!(found, Some(unit));
        assert_eq!(missing, None);
    }
}
