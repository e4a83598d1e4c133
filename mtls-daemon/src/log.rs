//! The log: lines on standard error, for people or for machines, with times
//! in RFC 3339, UTC.
//!
//! A thread of its own writes them. A data thread that logs never waits for
//! whoever reads the log: when too much waits, the line is dropped and counted.
//! What comes together is written together: at a line for each connection,
//! waking the writer for every one cost more than the connection's bytes.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use jiff::Timestamp;
use thiserror::Error;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, Registry, reload};

use crate::access_log;
use crate::config::{Log, LogFormat};
use crate::rights;

/// Bytes that may wait for the writer: some 7,000 lines.
const MOST: usize = 2 << 20;
/// What the writer keeps of its buffers in quiet times.
const KEEP: usize = 16 << 10;
/// After a write, the writer lets lines gather for so long.
const GATHER: Duration = Duration::from_millis(5);

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
pub struct Flush(Option<(Queue, JoinHandle<()>)>);

/// Sets the process's log up.
pub fn start(log: &Log) -> Result<Flush, LogError> {
    let queue = Queue::default();
    let lines = queue.clone();
    let (started, waiting) = mpsc::channel();
    let writer = std::thread::Builder::new()
        .name("log".to_owned())
        .spawn(move || {
            let kept = rights::keep(&[]);
            let may_write = kept.is_ok();
            let _ = started.send(kept);
            if may_write {
                lines.write_to(io::stderr());
            }
        })
        .map_err(LogError::Writer)?;
    let kept = waiting.recv().map_err(io::Error::other);
    kept.and_then(|kept| kept).map_err(LogError::Writer)?;
    let (filter, handle) = reload::Layer::new(filter(log)?);
    let writing = queue.clone();
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

/// Lines that were dropped because nobody read the log fast enough, or that
/// could not be written.
pub fn dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

fn filter(log: &Log) -> Result<EnvFilter, LogError> {
    let access = if log.access { "info" } else { "off" };
    // The client tells of every failed attempt; we tell once, and what to do.
    let all = format!(
        "kube_client=off,{},{}={access}",
        log.filter,
        access_log::TARGET
    );
    EnvFilter::builder()
        .parse(all)
        .map_err(|_unreadable| LogError::Filter(log.filter.clone()))
}

impl Drop for Flush {
    fn drop(&mut self) {
        if let Some((queue, writer)) = self.0.take() {
            queue.end();
            let _ = writer.join();
        }
    }
}

/// Lines on their way to the writer. Takes one line a write, as the formatting
/// layer gives it.
#[derive(Clone, Default)]
struct Queue(Arc<(Mutex<Waiting>, Condvar)>);

#[derive(Default)]
struct Waiting {
    lines: Vec<u8>,
    /// The writer sleeps until it is told.
    asleep: bool,
    ended: bool,
}

impl Queue {
    /// Writes until the end is told, and all that was said before it.
    fn write_to(&self, mut to: impl Write) {
        let (waiting, told) = &*self.0;
        let mut lines = Vec::new();
        let mut lock = waiting.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            while lock.lines.is_empty() && !lock.ended {
                lock.asleep = true;
                lock = told.wait(lock).unwrap_or_else(PoisonError::into_inner);
            }
            lock.asleep = false;
            if lock.lines.is_empty() {
                return;
            }
            mem::swap(&mut lines, &mut lock.lines);
            drop(lock);
            // Such as a full disk. The next lines try again.
            if to.write_all(&lines).is_err() {
                let lost = lines.iter().filter(|byte| **byte == b'\n').count();
                DROPPED.fetch_add(lost as u64, Ordering::Relaxed);
            }
            lines.clear();
            lines.shrink_to(KEEP);
            lock = waiting.lock().unwrap_or_else(PoisonError::into_inner);
            let gathered = told.wait_timeout_while(lock, GATHER, |waiting| {
                !waiting.ended && waiting.lines.len() < MOST / 2
            });
            (lock, _) = gathered.unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn end(&self) {
        let (waiting, told) = &*self.0;
        let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.ended = true;
        told.notify_one();
    }
}

impl Write for Queue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let (waiting, told) = &*self.0;
        let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.lines.len() + line.len() > MOST {
            DROPPED.fetch_add(1, Ordering::Relaxed);
            return Ok(line.len());
        }
        let few = waiting.lines.len() < MOST / 2;
        waiting.lines.extend_from_slice(line);
        let many = waiting.lines.len() >= MOST / 2;
        if mem::take(&mut waiting.asleep) || few && many {
            told.notify_one();
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
    fn too_much_at_once_is_dropped_and_counted_and_nobody_waits() {
        let before = dropped();
        let mut queue = Queue::default();
        queue.write_all(&vec![b'x'; MOST - 4]).unwrap();
        queue.write_all(b"one\n").unwrap();
        queue.write_all(b"two\n").unwrap();
        assert_eq!(dropped(), before + 1);
        queue.end();
        let mut written = Vec::new();
        queue.write_to(&mut written);
        assert_eq!(written.len(), MOST);
        assert!(written.ends_with(b"xone\n"));
    }

    #[test]
    fn a_sleeping_writer_is_woken_and_what_gathers_is_written_in_order() {
        let mut queue = Queue::default();
        let lines = queue.clone();
        let writer = std::thread::spawn(move || {
            let mut written = Vec::new();
            lines.write_to(&mut written);
            written
        });
        let line = |n: u32| format!("line {n}\n");
        for n in 0..10_000 {
            queue.write_all(line(n).as_bytes()).unwrap();
        }
        queue.end();
        let written = writer.join().unwrap();
        let expected: String = (0..10_000).map(line).collect();
        assert_eq!(String::from_utf8(written).unwrap(), expected);
    }

    #[test]
    fn times_are_rfc_3339_in_utc() {
        let mut text = String::new();
        Utc.format_time(&mut Writer::new(&mut text)).unwrap();
        assert_eq!(text.len(), "2026-11-22T02:32:00.123456Z".len(), "{text}");
        assert!(text.ends_with('Z'));
    }
}
