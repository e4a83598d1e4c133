//! What can go wrong in the harness, in words that name the remedy.

use std::fmt;
use std::io;

/// A step of the harness failed, or a story's expectation did not hold.
pub enum Error {
    /// The operating system refused something.
    System { doing: String, source: io::Error },
    /// A program that a story needs is not installed.
    Missing {
        program: String,
        package: &'static str,
    },
    /// A command ended with a failure.
    Command {
        command: String,
        status: String,
        output: String,
    },
    /// Something that was waited for did not come.
    TimedOut { waiting_for: String, seen: String },
    /// What a program said cannot be understood.
    Unreadable { what: String, why: String },
    /// An expectation of the story does not hold.
    Unexpected(String),
}

pub type Result<T = ()> = std::result::Result<T, Error>;

/// Says what was being done when the operating system refused.
pub trait Doing<T> {
    fn doing<D: fmt::Display>(self, what: impl FnOnce() -> D) -> Result<T>;
}

impl<T, E: Into<io::Error>> Doing<T> for std::result::Result<T, E> {
    fn doing<D: fmt::Display>(self, what: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|source| Error::System {
            doing: what().to_string(),
            source: source.into(),
        })
    }
}

/// Fails the story with `message` unless `holds`.
pub fn ensure<D: fmt::Display>(holds: bool, message: impl FnOnce() -> D) -> Result {
    if holds {
        Ok(())
    } else {
        Err(Error::Unexpected(message().to_string()))
    }
}

/// Fails the story unless both are equal, and shows both.
pub fn ensure_eq<T: PartialEq + fmt::Debug>(found: T, expected: T, what: &str) -> Result {
    ensure(found == expected, || {
        format!("{what}: expected {expected:?}, found {found:?}")
    })
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System { doing, source } => write!(f, "{doing}: {source}"),
            Self::Missing { program, package } => write!(
                f,
                "{program} is not installed; install it with: apt-get install {package}"
            ),
            Self::Command {
                command,
                status,
                output,
            } => write!(f, "{command}: {status}\n{output}"),
            Self::TimedOut { waiting_for, seen } => {
                write!(f, "timed out waiting for {waiting_for}")?;
                if seen.is_empty() {
                    Ok(())
                } else {
                    write!(f, "\n{seen}")
                }
            }
            Self::Unreadable { what, why } => write!(f, "cannot read {what}: {why}"),
            Self::Unexpected(message) => f.write_str(message),
        }
    }
}

// The test runner prints a failed story's error with `Debug`.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::System { source, .. } => Some(source),
            Self::Missing { .. }
            | Self::Command { .. }
            | Self::TimedOut { .. }
            | Self::Unreadable { .. }
            | Self::Unexpected(_) => None,
        }
    }
}
