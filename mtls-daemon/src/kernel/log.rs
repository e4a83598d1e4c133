//! What the hooks log, in the daemon's log. Never a connection: only what an
//! operator has to know, and seldom.

use log::{Level, Log, Metadata, Record};

/// The target in filters of the log.
const TARGET: &str = "mtls_daemon::kernel::hooks";

#[derive(Debug)]
pub(super) struct ToTracing;

impl Log for ToTracing {
    fn enabled(&self, _metadata: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let message = record.args();
        match record.level() {
            Level::Error => tracing::error!(target: TARGET, "{message}"),
            Level::Warn => tracing::warn!(target: TARGET, "{message}"),
            Level::Info => tracing::info!(target: TARGET, "{message}"),
            Level::Debug | Level::Trace => tracing::debug!(target: TARGET, "{message}"),
        }
    }

    fn flush(&self) {}
}
