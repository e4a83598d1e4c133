//! `cargo xtask bench`: everything in the release profile, then the benchmark,
//! which is a program of the test package.

use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::build::{self, Profile};
use crate::failure::{Failure, Result};
use crate::setup::{self, Need, envoy};

pub(crate) fn run(words: &[&str]) -> Result {
    setup::run(&[
        Need::Build,
        Need::Kernel,
        Need::Apps,
        Need::Envoy,
        Need::Peers,
    ])?;
    build::run(Profile::Release)?;
    let bench = build::test_program("mtls-bench", Profile::Release)?;
    let error = Command::new(&bench)
        .args(words)
        .env("MTLS_TEST_ENVOY", envoy::ready()?)
        .exec();
    Err(Failure::new(format!(
        "starting {}: {error}",
        bench.display()
    )))
}
