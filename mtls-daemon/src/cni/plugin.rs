//! The plug-in itself: what a container runtime runs for each pod, as root, in
//! the host's file systems, for a moment.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::spec::{self, Attachment, Call, Command, Entry, Failure};
use super::wire::{self, Answer, Arrival, Question};
use super::{ANSWER, ENROL, REACH};

/// How often a daemon that does not answer is looked for.
const AGAIN: Duration = Duration::from_millis(100);
/// No network configuration is longer.
const LONGEST: u64 = 4 * 1024 * 1024;

/// What the runtime gets.
pub struct Said {
    /// For standard output; nothing else goes there.
    pub text: String,
    pub failed: bool,
}

/// Whether a runtime has started this process: by its file alone.
pub fn is_called(mut arguments: impl Iterator<Item = OsString>) -> bool {
    arguments.nth(1).is_none() && std::env::var_os("CNI_COMMAND").is_some()
}

/// The whole call.
pub fn run(input: impl Read) -> Said {
    let mut text = String::new();
    let read = input.take(LONGEST).read_to_string(&mut text);
    let env = |name: &str| std::env::var(name).ok();
    let outcome = match read {
        Ok(_) => spec::read(env, &text).and_then(|call| answer(&call, Patience::LONG)),
        Err(error) => Err(Failure::reading(error)),
    };
    let failed = outcome.is_err();
    let said = outcome.unwrap_or_else(|failure| Some(failure.shown(&spec::version(&text))));
    Said {
        text: said.map(|said| said.to_string()).unwrap_or_default(),
        failed,
    }
}

/// For how long the daemon is looked for, and waited for.
#[derive(Clone, Copy)]
pub(super) struct Patience {
    pub(super) reach: Duration,
    pub(super) answer: Duration,
}

impl Patience {
    const LONG: Self = Self {
        reach: REACH,
        answer: ENROL.saturating_add(ANSWER),
    };
    /// What has no answer fails at once, or does without.
    const SHORT: Self = Self {
        reach: Duration::ZERO,
        answer: ANSWER,
    };
}

/// What is printed, if anything is.
pub(super) fn answer(call: &Call, patience: Patience) -> Result<Option<Value>, Failure> {
    let Call { command, entry } = call;
    match command {
        Command::Version(asked) => Ok(Some(spec::versions(asked))),
        Command::Add(attachment, previous) => {
            if let Some(sandbox) = held_back(attachment, entry) {
                let netns = File::open(&attachment.netns).map_err(|error| {
                    let msg = format!("CNI_NETNS: {}", attachment.netns.display());
                    Failure::new(Failure::TRY_AGAIN, msg, error.to_string())
                })?;
                let question = Question::Add(sandbox);
                ask(entry, &question, Some(&netns), patience).map_err(unreached)??;
            }
            Ok(Some(previous.clone()))
        }
        Command::Check(attachment) => match held_back(attachment, entry) {
            Some(sandbox) => {
                let question = Question::Check(sandbox);
                ask(entry, &question, None, Patience::SHORT).map_err(unreached)??;
                Ok(None)
            }
            None => Ok(None),
        },
        // Whatever the daemon says, or does not, what has ended has ended.
        Command::Del { container } => {
            let container = container.clone();
            let _ = ask(entry, &Question::Del { container }, None, Patience::SHORT);
            Ok(None)
        }
        Command::Gc { valid } => {
            let valid = valid.clone();
            let _ = ask(entry, &Question::Gc { valid }, None, Patience::SHORT);
            Ok(None)
        }
        Command::Status => {
            let asked = ask(entry, &Question::Status, None, Patience::SHORT);
            asked.map_err(|error| Failure {
                code: Failure::UNAVAILABLE,
                ..unreached(error)
            })??;
            Ok(None)
        }
    }
}

/// A pod that waits for the daemon.
fn held_back(attachment: &Attachment, entry: &Entry) -> Option<Arrival> {
    let pod = attachment.pod.clone()?;
    (!entry.exclude.contains(&pod.namespace)).then(|| Arrival {
        container: attachment.container.clone(),
        pod,
        addresses: attachment.addresses.clone(),
    })
}

/// Nobody at the socket.
struct Unreached {
    socket: String,
    error: io::Error,
}

fn unreached(it: Unreached) -> Failure {
    let details = format!(
        "{}: {}: pods of this node wait until it runs; where it was taken away for good, take its entry out of the network configuration",
        it.socket, it.error
    );
    let msg = "mtls-daemon does not answer on this node";
    Failure::new(Failure::TRY_AGAIN, msg, details)
}

fn ask(
    entry: &Entry,
    question: &Question,
    netns: Option<&File>,
    patience: Patience,
) -> Result<Answer, Unreached> {
    let failed = |error| Unreached {
        socket: entry.socket.display().to_string(),
        error,
    };
    let daemon = reach(&entry.socket, patience.reach).map_err(failed)?;
    let set = daemon.set_read_timeout(Some(patience.answer));
    set.and_then(|()| daemon.set_write_timeout(Some(ANSWER)))
        .map_err(failed)?;
    let netns = netns.map(AsFd::as_fd);
    wire::ask(&daemon, question, netns).map_err(failed)
}

#[expect(
    clippy::disallowed_methods,
    reason = "a process of one thread that only waits"
)]
fn reach(socket: &Path, within: Duration) -> io::Result<UnixStream> {
    let deadline = Instant::now() + within;
    loop {
        match UnixStream::connect(socket) {
            Err(_) if Instant::now() + AGAIN <= deadline => thread::sleep(AGAIN),
            outcome => return outcome,
        }
    }
}
