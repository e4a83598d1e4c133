//! A compiler and a linker for the kernel programs: a rustup nightly that has
//! rust-src, or the distribution's own rustc with its sources, whichever is
//! there; and bpf-linker, whose LLVM must be no older than the compiler's.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::packages;
use crate::command;
use crate::failure::{Failure, Result, While};
use crate::places;
use crate::say;

const LINKER_VERSION: &str = "0.13.0";
/// The LLVM that we build bpf-linker against where none that fits is installed.
const LINKER_LLVM: u32 = 22;

#[derive(Debug)]
pub(crate) struct Toolchain {
    /// For people: which compiler this is.
    pub(crate) name: String,
    rustc: PathBuf,
    linker: PathBuf,
    /// A stable compiler must be told that it may build `core`.
    stable: bool,
}

impl Toolchain {
    /// cargo, set up to build for bpfel-unknown-none with this toolchain.
    /// `rustflags` are added to the linker's.
    pub(crate) fn cargo_build(&self, rustflags: &[&str]) -> Command {
        let mut flags = vec![format!("-Clinker={}", self.linker.display())];
        flags.extend(rustflags.iter().map(|&flag| flag.to_owned()));
        let mut cargo = command::cargo();
        cargo.args([
            "build",
            "--release",
            "-Zbuild-std=core",
            "--target=bpfel-unknown-none",
        ]);
        cargo
            .env("RUSTC", &self.rustc)
            .env("RUSTC_BOOTSTRAP", if self.stable { "1" } else { "0" });
        cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
        // A wrapper or flags meant for the host's compiler have no place here.
        for name in [
            "RUSTC_WRAPPER",
            "RUSTC_WORKSPACE_WRAPPER",
            "RUSTFLAGS",
            "CARGO_TARGET_DIR",
        ] {
            cargo.env_remove(name);
        }
        cargo
    }
}

/// The toolchain, installed first if need be.
pub(crate) fn ready() -> Result<Toolchain> {
    let compiler = match Compiler::find() {
        Some(compiler) => compiler,
        None => Compiler::install()?,
    };
    let linker = match find_linker(compiler.llvm) {
        Some(linker) => linker,
        None => build_linker(&compiler)?,
    };
    Ok(Toolchain {
        name: compiler.name,
        rustc: compiler.rustc,
        linker,
        stable: compiler.stable,
    })
}

#[derive(Debug)]
struct Compiler {
    name: String,
    rustc: PathBuf,
    llvm: u32,
    stable: bool,
}

impl Compiler {
    fn find() -> Option<Self> {
        Self::of_rustup().or_else(Self::of_distribution)
    }

    fn of_rustup() -> Option<Self> {
        // Listed first: asking rustup for an absent toolchain may download it.
        let toolchains =
            command::output(Command::new("rustup").args(["toolchain", "list"])).ok()?;
        let nightly = toolchains
            .lines()
            .filter_map(|line| line.split_whitespace().next())
            .find(|name| name.starts_with("nightly"))?;
        let rustc = command::output(Command::new("rustup").args([
            "which",
            "rustc",
            "--toolchain",
            nightly,
        ]))
        .ok()?;
        Self::examine(Path::new(rustc.trim()), "rustup's")
    }

    fn of_distribution() -> Option<Self> {
        Self::examine(Path::new("/usr/bin/rustc"), "the distribution's")
    }

    /// `None` if it is not there, has no sources of `core`, or is too old for
    /// the edition and the target.
    fn examine(rustc: &Path, whose: &str) -> Option<Self> {
        let sysroot = command::output(Command::new(rustc).args(["--print", "sysroot"])).ok()?;
        let sources =
            Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/Cargo.toml");
        let about = command::output(Command::new(rustc).arg("-vV")).ok()?;
        let (release, minor, llvm) = versions(&about)?;
        let new_enough = minor >= 95;
        (sources.exists() && new_enough).then(|| Self {
            name: format!("{whose} rustc {release}"),
            rustc: rustc.to_owned(),
            llvm,
            stable: !release.contains("nightly"),
        })
    }

