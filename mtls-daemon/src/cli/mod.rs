//! The command line. What is asked goes to standard output, what went wrong
//! to standard error, and the exit status says which it was.

mod arguments;
mod certificates;
mod check;
mod config;
mod connections;
mod enrol;
mod gate;
mod humane;
mod policy;
mod status;
mod strict;
mod table;
mod uninstall;
mod workloads;

use std::error::Error;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;

use crate::admin::client::ClientError;
use crate::cni::install::Place;
use crate::cni::plugin;
use crate::config::Config;
use crate::kernel::{Armed, KernelError};
use crate::reason::{Reason, Use};
use crate::{kernel, log, netns};

use arguments::{
    Arguments, Command, ConfigCommand, Detach, Explain, Output, PolicyCommand, Socket,
};

/// How a command ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exit {
    Done,
    /// It did not work, or what was asked about is not well.
    Failed,
    /// No daemon answers.
    Unreachable,
    /// It may still work, but not in the time that was given.
    TimedOut,
}

/// Runs the command; `run` is the daemon itself, given its configuration and
/// the file that it came from, and `arm` what it does before it knows anybody.
pub fn main<E: Error>(
    run: impl FnOnce(Config, PathBuf) -> Result<(), E>,
    arm: impl FnOnce(&Config) -> Result<Armed, KernelError>,
) -> ExitCode {
    if plugin::is_called(std::env::args_os()) {
        return ExitCode::from(u8::from(cni() != Exit::Done));
    }
    let arguments = Arguments::parse();
    ExitCode::from(match command(arguments.command, run, arm) {
        Exit::Done => 0,
        Exit::Failed => 1,
        // 2 is a wrong command line.
        Exit::Unreachable => 3,
        Exit::TimedOut => 4,
    })
}

fn command<E: Error>(
    command: Command,
    run: impl FnOnce(Config, PathBuf) -> Result<(), E>,
    arm: impl FnOnce(&Config) -> Result<Armed, KernelError>,
) -> Exit {
    match command {
        Command::Run { config } => daemon(config, run),
        Command::CheckConfig { file } => config::check(&file),
        Command::Check(asked) => check::command(&asked),
        Command::Config(ConfigCommand::Show { config, .. }) => config::show(&config),
        Command::Config(ConfigCommand::Example) => say(&crate::config::example()),
        Command::Status(asked) => status::command(&asked),
        Command::Workloads(asked) => workloads::command(&asked),
        Command::Certificates(asked) => certificates::command(&asked),
        Command::Connections(asked) => connections::command(&asked),
        Command::ReadinessForStrict(asked) => strict::command(&asked),
        Command::Policy(PolicyCommand::Test(asked)) => policy::test(&asked),
        Command::Enrol(asked) => enrol::command(asked),
        Command::Detach(asked) => detach(&asked),
        Command::Uninstall(asked) => uninstall::command(&asked),
        Command::Gate(asked) => gate::command(asked, arm),
        Command::MountBpffs { folder } => mount(&folder),
        Command::Cni => cni(),
        Command::Explain(asked) => explain(&asked),
        Command::Version => say(&format!("mtls-daemon {}\n", env!("CARGO_PKG_VERSION"))),
    }
}

fn mount(folder: &Path) -> Exit {
    let shown = folder.display();
    match kernel::mount_bpffs(folder) {
        Ok(true) => say(&format!("mounted a bpffs at {shown}\n")),
        Ok(false) => say(&format!("nothing to do: {shown} is on a bpffs\n")),
        Err(error) => {
            complain(&with_sources(&error));
            fail("no bpffs was mounted")
        }
    }
}

fn daemon<E: Error>(path: PathBuf, run: impl FnOnce(Config, PathBuf) -> Result<(), E>) -> Exit {
    // A reload must find it, wherever the daemon stands then.
    let path = std::path::absolute(&path).unwrap_or(path);
    let loaded = match crate::config::read(&path) {
        Ok(loaded) => loaded,
        Err(mistakes) => {
            complain(&mistakes.to_string());
            return fail("the daemon does not start with this configuration");
        }
    };
    // Before the log has its thread.
    if let Err(error) = netns::start_helper() {
        return fail(&format!(
            "the helper that enters network namespaces: {error}"
        ));
    }
    let flush = match log::start(&loaded.config.log) {
        Ok(flush) => flush,
        Err(error) => return fail(&error.to_string()),
    };
    for warning in loaded.warnings.lines() {
        tracing::warn!("{warning}");
    }
    let outcome = run(loaded.config, path);
    if let Err(error) = &outcome {
        tracing::error!("{}", with_sources(error));
    }
    drop(flush);
    match outcome {
        Ok(()) => Exit::Done,
        Err(_) => Exit::Failed,
    }
}

/// The error and what it stems from, each said once.
fn with_sources(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        source = error.source();
    }
    text
}

fn cni() -> Exit {
    let said = plugin::run(io::stdin());
    match (say(&said.text), said.failed) {
        (Exit::Done, true) => Exit::Failed,
        (exit, _) => exit,
    }
}

