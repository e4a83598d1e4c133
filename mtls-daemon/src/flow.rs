//! One connection as operators see it: counted and listed while it lives, and
//! one line in the access log at its end.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use slab::Slab;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::access_log::{self, AccessRecord, TunnelUse};
use crate::addr::{ClientAddr, OriginalDst, TunnelAddr};
use crate::direct::{Direct, Moved};
use crate::facts::{Facts, Newest};
use crate::metrics::{Direction, OpenConnection, ThreadMetrics, Towards};
use crate::netns::Cookie;
use crate::policy::{self, Connection, Rules};
use crate::reason::Reason;
use crate::refused::Refused;
use crate::spiffe::SpiffeId;
use crate::trace::ConnectionId;
use crate::tunnel::{self, Carried, CarryEnd, CarryHandle, Cut};
use crate::workload::Workload;

/// How often the bytes of open connections are added to the metrics.
const COUNT_EVERY: Duration = Duration::from_secs(2);

/// What is known about one connection; more and more while it is established.
#[derive(Clone)]
pub struct Flow {
    pub id: ConnectionId,
    pub direction: Direction,
    /// The workload of this node.
    pub workload: Arc<Workload>,
    /// Who is at the other end of the tunnel.
    pub peer: Option<SpiffeId>,
    pub client: Option<ClientAddr>,
    pub original_dst: OriginalDst,
    /// Address of the other end of the tunnel; without a tunnel, the server's.
    pub tunnel: Option<TunnelAddr>,
    pub tunnel_use: Option<TunnelUse>,
    /// The rule that let it in, or did not; of inbound ones.
    pub rule: Option<Arc<str>>,
    pub began: Instant,
}

impl Flow {
    pub fn source(&self) -> Option<&SpiffeId> {
        match self.direction {
            Direction::Outbound => Some(&self.workload.id),
            Direction::Inbound => self.peer.as_ref(),
        }
    }

    pub fn destination(&self) -> Option<&SpiffeId> {
        match self.direction {
            Direction::Outbound => self.peer.as_ref(),
            Direction::Inbound => Some(&self.workload.id),
        }
    }

    /// As policies judge it; `None` of an outbound one, which its peer judges.
    fn connection(&self) -> Option<Connection<'_>> {
        let client = self
            .client
            .filter(|_| self.direction == Direction::Inbound)?;
        Some(policy::connection(
            self.workload.target(),
            self.peer.as_ref(),
            client,
            self.original_dst.0.port(),
        ))
    }

    /// Whether it may go on by `rules`.
    pub fn is_allowed_by(&self, rules: &Rules) -> bool {
        let allowed = |connection| rules.inbound(&connection).is_allowed();
        self.connection().is_none_or(allowed)
    }
}

/// A connection whose bytes are being carried, until its end.
pub enum Carry {
    Tunnel(tunnel::Carry),
    /// Boxed: the others are many.
    Direct(Box<Direct>),
}

/// Reads how much of one was carried so far, and ends it.
#[derive(Clone)]
enum Handle {
    Tunnel(CarryHandle),
    Direct(Rc<Moved>),
}

/// The connections of one worker.
pub struct Flows {
    metrics: ThreadMetrics,
    facts: Newest,
    live: RefCell<Slab<Live>>,
    /// Told whenever the last connection has ended.
    emptied: Notify,
}

/// A connection that is open.
struct Live {
    flow: Rc<Flow>,
    handle: Handle,
    /// What the metrics know of its bytes, into the tunnel and out of it.
    counted: (u64, u64),
}

/// An established connection, as another thread may know it.
#[derive(Clone)]
pub struct Snapshot {
    pub flow: Flow,
    pub bytes: Bytes,
}

/// Bytes of a connection, by who receives them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bytes {
    pub to_server: u64,
    pub to_client: u64,
}

impl Flows {
    pub fn new(metrics: ThreadMetrics, facts: Newest) -> Self {
        Self {
            metrics,
            facts,
            live: RefCell::default(),
            emptied: Notify::new(),
        }
    }

