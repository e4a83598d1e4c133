//! What passes between the hooks and the workers about single connections.
//! Each call is one system call on a shared map.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use mtls_common::addr::Endpoint;
use mtls_common::maps::{FlowKey, Place, RefusedKey};
use nix::time::{ClockId, clock_gettime};

use super::sys::Map;
use crate::addr::{ClientAddr, OriginalDst};

/// What the hooks hand over and are told about single connections; for every thread.
#[derive(Clone, Debug)]
pub struct Handoff {
    pub(super) original_dst: Map<FlowKey, Place>,
    pub(super) client_names: Map<FlowKey, Place>,
    pub(super) refused: Map<RefusedKey, u64>,
}

/// What a server application sees as its client, until this is dropped.
#[derive(Debug)]
#[must_use = "the name is gone when this is dropped"]
pub struct ClientName {
    names: Map<FlowKey, Place>,
    flow: FlowKey,
}

impl Handoff {
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
        Ok(self
            .original_dst
            .take(&flow)?
            .map(|place| OriginalDst(socket_addr(place.endpoint()))))
    }

    /// Tells the server application at `app` that whoever dials it from
    /// `dialled_from` is `client`. To be called before connect().
    pub fn name_client(
        &self,
        cookie: u64,
        app: SocketAddr,
        dialled_from: SocketAddr,
        client: ClientAddr,
    ) -> io::Result<ClientName> {
        let flow = FlowKey::new(cookie, endpoint(dialled_from), endpoint(app));
        self.client_names
            .put(&flow, &Place::new(endpoint(client.0)))?;
        Ok(ClientName {
            names: self.client_names.clone(),
            flow,
        })
    }

    /// Answers connect() to that destination with ECONNREFUSED for a while.
    pub fn refuse(&self, cookie: u64, dst: OriginalDst, for_: Duration) -> io::Result<()> {
        let until = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?) + for_;
        let until = u64::try_from(until.as_nanos()).unwrap_or(u64::MAX);
        self.refused
            .put(&RefusedKey::new(cookie, endpoint(dst.0)), &until)
    }

    /// Nobody asks any more for what was captured in a network namespace.
    pub(super) fn forget(&self, cookie: u64) -> io::Result<()> {
        for flow in self.original_dst.keys()? {
            if flow.cookie == cookie {
                self.original_dst.remove(&flow)?;
            }
        }
        Ok(())
    }
}

impl Drop for ClientName {
    fn drop(&mut self) {
        if let Err(error) = self.names.remove(&self.flow) {
            tracing::warn!(%error, "a client's name stays in the kernel's map");
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
