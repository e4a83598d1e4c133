//! `cargo xtask bench`: what the way through two daemons costs, beside plain
//! TCP and beside others, in one run. README.md beside this file has the
//! method and the figures.
#![expect(clippy::print_stdout, reason = "this is a program for people")]
#![expect(clippy::print_stderr, reason = "this is a program for people")]

// What is run in the pods.
mod chain;
mod handshake;
mod load;

// Who is measured, and where.
mod account;
mod candidates;
mod course;
mod relay;

// What is measured, and what came of it.
mod bench;
mod families;
mod figures;
mod machine;
mod options;
mod report;

use std::process::ExitCode;

use mtls_tests::{Doing, Result};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use bench::Bench;
use figures::Figures;
use machine::Machine;
use options::{Options, USAGE};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    // In the pods this program is the server, the client and the chain, too.
    let result = match words.as_slice() {
        ["--serve", port] => load::serve(port),
        ["--load", to, kind, connections, millis] => load::run(to, kind, connections, millis),
        ["--hold", to, connections] => load::hold(to, connections),
        ["--in-turn", to, connections] => load::in_turn(to, connections),
        ["--first-and-next", to] => load::first_and_next(to),
        ["--serve-handshakes", port, certificate, key, bundle] => {
            handshake::serve(port, certificate, key, bundle)
        }
        ["--handshake", to, certificate, key, bundle] => {
            handshake::run(to, certificate, key, bundle)
        }
        ["--strangers", to, a_second, certificate, key, bundle] => {
            handshake::strangers(to, a_second, certificate, key, bundle)
        }
        ["--chain", listen, to] => chain::run(listen, to),
        ["--publish", file] => report::publish(file),
        _ => match Options::parse(&words) {
            Some(options) => measure(options),
            None => {
                eprintln!("{USAGE}");
                for family in families::ALL {
                    eprintln!("  {:<12} {}", family.name, family.about);
                }
                return ExitCode::from(2);
            }
        },
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(options: Options) -> Result {
    raise_descriptor_limit()?;
    let machine = Machine::here();
    println!("{}", machine.describe());
    let names: Vec<_> = options.candidates.iter().map(|c| c.name()).collect();
    println!(
        "{} rounds of {} ms, in turn: {}",
        options.rounds,
        options.span.as_millis(),
        names.join(", ")
    );
    let mut bench = Bench {
        options,
        figures: Figures::new(machine),
    };
    let ran = bench.run();
    // What was measured before something failed is worth keeping.
    if let Some(file) = bench.options.json.clone() {
        bench.figures.write(&file)?;
        println!("\nfigures: {}", file.display());
    }
    ran
}

/// Ten thousand connections are held; what is started inherits the limit.
fn raise_descriptor_limit() -> Result {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).doing(|| "reading RLIMIT_NOFILE")?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).doing(|| "raising RLIMIT_NOFILE")
}
