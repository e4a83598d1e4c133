//! Embeds the kernel programs, which another command builds: they need another
//! toolchain and another target than the daemon.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

const OBJECTS: [&str; 2] = ["hooks", "sk_lookup"];

fn main() -> ExitCode {
    // A folder with objects that were built elsewhere, by a distribution say.
    println!("cargo::rerun-if-env-changed=MTLS_EBPF_DIR");
    let folder = std::env::var_os("MTLS_EBPF_DIR").map_or_else(built_here, PathBuf::from);
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it for build scripts"));
    for object in OBJECTS {
        let from = folder.join(object);
        println!("cargo::rerun-if-changed={}", from.display());
        if let Err(error) = std::fs::copy(&from, out.join(object)) {
            println!(
                "cargo::error=the kernel programs are not built ({}: {error}): run `cargo xtask build-ebpf`",
                from.display()
            );
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn built_here() -> PathBuf {
    let crate_folder =
        std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it for build scripts");
    Path::new(&crate_folder)
        .parent()
        .unwrap_or_else(|| Path::new("."))
        .join("target/bpf")
}
