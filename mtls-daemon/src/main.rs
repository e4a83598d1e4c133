//! The command line.

use std::process::ExitCode;

use mtls_daemon::{app, cli};

fn main() -> ExitCode {
    cli::main(app::run, app::arm)
}
