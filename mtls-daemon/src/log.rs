//! The log: lines on standard error, for people or for machines, with times
//! in RFC 3339, UTC.
//!
//! A thread of its own writes them. A data thread that logs never waits for
//! whoever reads the log: when the queue is full, the line is dropped and counted.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use jiff::Timestamp;
use thiserror::Error;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, Registry, reload};

use crate::access_log;
use crate::config::{Log, LogFormat};

/// Lines that wait for the writer. At 300 bytes a line about 2 MiB.
const QUEUE: usize = 8192;

static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Why there is no log, or no change of it.
#[derive(Debug, Error)]
pub enum LogError {
    #[error("the log is set up twice")]
    Twice(#[from] TryInitError),
    #[error("the log's writer cannot be started")]
    Writer(#[source] io::Error),
    #[error("the log's filter {0:?} cannot be read")]
    Filter(String),
    #[error("the log's filter cannot be changed")]
    Reload(#[from] reload::Error),
}

/// Writes what is still queued when it goes.
#[must_use = "lines that are queued are lost without it"]
pub struct Flush(Option<(SyncSender<Message>, JoinHandle<()>)>);

enum Message {
    Line(Vec<u8>),
    /// All lines before this one are written.
    End,
}

/// Sets the process's log up.
pub fn start(log: &Log) -> Result<Flush, LogError> {
    let (queue, lines) = sync_channel(QUEUE);
    let writer = std::thread::Builder::new()
        .name("log".to_owned())
        .spawn(move || write_lines(&lines, io::stderr()))
        .map_err(LogError::Writer)?;
    let (filter, handle) = reload::Layer::new(filter(log)?);
    let writing = Queue(queue.clone());
    let lines = tracing_subscriber::fmt::layer()
        .with_timer(Utc)
        .with_writer(move || writing.clone());
    let registry = tracing_subscriber::registry().with(filter);
    match log.format {
        LogFormat::Human => registry
            .with(lines.with_ansi(io::stderr().is_terminal()))
            .try_init()?,
        LogFormat::Json => registry
            .with(lines.json().flatten_event(true).with_ansi(false))
            .try_init()?,
    }
    // A second call has failed above.
    let _ = FILTER.set(handle);
    // A panic is a line of the log like any other, also where lines are JSON.
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or("unnamed");
        let place = panic.location().map(ToString::to_string);
        let what = panic.payload_as_str().unwrap_or("no message");
        tracing::error!(thread, place, "panic: {what}");
    }));
    Ok(Flush(Some((queue, writer))))
}

/// Applies the keys that change live: the filter and the access log.
pub fn reload(log: &Log) -> Result<(), LogError> {
    let filter = filter(log)?;
    match FILTER.get() {
        Some(handle) => Ok(handle.reload(filter)?),
        // Without a log, as in tests, there is nothing to change.
        None => Ok(()),
    }
}

/// Lines that were dropped because nobody read the log fast enough.
pub fn dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

fn filter(log: &Log) -> Result<EnvFilter, LogError> {
    let access = if log.access { "info" } else { "off" };
    let all = format!("{},{}={access}", log.filter, access_log::TARGET);
    EnvFilter::builder()
        .parse(all)
        .map_err(|_unreadable| LogError::Filter(log.filter.clone()))
}

fn write_lines(lines: &Receiver<Message>, mut to: impl Write) {
    // Nobody hears of an error of the log itself; the next line tries again.
    while let Ok(Message::Line(line)) = lines.recv() {
        let _ = to.write_all(&line);
    }
}

impl Drop for Flush {
    fn drop(&mut self) {
        if let Some((queue, writer)) = self.0.take() {
            // Waits for room: at the end there is time.
            let _ = queue.send(Message::End);
            let _ = writer.join();
        }
    }
}

/// Takes one line a write, as the formatting layer gives it.
#[derive(Clone)]
struct Queue(SyncSender<Message>);

impl Write for Queue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match self.0.try_send(Message::Line(line.to_vec())) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                DROPPED.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Utc;

impl FormatTime for Utc {
    fn format_time(&self, to: &mut Writer<'_>) -> fmt::Result {
        write!(to, "{:.6}", Timestamp::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(filter: &str, access: bool) -> Log {
        Log {
            format: LogFormat::Human,
            filter: filter.to_owned(),
            access,
        }
    }

    #[test]
    fn the_access_log_has_its_own_switch() {
        let on = filter(&log("warn", true)).unwrap().to_string();
        assert!(on.contains("access=info"), "{on}");
        let off = filter(&log("trace", false)).unwrap().to_string();
        assert!(off.contains("access=off"), "{off}");
    }

    #[test]
    fn a_full_queue_drops_and_counts_instead_of_waiting() {
        let (sender, receiver) = sync_channel(1);
        let before = dropped();
        let mut queue = Queue(sender);
        queue.write_all(b"one\n").unwrap();
        queue.write_all(b"two\n").unwrap();
        assert_eq!(dropped(), before + 1);
        drop(queue);
        let mut written = Vec::new();
        write_lines(&receiver, &mut written);
        assert_eq!(written, b"one\n");
    }

    #[test]
    fn times_are_rfc_3339_in_utc() {
        let mut text = String::new();
        Utc.format_time(&mut Writer::new(&mut text)).unwrap();
        assert_eq!(text.len(), "2026-11-22T02:32:00.123456Z".len(), "{text}");
        assert!(text.ends_with('Z'));
    }
}