    /// Bytes flow from now on. Returns at the connection's end, when it has
    /// been counted and logged.
    pub fn follow(self: &Rc<Self>, flow: Flow, carry: Carry) -> impl Future<Output = ()> + use<> {
        let open = self
            .metrics
            .connection_established(flow.direction, flow.began.elapsed());
        let flow = Rc::new(flow);
        let key = self.live.borrow_mut().insert(Live {
            flow: Rc::clone(&flow),
            handle: carry.handle(),
            counted: (0, 0),
        });
        flow.workload.connections.fetch_add(1, Ordering::Relaxed);
        let live = Listed {
            flows: Rc::clone(self),
            key,
        };
        // Only what is needed at the end: this is what an idle connection costs.
        async move {
            let carried = carry.await;
            live.flows.ended(&flow, open, &carried, live.key);
            drop(live);
        }
    }

    /// The connection never came to be.
    pub fn refused(&self, flow: &Flow, refused: &Refused) {
        self.metrics
            .connection_refused(flow.direction, refused.reason);
        self.log(
            flow,
            Bytes::default(),
            refused.reason,
            Some(&refused.detail),
        );
    }

    /// Returns when no connection is open.
    pub async fn none(&self) {
        while !self.live.borrow().is_empty() {
            self.emptied.notified().await;
        }
    }

    pub fn snapshot(&self) -> Vec<Snapshot> {
        let live = self.live.borrow();
        let shown = live.iter().map(|(_, Live { flow, handle, .. })| Snapshot {
            flow: Flow::clone(flow),
            bytes: Bytes::of(flow.direction, handle.bytes().unwrap_or_default()),
        });
        shown.collect()
    }

    /// Cuts what the policies do not allow any more, whenever they change. For
    /// ever.
    pub async fn hold_to_the_rules(self: Rc<Self>) {
        let mut facts = self.facts.changes();
        loop {
            let rules = Arc::clone(&facts.borrow_and_update().rules);
            self.cut_what_is_denied(&rules);
            let other = |facts: &Arc<Facts>| !Arc::ptr_eq(&facts.rules, &rules);
            if facts.wait_for(other).await.is_err() {
                return;
            }
        }
    }

    /// Collected first: cutting one runs code that comes back here.
    fn cut_what_is_denied(&self, rules: &Rules) {
        let live = self.live.borrow();
        let denied: Vec<_> = live
            .iter()
            .filter(|(_, live)| !live.flow.is_allowed_by(rules))
            .map(|(_, live)| (Rc::clone(&live.flow), live.handle.clone()))
            .collect();
        drop(live);
        for (flow, handle) in denied {
            tracing::info!(
                id = %flow.id,
                workload = %flow.workload.name,
                reason = %Reason::NotAuthorised,
                "a connection is cut: policies do not allow it any more"
            );
            handle.cut(Cut(Reason::NotAuthorised));
        }
    }

    /// Tells the metrics of the bytes of open connections, now and then: a
    /// download of an hour must show before its end. For ever; 10,000 idle
    /// connections take well below a millisecond each time.
    pub async fn count_bytes(self: Rc<Self>) {
        loop {
            tokio::time::sleep(COUNT_EVERY).await;
            for (_, live) in self.live.borrow_mut().iter_mut() {
                if let Some(bytes) = live.handle.bytes() {
                    self.count(live.flow.direction, &mut live.counted, bytes);
                }
            }
        }
    }

    fn count(&self, direction: Direction, counted: &mut (u64, u64), now: (u64, u64)) {
        let to_peer = now.0.saturating_sub(counted.0);
        let from_peer = now.1.saturating_sub(counted.1);
        if to_peer > 0 {
            self.metrics.bytes(direction, Towards::Peer, to_peer);
        }
        if from_peer > 0 {
            self.metrics.bytes(direction, Towards::App, from_peer);
        }
        *counted = now;
    }

    fn ended(&self, flow: &Flow, open: OpenConnection, carried: &Carried, key: usize) {
        if let Some(live) = self.live.borrow_mut().get_mut(key) {
            let all = (carried.to_peer, carried.from_peer);
            self.count(flow.direction, &mut live.counted, all);
        }
        let reason = carried.end.reason();
        open.end(reason);
        let detail = detail(&carried.end);
        let bytes = Bytes::of(flow.direction, (carried.to_peer, carried.from_peer));
        self.log(flow, bytes, reason, detail.as_deref());
    }

