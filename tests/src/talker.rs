//! Programs that one can talk with: they take lines and say lines.

use std::io::{self, BufRead, BufReader, Write};
use std::process::{ChildStdin, ChildStdout};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;

use crate::deadline::Deadline;
use crate::error::{Doing, Error, Result};
use crate::process::{Process, tail};

/// A running program that takes lines and says lines.
#[derive(Debug)]
pub struct Talker {
    process: Process,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    _reader: Option<JoinHandle<()>>,
}

impl Talker {
    pub(crate) fn new(
        process: Process,
        stdin: Option<ChildStdin>,
        stdout: Option<ChildStdout>,
    ) -> Self {
        // The pipe is always emptied, or a program with much to say would stop.
        let (sender, lines) = channel();
        let reader = stdout.map(|stdout| {
            std::thread::spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(io::Result::ok) {
                    if sender.send(line).is_err() {
                        break;
                    }
                }
            })
        });
        Self {
            process,
            stdin,
            lines,
            _reader: reader,
        }
    }

    /// Its next line; `None` when it has closed its standard output.
    pub fn line(&mut self, deadline: Deadline) -> Result<Option<String>> {
        match self.lines.recv_timeout(deadline.left()) {
            Ok(line) => Ok(Some(line)),
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => Err(Error::TimedOut {
                waiting_for: format!("a line from {}", self.process.command()),
                seen: tail(&self.process.log(), 20),
            }),
        }
    }

    pub fn say(&mut self, line: &str) -> Result {
        let Some(stdin) = &mut self.stdin else {
            return Err(Error::Unexpected("its standard input is closed".into()));
        };
        writeln!(stdin, "{line}").doing(|| format!("speaking to {}", self.process.command()))
    }

    /// Tells it to come to an end.
    pub fn close(&mut self) {
        self.stdin = None;
    }

    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}
