//! A refusal: why, in a word for everybody, and in a sentence for the log.

use std::io;

use crate::reason::Reason;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub reason: Reason,
    /// What was being done, with what, and what the system said.
    pub detail: String,
}

impl Refused {
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self {
            reason,
            detail: detail.into(),
        }
    }

    /// A system call on a socket failed while `doing` something.
    pub fn socket(error: &io::Error, doing: &str) -> Self {
        let reason = match error.raw_os_error() {
            Some(libc::EMFILE | libc::ENFILE) => Reason::NoDescriptors,
            _ => Reason::Io,
        };
        Self::new(reason, format!("{doing}: {error}"))
    }
}

impl From<Reason> for Refused {
    fn from(reason: Reason) -> Self {
        Self {
            reason,
            detail: String::new(),
        }
    }
}