fn detach(asked: &Detach) -> Exit {
    let config = crate::config::read(&asked.config).map(|loaded| loaded.config);
    let pins = match (&asked.pins, &config) {
        (Some(pins), _) => pins.clone(),
        (None, Ok(config)) => config.kernel.pins.clone(),
        (None, Err(mistakes)) => {
            complain(&mistakes.to_string());
            return fail("say where the pins are with --pins");
        }
    };
    // Nothing is to wait for what is not enforced any more.
    if let Ok(config) = &config {
        match Place::new(&config.cni).remove() {
            Ok(changed) => {
                for path in changed {
                    complain(&format!("{}: network plug-in taken out", path.display()));
                }
            }
            Err(error) => return fail(&error.to_string()),
        }
    }
    match kernel::detach(&pins) {
        Ok(detached) => say(&gone(&detached, &pins)),
        Err(error) => fail(&with_sources(&error)),
    }
}

fn gone(detached: &kernel::Detached, pins: &Path) -> String {
    let pins = pins.display();
    let (links, maps) = (detached.links, detached.maps);
    if links == 0 && maps == 0 {
        return format!("nothing is pinned in {pins}: nothing was attached\n");
    }
    let mut text = format!(
        "{links} links and {maps} maps are gone from {pins}. Nothing is intercepted or refused any more:\n\
         connections of the workloads travel in clear from now on.\n"
    );
    if detached.daemon_running {
        text.push_str(
            "The daemon still runs. It attaches again when it is restarted, and not before.\n",
        );
    }
    text
}

fn explain(asked: &Explain) -> Exit {
    let Some(word) = &asked.word else {
        let rows = Reason::ALL
            .iter()
            .map(|reason| vec![reason.word().to_owned(), reason.meaning().to_owned()]);
        return say(&table::table(&["REASON", "WHAT HAPPENED"], rows));
    };
    match word.parse::<Reason>() {
        Ok(reason) => {
            let uses: Vec<&str> = reason.uses().iter().copied().map(Use::word).collect();
            say(&format!(
                "{reason} ({})\n  what happened: {}\n  what to do:    {}\n",
                uses.join(", "),
                reason.meaning(),
                reason.remedy()
            ))
        }
        Err(error) => fail(&format!("{error}; `mtls-daemon explain` lists them all")),
    }
}

/// Asks the daemon something, and shows the answer.
fn ask<T>(
    output: Output,
    question: impl Future<Output = Result<crate::admin::client::Answer<T>, ClientError>>,
    show: impl FnOnce(&T) -> String,
    judge: impl FnOnce(&T) -> Exit,
) -> Exit {
    match wait_for(question) {
        Ok(Ok(answer)) => {
            let said = match output {
                Output::Human => say(&show(&answer.reply)),
                Output::Json => say(&pretty(&answer.json)),
            };
            match said {
                Exit::Done => judge(&answer.reply),
                broken => broken,
            }
        }
        Ok(Err(error)) => refused(&error),
        Err(error) => fail(&format!("starting a runtime: {error}")),
    }
}

fn refused(error: &ClientError) -> Exit {
    complain(&error.to_string());
    match error {
        ClientError::Unreachable(..) => {
            complain(
                "is it running? see `systemctl status mtls-daemon`, or name its socket with --socket",
            );
            Exit::Unreachable
        }
        ClientError::NotRoot(_) | ClientError::Silent(..) | ClientError::Broken(_) => {
            Exit::Unreachable
        }
        ClientError::Refused { reason, .. } => {
            if let Some(reason) = reason {
                complain(reason.remedy());
            }
            Exit::Failed
        }
        ClientError::Garbled(_) => Exit::Failed,
    }
}

fn wait_for<T>(future: impl Future<Output = T>) -> io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    Ok(runtime.block_on(future))
}

/// Where the daemon listens: as said, or as its configuration says, or by default.
fn socket(asked: &Socket) -> PathBuf {
    if let Some(socket) = &asked.socket {
        return socket.clone();
    }
    // A configuration with mistakes must not keep anybody from asking.
    match crate::config::read(&asked.config) {
        Ok(loaded) => loaded.config.admin.socket,
        Err(_) => Path::new(crate::config::DEFAULT_SOCKET).to_owned(),
    }
}

/// The JSON of an answer, one field a line.
fn pretty(json: &[u8]) -> String {
    let parsed = serde_json::from_slice::<serde_json::Value>(json);
    match parsed.and_then(|value| serde_json::to_string_pretty(&value)) {
        Ok(pretty) => format!("{pretty}\n"),
        // It was read once already; as it came is better than nothing.
        Err(_) => String::from_utf8_lossy(json).into_owned(),
    }
}

fn say(text: &str) -> Exit {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Exit::Done,
        // `| head` has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Done,
        Err(_) => Exit::Failed,
    }
}

fn complain(text: &str) {
    // Nobody is left to hear that standard error is gone.
    let _ = writeln!(io::stderr(), "{text}");
}

fn fail(text: &str) -> Exit {
    complain(text);
    Exit::Failed
}
