//! `cargo xtask build`: kernel programs, then the daemon that embeds them; and
//! the programs of the test package, for the commands that run them.
//!
//! Always the whole workspace: with one package selected cargo gives shared
//! dependencies other features, and builds them again.

use std::path::PathBuf;
use std::process::Command;

use crate::build_ebpf;
use crate::command;
use crate::failure::{Failure, Result};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    Dev,
    Release,
}

pub(crate) fn run(profile: Profile) -> Result {
    build_ebpf::run()?;
    command::run(
        command::cargo()
            .args(["build", "--workspace", "--bins"])
            .args(profile.flag()),
    )
}

/// The path of a program of mtls-tests, which `run` has built. The others, and
/// the daemon, lie beside it.
pub(crate) fn test_program(name: &str, profile: Profile) -> Result<PathBuf> {
    executable(name, &["build", "--workspace", "--bins"], profile)
}

/// The environment variable by which the programs of mtls-tests find the daemon
/// for their images.
pub(crate) const IMAGE_DAEMON: &str = "MTLS_IMAGE_DAEMON";

/// Builds the daemon once more, without any shared library: an image holds it
/// alone, and its copy for the CNI runs on nodes with another libc, or an older
/// one. The C library's own resolver reads /etc/hosts and asks by DNS.
pub(crate) fn image_daemon(profile: Profile) -> Result<PathBuf> {
    let words = [
        "build",
        "--package=mtls-daemon",
        "--bin=mtls-daemon",
        // Or what runs while it is built, such as macros, would be static, too.
        "--target=host-tuple",
        "--config=build.rustflags=['-Ctarget-feature=+crt-static']",
    ];
    command::run(command::cargo().args(words).args(profile.flag()))?;
    let daemon = executable("mtls-daemon", &words, profile)?;
    // RUSTFLAGS, where they are set, come before what we say.
    let said = command::output(Command::new("ldd").arg(&daemon))?;
    if said.contains("statically linked") {
        return Ok(daemon);
    }
    Err(Failure::new(format!(
        "{} needs shared libraries: unset RUSTFLAGS, or add -Ctarget-feature=+crt-static\n{said}",
        daemon.display()
    )))
}

/// Builds the stories without running them; the path of their binary.
pub(crate) fn stories() -> Result<PathBuf> {
    let words = ["test", "--workspace", "--test", "it", "--no-run"];
    command::run(command::cargo().args(words))?;
    executable("it", &words, Profile::Dev)
}

/// Where cargo left what it has built.
fn executable(name: &str, words: &[&str], profile: Profile) -> Result<PathBuf> {
    let mut cargo = command::cargo();
    cargo
        .args(words)
        .args(profile.flag())
        .args(["--quiet", "--message-format=json"]);
    let messages = command::output(&mut cargo)?;
    named_executable(&messages, name)
        .ok_or_else(|| Failure::new(format!("cargo built {name} and did not say where")))
}

/// The executable of the target of that name, among cargo's messages.
fn named_executable(messages: &str, name: &str) -> Option<PathBuf> {
    let target = format!("\"name\":\"{name}\"");
    let of_target = messages.lines().filter(|line| line.contains(&target));
    let mut executables =
        of_target.filter_map(|line| line.split_once("\"executable\":\"")?.1.split('"').next());
    executables.next().map(PathBuf::from)
}

impl Profile {
    pub(crate) fn flag(self) -> Option<&'static str> {
        (self == Self::Release).then_some("--release")
    }
}

#[cfg(test)]
mod tests {
    use super::named_executable;
    use std::path::Path;

    #[test]
    fn finds_what_cargo_built() {
        let messages = "{\"target\":{\"name\":\"lib\"},\"executable\":null}\n\
                        {\"target\":{\"name\":\"other\"},\"executable\":\"/t/debug/other\"}\n\
                        {\"target\":{\"name\":\"it\"},\"executable\":\"/t/debug/deps/it-1\",\"fresh\":true}\n\
                        {\"reason\":\"build-finished\"}";
        assert_eq!(
            named_executable(messages, "it").as_deref(),
            Some(Path::new("/t/debug/deps/it-1"))
        );
        assert_eq!(named_executable(messages, "absent"), None);
    }
}
