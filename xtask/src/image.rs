//! `cargo xtask image`: the daemon's container image as an archive that
//! `docker load`, `podman load`, `skopeo` and `ctr image import` read, made
//! without any of them.

use std::process::Command;

use crate::build::{self, Profile};
use crate::command;
use crate::failure::{Failure, Result, While};
use crate::places;
use crate::setup::{self, Need};

pub(crate) fn run(words: &[&str]) -> Result {
    let (mut profile, mut name) = (Profile::Release, "");
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match *word {
            "--dev" => profile = Profile::Dev,
            "--name" => {
                name = words
                    .next()
                    .filter(|name| name.contains(':'))
                    .ok_or_else(|| {
                        Failure::usage(
                            "--name wants a name with a tag, such as example.org/mtls-daemon:1.0",
                        )
                    })?;
            }
            unknown => {
                return Err(Failure::usage(format!(
                    "`cargo xtask image` knows --name NAME:TAG and --dev, not {unknown:?}"
                )));
            }
        }
    }
    setup::run(&[Need::Build])?;
    build::run(profile)?;
    let daemon = build::image_daemon(profile)?;
    let writer = build::test_program("mtls-image", profile)?;
    let folder = places::repository().join("target/image");
    std::fs::create_dir_all(&folder).doing(format_args!("making {}", folder.display()))?;
    command::run(
        Command::new(writer)
            .arg(folder.join("mtls-daemon.tar"))
            .arg(name)
            .env(build::IMAGE_DAEMON, daemon),
    )
}