    fn install() -> Result<Self> {
        let root = nix::unistd::geteuid().is_root();
        if root && command::find("apt-get").is_some() {
            if packages::candidate("rustc-web").is_none() {
                packages::update()?;
            }
            if packages::candidate("rust-web-src").is_some() {
                packages::install(packages::EBPF_COMPILER)?;
            }
        }
        Self::find().ok_or_else(|| {
            Failure::new(
                "no compiler for the kernel programs: they need a Rust nightly with its library sources.\n\
                 With rustup: rustup toolchain install nightly --profile minimal --component rust-src\n\
                 On Debian 12 instead, as root: apt-get install --no-install-recommends rustc-web rust-web-src",
            )
        })
    }
}

/// Of `rustc -vV`: the release, its minor number, and LLVM's major number.
fn versions(about: &str) -> Option<(String, u32, u32)> {
    let field = |name: &str| {
        about
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .map(str::trim)
    };
    let release = field("release:")?;
    let minor = release.split('.').nth(1)?.parse().ok()?;
    let llvm = field("LLVM version:")?.split('.').next()?.parse().ok()?;
    Some((release.to_owned(), minor, llvm))
}

/// One of ours in the cache, else one that the user has, if its LLVM will do.
fn find_linker(llvm: u32) -> Option<PathBuf> {
    let ours = linker_folder().ok()?.join("bin/bpf-linker");
    let theirs = command::find("bpf-linker");
    [Some(ours), theirs]
        .into_iter()
        .flatten()
        .find(|linker| linker.exists() && linker_llvm(linker).is_none_or(|found| found >= llvm))
}

fn linker_folder() -> Result<PathBuf> {
    places::cache(&format!("bpf-linker-{LINKER_VERSION}-llvm{LINKER_LLVM}"))
}

/// LLVM's major number in `libLLVM.so.22.1`; `None` if it is linked in.
fn linker_llvm(linker: &Path) -> Option<u32> {
    let libraries = command::output(Command::new("ldd").arg(linker)).ok()?;
    libraries
        .split_once("libLLVM.so.")?
        .1
        .split(['.', ' '])
        .next()?
        .parse()
        .ok()
}

fn build_linker(compiler: &Compiler) -> Result<PathBuf> {
    if compiler.llvm > LINKER_LLVM {
        return Err(Failure::new(format!(
            "{} brings LLVM {}, and a bpf-linker with at least that is missing: cargo binstall bpf-linker, or see github.com/aya-rs/bpf-linker",
            compiler.name, compiler.llvm
        )));
    }
    packages::install(packages::EBPF_LINKER_22)?;
    let folder = linker_folder()?;
    say::step(
        "Building",
        &format!(
            "bpf-linker {LINKER_VERSION} into {} (about a minute)",
            folder.display()
        ),
    );
    let mut cargo = command::cargo();
    cargo.args([
        "install",
        "bpf-linker",
        "--version",
        LINKER_VERSION,
        "--locked",
        "--quiet",
        "--no-default-features",
    ]);
    cargo
        .arg(format!("--features=llvm-{LINKER_LLVM}"))
        .arg("--root")
        .arg(&folder);
    cargo.env("LLVM_PREFIX", format!("/usr/lib/llvm-{LINKER_LLVM}"));
    // LLVM's own tools must be found before any other version's.
    let path = std::env::var_os("PATH").unwrap_or_default();
    let llvm = PathBuf::from(format!("/usr/lib/llvm-{LINKER_LLVM}/bin"));
    let path = std::env::join_paths(std::iter::once(llvm).chain(std::env::split_paths(&path)))
        .doing("putting LLVM into PATH")?;
    command::run_quietly(cargo.env("PATH", path))?;
    Ok(folder.join("bin/bpf-linker"))
}

#[cfg(test)]
mod tests {
    use super::versions;

    #[test]
    fn reads_what_compilers_say_of_themselves() {
        let about = "rustc 1.97.0-nightly (e50aa6fba 2026-05-19)\nbinary: rustc\nhost: x86_64-unknown-linux-gnu\nrelease: 1.97.0-nightly\nLLVM version: 22.1.4\n";
        assert_eq!(versions(about), Some(("1.97.0-nightly".to_owned(), 97, 22)));
        assert_eq!(versions("release: 1.96.0\n"), None);
        assert_eq!(versions(""), None);
    }
}
