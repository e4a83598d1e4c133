//! `cargo xtask`: everything that this repository can be asked to do.
//!
//! The demo, the tests and the benchmark are programs of the `mtls-tests`
//! crate; this one sees to it that the machine, the kernel programs and the
//! daemon are ready for them.
#![expect(clippy::print_stdout, reason = "this is a command for people")]
#![expect(clippy::print_stderr, reason = "this is a command for people")]

mod bench;
mod build;
mod build_ebpf;
mod command;
mod demo;
mod failure;
mod image;
mod kernels;
mod places;
mod say;
mod setup;
mod test;
mod tidy;

use std::process::ExitCode;

use build::Profile;
use failure::{Failure, Result};
use setup::Need;

const HELP: &str = "\
usage: cargo xtask COMMAND

  setup [NEED..]     install what is missing: build, kernel, apps, envoy, peers, authorities,
                     cluster, emulator (default: build apps)
  build-ebpf         build the kernel programs from source
  build [--release]  the kernel programs, then the daemon that embeds them
  image [--name NAME:TAG] [--dev]
                     the daemon's container image, as the archive target/image/mtls-daemon.tar
  demo [--keep] [--sabotage wrong-root] | --stop
                     two virtual nodes, real programs, and what is measured of them (root)
  demo --kubernetes  the same in a cluster, with the daemon installed by its chart (root)
  test [--record FILE] [FILTER..]
                     unit and property tests, then the stories with real programs (root); all
                     that docs/security.md names have to be among those that passed
  bench [--quick] [--peer NAME..] [--only FAMILY..] [--json FILE] | --help
                     what the way through two daemons costs, beside plain TCP and others (root)
  kernels [VERSION..] [-- STORY..]
                     the kernel's stories on Debian kernels in an emulator (default: 6.1)
  soak [--minutes N] [--record FILE]
                     the demo's applications at once, over and over, with crashes: 30 minutes
                     in which nothing may grow and every byte is compared (root)
  cluster-load [--services N]
                     what a daemon asks of an API server, and what it holds, where there are
                     10,000 Services with 5 endpoints each (root)
  tidy               check arrows, links, file lengths, licences, dependencies

Everything that is downloaded or built apart from cargo's own target folder
goes to $XDG_CACHE_HOME/mtls-daemon (~/.cache/mtls-daemon).";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match obey(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            say::error(&failure.to_string());
            failure.exit_code()
        }
    }
}

fn obey(words: &[&str]) -> Result {
    match words {
        [] | ["help" | "-h" | "--help", ..] => {
            println!("{HELP}");
            Ok(())
        }
        ["setup"] => setup::run(&[Need::Build, Need::Apps]),
        ["setup", needs @ ..] => {
            let needs = needs
                .iter()
                .map(|word| Need::parse(word))
                .collect::<Result<Vec<_>>>()?;
            setup::run(&needs)
        }
        ["build-ebpf"] => build_ebpf::run(),
        ["build"] => build::run(Profile::Dev),
        ["build", "--release"] => build::run(Profile::Release),
        ["image", words @ ..] => image::run(words),
        ["demo", words @ ..] => demo::run(words),
        ["test", words @ ..] => test::run(words),
        ["bench", words @ ..] => bench::run(words),
        ["kernels", words @ ..] => kernels::run(words),
        ["soak", words @ ..] => demo::soak(words),
        ["cluster-load", words @ ..] => demo::cluster_load(words),
        ["tidy"] => tidy::run(),
        [command @ ("build-ebpf" | "build" | "tidy"), ..] => Err(Failure::usage(format!(
            "`cargo xtask {command}` does not take that; see `cargo xtask help`"
        ))),
        [unknown, ..] => Err(Failure::usage(format!(
            "there is no `cargo xtask {unknown}`; `cargo xtask help` lists what there is"
        ))),
    }
}
