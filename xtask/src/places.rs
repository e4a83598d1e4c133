//! Where things are.

use std::path::{Path, PathBuf};

use crate::failure::{Failure, Result, While};

/// The root of this repository.
pub(crate) fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask lies one folder below the root")
}

/// A folder of ours outside the repository, made if need be, for what is
/// expensive to fetch or build. `key` names the thing and its version, so a
/// new version never meets the leavings of an old one.
pub(crate) fn cache(key: &str) -> Result<PathBuf> {
    let absolute = |name| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let base = absolute("XDG_CACHE_HOME")
        .or_else(|| Some(absolute("HOME")?.join(".cache")))
        .ok_or_else(|| {
            Failure::new("neither XDG_CACHE_HOME nor HOME names a folder for downloads")
        })?;
    let folder = base.join("mtls-daemon").join(key);
    std::fs::create_dir_all(&folder).doing(format_args!("making {}", folder.display()))?;
    Ok(folder)
}
