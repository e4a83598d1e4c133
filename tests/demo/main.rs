//! `cargo xtask demo`: two nodes, four pods, real programs, and what can be
//! measured of them while they talk. Every line that says "ok" was measured in
//! this run; the first fact that does not hold ends it with the reason.
#![expect(clippy::print_stdout, reason = "this is a program for people")]
#![expect(clippy::print_stderr, reason = "this is a program for people")]

mod cluster_load;
mod diagnosis;
mod facts;
mod keep;
mod kubernetes;
mod screen;
mod soak;
mod stage;
mod talk;

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use mtls_tests::run::{self, Sweep};
use mtls_tests::{Error, Result, Scene};
use nix::sys::signal::{SigSet, Signal};

use screen::Screen;
use soak::Soak;
use stage::{Sabotage, Stage};

const USAGE: &str = "usage: cargo xtask demo [--keep] [--sabotage wrong-root] | --kubernetes | --stop\n       cargo xtask soak [--minutes N] [--record FILE]\n       cargo xtask cluster-load [--services N]";

const MINUTE: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Options {
    /// Leave everything running at the end.
    keep: bool,
    sabotage: Option<Sabotage>,
    /// Remove what `--keep` left running.
    stop: bool,
    /// A cluster in place of two bare nodes.
    kubernetes: bool,
    /// Instead of showing the facts once.
    soak: Option<Soak>,
    /// A cluster of so many Services, and one daemon.
    services: Option<usize>,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let Some(options) = parse(&words) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let mut screen = Screen::new();
    match perform(&options, &mut screen) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            screen.failed(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

fn parse(words: &[String]) -> Option<Options> {
    let mut options = Options::default();
    let mut words = words.iter().map(String::as_str);
    while let Some(word) = words.next() {
        match word {
            "--keep" => options.keep = true,
            "--kubernetes" => options.kubernetes = true,
            "--stop" => options.stop = true,
            "--soak" => {
                options.soak = Some(Soak {
                    span: MINUTE * 30,
                    record: None,
                });
            }
            "--cluster-load" => options.services = Some(cluster_load::SERVICES),
            "--services" => *options.services.as_mut()? = words.next()?.parse().ok()?,
            "--minutes" => {
                options.soak.as_mut()?.span = MINUTE * words.next()?.parse().ok()?;
            }
            "--record" => options.soak.as_mut()?.record = Some(words.next()?.to_owned()),
            "--sabotage" => options.sabotage = Some(Sabotage::parse(words.next()?)?),
            _ => return None,
        }
    }
    let alone = !(options.keep || options.sabotage.is_some() || options.soak.is_some());
    let in_a_cluster = options.kubernetes || options.services.is_some();
    (alone || !in_a_cluster).then_some(options)
}

fn perform(options: &Options, screen: &mut Screen) -> Result {
    if options.stop {
        run::sweep(Sweep::Kept)?;
        screen.say("removed what earlier demos left running");
        return Ok(());
    }
    clean_up_on_interrupt()?;
    let scene = Scene::new("demo")?;
    if let Some(services) = options.services {
        return cluster_load::run(&scene, services, screen);
    }
    if options.kubernetes {
        return kubernetes::show(&scene, screen);
    }
    let change = match options.soak {
        Some(_) => soak::plan,
        None => |plan| plan,
    };
    let mut stage = Stage::build(&scene, options.sabotage, change, screen)?;
    let shown = match &options.soak {
        Some(soak) => soak::run(&mut stage, soak, screen),
        None => facts::show_all(&mut stage, screen),
    };
    if let Err(error) = shown {
        let why = diagnosis::of(&mut stage);
        return Err(Error::Unexpected(format!("{error}\n{why}")));
    }
    if options.keep {
        keep::running(stage, screen)
    } else {
        Ok(())
    }
}

/// Ctrl-C and SIGTERM: takes everything down before the prompt comes back.
fn clean_up_on_interrupt() -> Result {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    // Before other threads are started: they inherit it, and one alone waits.
    signals
        .thread_block()
        .map_err(|e| Error::Unexpected(format!("blocking signals: {e}")))?;
    let current = run::current()?;
    std::thread::spawn(move || {
        let Ok(signal) = signals.wait() else { return };
        // Held to the end: what fails because the nodes go is not worth a word.
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "\ninterrupted: removing the nodes");
        let cleaned = current.clean_up();
        if let Err(error) = cleaned {
            eprintln!("{error}");
        }
        std::process::exit(128 + signal as i32);
    });
    Ok(())
}
