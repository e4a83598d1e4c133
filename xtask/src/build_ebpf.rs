//! `cargo xtask build-ebpf`: the kernel programs, from source, where the
//! daemon's build script looks for them.

use std::fs;
use std::path::PathBuf;

use crate::command;
use crate::failure::{Failure, Result, While};
use crate::places;
use crate::say;
use crate::setup::toolchain;

/// BTF tells the kernel, and bpftool, the types of maps and programs.
const BTF: &[&str] = &["-Cdebuginfo=2", "-Clink-arg=--btf"];

/// Builds them and puts the objects into target/bpf, the name of each program
/// file its own.
pub(crate) fn run() -> Result {
    let source = places::repository().join("mtls-ebpf");
    let toolchain = toolchain::ready()?;
    // Where registers and stacks lie differs between the machines' own kinds.
    let arch = format!("--cfg=bpf_target_arch=\"{}\"", std::env::consts::ARCH);
    let mut cargo = toolchain.cargo_build(&[&[arch.as_str()], BTF].concat());
    command::run(
        cargo
            .current_dir(&source)
            .args(["--quiet", "--target-dir", "target"]),
    )?;
    let built = source.join("target/bpfel-unknown-none/release");
    let place = places::repository().join("target/bpf");
    fs::create_dir_all(&place).doing(format_args!("making {}", place.display()))?;
    let objects = objects(&built)?;
    for object in &objects {
        let name = object.file_name().unwrap_or_default();
        copy_if_changed(object, &place.join(name))?;
    }
    say::step(
        "Built",
        &format!("the kernel programs with {}", toolchain.name),
    );
    Ok(())
}

/// The files that cargo left for the `[[bin]]`s: those without an ending.
fn objects(folder: &PathBuf) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).doing(format_args!("reading {}", folder.display()))?;
    let files = entries.flatten().map(|entry| entry.path());
    let objects: Vec<_> = files
        .filter(|path| path.is_file() && path.extension().is_none() && !is_hidden(path))
        .collect();
    match objects.as_slice() {
        [] => Err(Failure::new(format!(
            "cargo left no object in {}",
            folder.display()
        ))),
        _ => Ok(objects),
    }
}

fn is_hidden(path: &std::path::Path) -> bool {
    path.file_name()
        .is_some_and(|name| name.to_string_lossy().starts_with('.'))
}

/// An unchanged object keeps its time, or cargo would build the daemon again.
fn copy_if_changed(from: &PathBuf, to: &PathBuf) -> Result {
    let new = fs::read(from).doing(format_args!("reading {}", from.display()))?;
    if fs::read(to).is_ok_and(|old| old == new) {
        return Ok(());
    }
    fs::write(to, new).doing(format_args!("writing {}", to.display()))
}
