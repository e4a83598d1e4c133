//! `cargo xtask bench`: what the way through two daemons costs, each figure as
//! a ratio to plain TCP between the same nodes in the same run. README.md
//! beside this file has the method and the figures.
#![expect(clippy::print_stdout, reason = "this is a program for people")]
#![expect(clippy::print_stderr, reason = "this is a program for people")]

mod course;
mod load;
mod rounds;

use std::process::ExitCode;

use mtls_tests::{Result, Scene};

use course::Course;
use load::Kind;
use rounds::Row;

const USAGE: &str = "usage: cargo xtask bench [--rounds N] [--seconds N]";

/// What is measured: the kind of work and the connections at once.
const WORK: [(Kind, usize); 4] = [
    (Kind::Bulk, 1),
    (Kind::RequestResponse, 1),
    (Kind::RequestResponse, 64),
    (Kind::ConnectRequestClose, 64),
];

struct Options {
    rounds: usize,
    /// Of each measurement.
    seconds: u64,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    // In the pods this program is the server and the client, too.
    let result = match words.as_slice() {
        ["--serve", port] => load::serve(port),
        ["--load", kind, to, connections, seconds] => load::run(kind, to, connections, seconds),
        _ => match parse(&words) {
            Some(options) => bench(&options),
            None => {
                eprintln!("{USAGE}");
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

fn parse(words: &[&str]) -> Option<Options> {
    let mut options = Options {
        rounds: 6,
        seconds: 3,
    };
    for pair in words.chunks(2) {
        match pair {
            ["--rounds", number] => options.rounds = number.parse().ok().filter(|n| *n > 0)?,
            ["--seconds", number] => options.seconds = number.parse().ok().filter(|n| *n > 0)?,
            _ => return None,
        }
    }
    Some(options)
}

fn bench(options: &Options) -> Result {
    let scene = Scene::new("bench")?;
    let mut course = Course::build(&scene)?;
    println!(
        "{} rounds of {} s, direct and through the daemons in turn",
        options.rounds, options.seconds
    );
    println!("{}", Row::heading());
    for (kind, connections) in WORK {
        let mut row = Row::new(kind, connections);
        // Once without counting: tunnels are made, caches are warm.
        course.direct(kind, connections, 1)?;
        course.mesh(kind, connections, 1)?;
        for round in 0..options.rounds {
            // Whatever else the machine does meets both; neither is always first.
            let (direct, mesh) = if round % 2 == 0 {
                let direct = course.direct(kind, connections, options.seconds)?;
                (direct, course.mesh(kind, connections, options.seconds)?)
            } else {
                let mesh = course.mesh(kind, connections, options.seconds)?;
                (course.direct(kind, connections, options.seconds)?, mesh)
            };
            row.add(direct, mesh);
        }
        println!("{row}");
    }
    Ok(())
}
