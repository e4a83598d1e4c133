//! News from the kernel: what the hooks report, what they log, and what
//! happens to the cgroup that they are attached to.

use std::io;
use std::net::SocketAddr;
use std::path::Path;

use aya::Ebpf;
use aya::maps::{MapData, RingBuf};
use aya_log::EbpfLogger;
use mtls_common::addr::Endpoint;
use mtls_common::reports::Event as Record;
use mtls_common::syn::{Held, Syn};

use super::handoff::socket_addr;
use super::log::ToTracing;
use super::readable::Readable;
use super::watch::Watch;
use crate::addr::OriginalDst;

/// News from the hooks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A connection of a network namespace that nobody classified was refused,
    /// or one to it is held back; at most one a second for each namespace.
    UnknownNetns {
        cookie: u64,
        /// Of the task that asked for it, or else of the listener.
        cgroup_id: u64,
        /// 0 where a packet came and no task asked.
        pid: u32,
    },
    /// Plain text from outside to a strict workload was refused; at most ten a
    /// second for each workload.
    PlaintextRefused {
        cookie: u64,
        source: SocketAddr,
        port: u16,
    },
    /// The SYN of an application that waits in connect().
    Held {
        cookie: u64,
        dialled: OriginalDst,
        syn: Syn,
    },
    /// The cgroup that the hooks are attached to was removed, or made again:
    /// see `Kernel::attached` and `Kernel::repair`.
    AttachPoint,
}

/// The news of one daemon.
#[derive(Debug)]
pub struct Events {
    ring: Readable<RingBuf<MapData>>,
    held: Readable<RingBuf<MapData>>,
    log: Option<Readable<EbpfLogger<ToTracing>>>,
    watch: Watch,
}

impl Events {
    pub(super) fn new(
        ring: RingBuf<MapData>,
        held: RingBuf<MapData>,
        hooks: Option<Ebpf>,
        attach_point: &Path,
    ) -> io::Result<Self> {
        let log = hooks
            .and_then(|mut hooks| {
                EbpfLogger::init_with_logger(&mut hooks, ToTracing)
                    .inspect_err(|error| tracing::warn!(%error, "the hooks' log cannot be read"))
                    .ok()
            })
            .map(Readable::new)
            .transpose()?;
        Ok(Self {
            ring: Readable::new(ring)?,
            held: Readable::new(held)?,
            log,
            watch: Watch::new(attach_point)?,
        })
    }

    /// The next event. May be dropped and called again: none is lost.
    pub async fn next(&mut self) -> Event {
        loop {
            tokio::select! {
                biased;
                () = self.watch.changed() => return Event::AttachPoint,
                record = self.ring.next(|ring| ring.next().map(|item| parse(&item))) => {
                    // A record that this version does not know is no news.
                    if let Some(event) = record {
                        return event;
                    }
                }
                held = self.held.next(|ring| ring.next().map(|item| parse_held(&item))) => {
                    // Nobody can answer what is no SYN: its sender gives up.
                    if let Some(event) = held {
                        return event;
                    }
                }
                () = flush(self.log.as_mut()) => {}
            }
        }
    }
}

/// Never returns: what there is to log is logged while it waits.
async fn flush(log: Option<&mut Readable<EbpfLogger<ToTracing>>>) {
    if let Some(log) = log {
        log.next(|log| {
            log.flush();
            None::<()>
        })
        .await;
    }
    std::future::pending::<()>().await;
}

fn parse(bytes: &[u8]) -> Option<Event> {
    let record = Record::from_bytes(bytes.get(..Record::SIZE)?.try_into().ok()?);
    match record.kind {
        Record::UNKNOWN_NETNS => Some(Event::UnknownNetns {
            cookie: record.cookie,
            cgroup_id: record.cgroup_id,
            pid: record.pid,
        }),
        Record::PLAINTEXT_REFUSED => Some(Event::PlaintextRefused {
            cookie: record.cookie,
            source: socket_addr(Endpoint {
                ip: record.source,
                port: record.source_port,
            }),
            port: record.port,
        }),
        _ => None,
    }
}

fn parse_held(bytes: &[u8]) -> Option<Event> {
    let held = Held::from_bytes(bytes.get(..Held::SIZE)?.try_into().ok()?);
    Some(Event::Held {
        cookie: held.cookie,
        dialled: OriginalDst(socket_addr(Endpoint {
            ip: held.dialled,
            port: held.dialled_port,
        })),
        syn: Syn::parse(&held)?,
    })
}

/// What the fuzzers feed: a record of the hooks, as if it had been reported.
#[cfg(fuzzing)]
pub fn fuzz_record(bytes: &[u8]) -> Option<Event> {
    if let Some(Event::Held { syn, .. }) = parse_held(bytes) {
        // What answers it, whatever it was.
        let _ = (syn.whole(), syn.refusal());
    }
    parse(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_no_news() {
        assert_eq!(parse(&[]), None);
        assert_eq!(parse(&[0; Record::SIZE]), None);
        assert_eq!(parse(&[0xff; Record::SIZE + 8]), None);
        assert_eq!(parse_held(&[]), None);
        assert_eq!(parse_held(&[0xff; Held::SIZE]), None);
    }
}
