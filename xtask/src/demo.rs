//! `cargo xtask demo`: readies the machine and the programs, then becomes the
//! demo, which is a program of the test package.

use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::build::{self, Profile};
use crate::failure::{Failure, Result};
use crate::setup::{self, Need};

pub(crate) fn run(words: &[&str]) -> Result {
    let cluster = words.contains(&"--kubernetes").then_some(Need::Cluster);
    start(Profile::Dev, cluster, words)
}

/// As it would be run: in the release profile, whose memory counts.
pub(crate) fn soak(words: &[&str]) -> Result {
    let words: Vec<&str> = std::iter::once("--soak")
        .chain(words.iter().copied())
        .collect();
    start(Profile::Release, None, &words)
}

/// The same.
pub(crate) fn cluster_load(words: &[&str]) -> Result {
    let words: Vec<&str> = std::iter::once("--cluster-load")
        .chain(words.iter().copied())
        .collect();
    start(Profile::Release, Some(Need::Cluster), &words)
}

fn start(profile: Profile, more: Option<Need>, words: &[&str]) -> Result {
    let needs = [Need::Build, Need::Kernel, Need::Apps];
    setup::run(&needs.into_iter().chain(more).collect::<Vec<_>>())?;
    build::run(profile)?;
    let demo = build::test_program("mtls-demo", profile)?;
    let mut command = Command::new(&demo);
    if words.contains(&"--kubernetes") {
        command.env(build::IMAGE_DAEMON, build::image_daemon(profile)?);
    }
    // It stands in our place, so that Ctrl-C and the exit code are its own.
    let error = command.args(words).exec();
    Err(Failure::new(format!(
        "starting {}: {error}",
        demo.display()
    )))
}
