//! Nothing may stay behind: no namespace, mount, pin, cgroup, process, folder.

use std::fs;
use std::path::Path;

use crate::cgroup;
use crate::deadline::{Deadline, wait_for};
use crate::error::{Error, Result, ensure};
use crate::run::{self, PREFIX};

/// Fails if a scene that is over left something.
pub(crate) fn ensure_none_of(scene: &str) -> Result {
    let found = traces(|name| name == scene)?;
    ensure(found.is_empty(), || {
        format!("the story left behind:\n{}", found.join("\n"))
    })
}

/// Every trace of a run and its scenes.
pub fn of_run(run: &str) -> Result<Vec<String>> {
    traces(|name| run::run_of(name).as_deref() == Some(run))
}

/// Fails if any run that is over left something: for the end of all tests.
pub fn ensure_none() -> Result {
    let over = |name: &str| run::run_of(name).is_some_and(|run| !run::is_alive(&run));
    let mut found = Vec::new();
    // The janitor of the last run may still be at work.
    let gone = wait_for(
        Deadline::default(),
        || "the janitors",
        || {
            found = traces(over)?;
            Ok(found.is_empty().then_some(()))
        },
    );
    match gone {
        Err(Error::TimedOut { .. }) => Err(Error::Unexpected(format!(
            "left behind on this machine:\n{}",
            found.join("\n")
        ))),
        other => other,
    }
}

/// Every trace of the scenes whose name is `wanted`: a name is a run's, or a
/// run's and a scene's.
fn traces(wanted: impl Fn(&str) -> bool) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let marked = |name: &str| name.strip_prefix(PREFIX).is_some_and(&wanted);
    for (path, name) in run::list(cgroup::mount_point()?) {
        if marked(&name) {
            let pids = cgroup::processes_below(&path);
            found.push(format!("cgroup {} with processes {pids:?}", path.display()));
        }
    }
    for hierarchy in cgroup::old_hierarchies()? {
        for (path, name) in run::list(&hierarchy) {
            if marked(&name) {
                found.push(format!("cgroup {}", path.display()));
            }
        }
    }
    for (path, name) in run::list(&std::env::temp_dir()) {
        if marked(&name) {
            found.push(format!("folder {}", path.display()));
        }
    }
    let runs = Path::new(run::RUNS);
    for (path, name) in run::list(runs) {
        if wanted(&name) {
            found.push(format!("folder {}", path.display()));
        }
        for (path, name) in run::list(&path) {
            if wanted(&name) {
                found.push(format!("folder {}", path.display()));
            }
        }
    }
    for mount in run::mounts_below(runs)? {
        let parts = mount.strip_prefix(runs).unwrap_or(&mount).components();
        if parts
            .take(2)
            .any(|part| wanted(&part.as_os_str().to_string_lossy()))
        {
            found.push(format!("mount {}", mount.display()));
        }
    }
    found.extend(processes(&wanted)?);
    Ok(found)
}

/// Processes that name a scene in their command line, wherever they run now.
fn processes(wanted: impl Fn(&str) -> bool) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for (path, pid) in run::list(Path::new("/proc")) {
        if pid.parse::<u32>().is_err() {
            continue;
        }
        let Ok(line) = fs::read(path.join("cmdline")) else {
            continue; // it has just ended
        };
        let line = String::from_utf8(line)
            .map_err(|e| Error::Unreadable {
                what: format!("the command line of {pid}"),
                why: e.to_string(),
            })?
            .replace('\0', " ");
        let ours = line
            .split(['/', ' '])
            .any(|part| wanted(part) || part.strip_prefix(PREFIX).is_some_and(&wanted));
        let janitor = line.contains("--janitor");
        if ours && !janitor {
            found.push(format!("process {pid}: {line}"));
        }
    }
    Ok(found)
}
