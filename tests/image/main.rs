//! What `cargo xtask image` runs: writes the daemon's container image.
#![expect(clippy::print_stdout, reason = "this is a program for people")]
#![expect(clippy::print_stderr, reason = "this is a program for people")]

use std::path::Path;
use std::process::ExitCode;

use mtls_tests::cluster::images;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [path, name] = words.as_slice() else {
        eprintln!("usage: mtls-image FILE NAME; NAME may be empty");
        return ExitCode::from(2);
    };
    let name = match name.as_str() {
        "" => images::daemon_name(),
        name => name.to_owned(),
    };
    let written = images::daemon().and_then(|image| image.write(&name, Path::new(path)));
    match written {
        Ok(()) => {
            println!("{path}: {name}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
