//! `cargo xtask kernels`: the stories that show a kernel to be fit, on kernels
//! other than this machine's: Debian's, booted in an emulator with nothing in
//! them but busybox, `ip`, the daemon and the stories' own binaries.

mod emulator;
mod image;
mod initramfs;

use std::path::PathBuf;
use std::time::Duration;

use crate::build::{self, Profile};
use crate::failure::{Failure, Result};
use crate::say::{self, Stopwatch};
use crate::setup::{self, Need};

/// The oldest kernel that is supported.
const FLOOR: &str = "6.1";
/// The hooks alone, then flows of each family through real daemons. Left out
/// are the two stories that open 20,000 connections and more, which an emulator
/// cannot in time.
const STORIES: &[&str] = &[
    "kernel::",
    "names::",
    "listeners::",
    "reset::",
    "--skip",
    "kernel_is_adopted_without_a_gap",
    "--skip",
    "kernel_keeps_room_for_others",
];
/// Boot and stories; an emulated machine is some thirty times slower.
const DEADLINE: Duration = Duration::from_secs(15 * 60);

/// `words`: versions such as 6.1, then, after `--`, a filter for other stories.
pub(crate) fn run(words: &[&str]) -> Result {
    let (versions, filter) = match words.iter().position(|word| *word == "--") {
        Some(at) => (&words[..at], &words[at + 1..]),
        None => (words, STORIES),
    };
    let versions = if versions.is_empty() {
        &[FLOOR]
    } else {
        versions
    };
    setup::run(&[Need::Build, Need::Emulator])?;
    build::run(Profile::Dev)?;
    let stories = Stories::build()?;
    let mut failed = Vec::new();
    for version in versions {
        let clock = Stopwatch::start();
        let kernel = image::fetch(version)?;
        let initramfs = initramfs::make(&kernel, &stories, filter)?;
        say::step(
            "Booting",
            &format!("Linux {} (log: {})", kernel.release, kernel.log().display()),
        );
        match emulator::run(&kernel, &initramfs, DEADLINE) {
            Ok(()) => say::step(
                "PASS",
                &format!(
                    "Linux {} ({:.0} s)",
                    kernel.release,
                    clock.elapsed().as_secs_f32()
                ),
            ),
            Err(failure) => {
                say::error(&format!("FAIL Linux {}: {failure}", kernel.release));
                failed.push(kernel.release);
            }
        }
    }
    match failed.as_slice() {
        [] => Ok(()),
        _ => Err(Failure::new(format!("not fit: {}", failed.join(", ")))),
    }
}

/// The programs that run in the guest.
struct Stories {
    programs: Vec<(&'static str, PathBuf)>,
}

impl Stories {
    fn build() -> Result<Self> {
        let app = build::test_program("mtls-test-app", Profile::Dev)?;
        let daemon = app.with_file_name("mtls-daemon");
        Ok(Self {
            programs: vec![
                ("it", build::stories()?),
                ("mtls-daemon", daemon),
                ("mtls-test-app", app),
            ],
        })
    }
}
