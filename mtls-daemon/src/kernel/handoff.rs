//! What passes between the hooks and the workers about single connections.
//! Each call is one system call on a shared map.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mtls_common::addr::Endpoint;
use mtls_common::maps::{Answer, AnswerKey, Dialled, FlowKey, Place, capacity, name};
use nix::time::{ClockId, clock_gettime};

use super::error::{KernelError, While};
use super::programs;
use super::sys::{self, Counters, Map};
use crate::addr::{ClientAddr, OriginalDst};

/// What the hooks hand over and are told about single connections; for every thread.
#[derive(Clone, Debug)]
pub struct Handoff {
    original_dst: Map<FlowKey, Dialled>,
    /// How many are in there, of all and of each network namespace: what the
    /// hooks let in depends on it.
    pending: Arc<Counters>,
    client_names: Map<FlowKey, Place>,
    named: Arc<AtomicUsize>,
    answers: Map<AnswerKey, Answer>,
}

/// Place of all in `PENDING`.
const ALL: usize = 0;

/// What a server application sees as its client, until this is dropped.
#[derive(Debug)]
#[must_use = "the name is gone when this is dropped"]
pub struct ClientName {
    names: Map<FlowKey, Place>,
    named: Arc<AtomicUsize>,
    flow: FlowKey,
}

impl Handoff {
    pub(super) fn open(maps: &Path) -> Result<Self, KernelError> {
        let pending = sys::open_pin(&maps.join(name::PENDING))
            .and_then(|map| Counters::map(map, capacity::PENDING))
            .of_map(name::PENDING, "mapped")?;
        Ok(Self {
            original_dst: programs::map(maps, name::ORIGINAL_DST)?,
            pending: Arc::new(pending),
            client_names: programs::map(maps, name::CLIENT_NAMES)?,
            named: Arc::default(),
            answers: programs::map(maps, name::ANSWERS)?,
        })
    }

    /// The destination that the application dialled, taken out of the map;
    /// `source` is the accepted socket's peer and `captured_at` its own
    /// address. `None`: nobody was captured there, or the application gave up
    /// before the daemon accepted.
    pub fn take_original_dst(
        &self,
        cookie: u64,
        source: SocketAddr,
        captured_at: SocketAddr,
    ) -> io::Result<Option<OriginalDst>> {
        let flow = FlowKey::new(cookie, endpoint(source), endpoint(captured_at));
        let taken = self.take(&flow)?;
        Ok(taken.map(|dialled| OriginalDst(socket_addr(dialled.endpoint()))))
    }

    fn take(&self, flow: &FlowKey) -> io::Result<Option<Dialled>> {
        let taken = self.original_dst.take(flow)?;
        if let Some(dialled) = &taken {
            for place in [ALL, dialled.account as usize] {
                self.pending.add(place, -1);
            }
        }
        Ok(taken)
    }

    /// Tells the server application at `app` that whoever dials it from
    /// `dialled_from` is `client`. To be called before connect(). EEXIST if
    /// that connection is there already, under its own client's name.
    pub fn name_client(
        &self,
        cookie: u64,
        app: SocketAddr,
        dialled_from: SocketAddr,
        client: ClientAddr,
    ) -> io::Result<ClientName> {
        let flow = FlowKey::new(cookie, endpoint(dialled_from), endpoint(app));
        self.client_names
            .put_new(&flow, &Place::new(endpoint(client.0)))?;
        self.named.fetch_add(1, Ordering::Relaxed);
        Ok(ClientName {
            names: self.client_names.clone(),
            named: Arc::clone(&self.named),
            flow,
        })
    }

    /// Whether the application that dialled has not given up: the kernel's
    /// note of it is there still, and stays.
    pub fn is_waiting(
        &self,
        cookie: u64,
        source: SocketAddr,
        captured_at: SocketAddr,
    ) -> io::Result<bool> {
        let flow = FlowKey::new(cookie, endpoint(source), endpoint(captured_at));
        Ok(self.original_dst.get(&flow)?.is_some())
    }

    /// Answers connect() to that destination with ECONNREFUSED for a while.
    pub fn refuse(&self, cookie: u64, dst: OriginalDst, for_: Duration) -> io::Result<()> {
        self.answer(cookie, dst, Answer::REFUSED, for_)
    }

    /// Lets connect() to that destination succeed at once for a while.
    pub fn accept(&self, cookie: u64, dst: OriginalDst, for_: Duration) -> io::Result<()> {
        self.answer(cookie, dst, Answer::ACCEPTED, for_)
    }

    /// The next connect() to that destination waits for its answer.
    pub fn forget_answer(&self, cookie: u64, dst: OriginalDst) -> io::Result<()> {
        let key = AnswerKey::new(cookie, endpoint(dst.0));
        self.answers.remove(&key).map(drop)
    }

    fn answer(&self, cookie: u64, dst: OriginalDst, kind: u32, for_: Duration) -> io::Result<()> {
        let until = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?) + for_;
        let until = u64::try_from(until.as_nanos()).unwrap_or(u64::MAX);
        let key = AnswerKey::new(cookie, endpoint(dst.0));
        self.answers.put(&key, &Answer::new(kind, until))
    }

    /// Nobody asks any more for what was captured in a network namespace.
    pub(super) fn forget(&self, cookie: u64) -> io::Result<()> {
        for flow in self.original_dst.keys()? {
            if flow.cookie == cookie {
                self.take(&flow)?;
            }
        }
        Ok(())
    }

    /// Nobody asks any more for what an earlier daemon was handed.
    pub(super) fn clear(&self) -> io::Result<()> {
        self.original_dst.clear()?;
        // Also mends what a daemon that was killed between two steps counted
        // wrong. What a hook counts at this very moment is off by one at most.
        self.pending.reset();
        self.client_names.clear()
    }

    /// Entries of `ORIGINAL_DST`.
    pub(super) fn waiting(&self) -> usize {
        usize::try_from(self.pending.get(ALL)).unwrap_or(0)
    }

    /// Entries of `CLIENT_NAMES`.
    pub(super) fn named(&self) -> usize {
        self.named.load(Ordering::Relaxed)
    }
}

impl ClientName {
    /// Whether whoever accepts the connection hears this name. A listener that
    /// was made outside of the hooks' cgroup hears that its client is on
    /// loopback. To be asked once it has answered.
    pub fn is_heard(&self) -> io::Result<bool> {
        let name = self.names.get(&self.flow)?;
        Ok(name.is_some_and(|name| name.seen != 0))
    }
}

impl Drop for ClientName {
    fn drop(&mut self) {
        match self.names.remove(&self.flow) {
            Ok(_) => {
                self.named.fetch_sub(1, Ordering::Relaxed);
            }
            Err(error) => tracing::warn!(%error, "a client's name stays in the kernel's map"),
        }
    }
}

fn endpoint(at: SocketAddr) -> Endpoint {
    Endpoint {
        ip: at.ip().into(),
        port: at.port(),
    }
}

pub(super) fn socket_addr(at: Endpoint) -> SocketAddr {
    SocketAddr::new(IpAddr::from(at.ip), at.port)
}
