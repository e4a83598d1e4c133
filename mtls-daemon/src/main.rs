//! The command line.

use std::path::PathBuf;
use std::process::ExitCode;

use mtls_daemon::cli;
use mtls_daemon::config::Config;

fn main() -> ExitCode {
    cli::main(run)
}

fn run(_: Config, _: PathBuf) -> Result<(), &'static str> {
    Err("this build has no data path")
}