    fn log(&self, flow: &Flow, bytes: Bytes, reason: Reason, detail: Option<&str>) {
        if !self.facts.get().access_log {
            return;
        }
        access_log::log(&AccessRecord {
            id: flow.id,
            direction: flow.direction,
            workload: Some(&flow.workload.name),
            source: flow.source(),
            destination: flow.destination(),
            client: flow.client,
            original_dst: Some(flow.original_dst),
            peer: flow.tunnel,
            tunnel: flow.tunnel_use,
            rule: flow.rule.as_deref(),
            to_server: bytes.to_server,
            to_client: bytes.to_client,
            duration: flow.began.elapsed(),
            reason,
            detail: detail.filter(|detail| !detail.is_empty()),
        });
    }
}

impl From<tunnel::Carry> for Carry {
    fn from(carry: tunnel::Carry) -> Self {
        Self::Tunnel(carry)
    }
}

impl Carry {
    fn handle(&self) -> Handle {
        match self {
            Self::Tunnel(carry) => Handle::Tunnel(carry.handle()),
            Self::Direct(direct) => Handle::Direct(direct.moved()),
        }
    }
}

impl Future for Carry {
    type Output = Carried;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Carried> {
        match &mut *self {
            Self::Tunnel(carry) => Pin::new(carry).poll(cx),
            Self::Direct(direct) => Pin::new(direct.as_mut()).poll(cx),
        }
    }
}

impl Handle {
    fn cut(&self, why: Cut) {
        match self {
            Self::Tunnel(handle) => handle.cut(why),
            Self::Direct(moved) => moved.cut(why),
        }
    }

    /// Bytes to the peer and from it; `None` when the flow has ended.
    fn bytes(&self) -> Option<(u64, u64)> {
        match self {
            Self::Tunnel(handle) => handle.bytes(),
            Self::Direct(moved) => Some(moved.bytes()),
        }
    }
}

/// What the reason's word does not say.
fn detail(end: &CarryEnd) -> Option<String> {
    match end {
        CarryEnd::TunnelLost(end) => Some(end.to_string()),
        CarryEnd::Local(error) => Some(error.to_string()),
        CarryEnd::Done | CarryEnd::ResetByApp | CarryEnd::ResetByPeer(_) | CarryEnd::Cut(_) => None,
    }
}

/// Takes the connection off the list, however it ends.
struct Listed {
    flows: Rc<Flows>,
    key: usize,
}

impl Drop for Listed {
    fn drop(&mut self) {
        let mut live = self.flows.live.borrow_mut();
        let ended = live.remove(self.key);
        ended
            .flow
            .workload
            .connections
            .fetch_sub(1, Ordering::Relaxed);
        if live.is_empty() {
            self.flows.emptied.notify_waiters();
        }
    }
}

impl Bytes {
    /// From what went into the tunnel and what came out of it.
    fn of(direction: Direction, (to_peer, from_peer): (u64, u64)) -> Self {
        match direction {
            Direction::Outbound => Self {
                to_server: to_peer,
                to_client: from_peer,
            },
            Direction::Inbound => Self {
                to_server: from_peer,
                to_client: to_peer,
            },
        }
    }
}

impl Snapshot {
    pub fn age(&self) -> Duration {
        self.flow.began.elapsed()
    }

    pub fn instance(&self) -> Cookie {
        self.flow.workload.netns.cookie()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 10,000 idle connections a node: what each of them holds here, in a
    /// task with a head of its own, and on the list.
    #[test]
    fn following_is_small() {
        fn size<A, B, C, F>(_: impl Fn(A, B, C) -> F) -> usize {
            size_of::<F>()
        }
        let task = size(|flows: &Rc<Flows>, flow, carry| flows.follow(flow, carry));
        let all = task + size_of::<Live>() + size_of::<Flow>();
        assert!(all <= 320, "{all} bytes");
    }
}
