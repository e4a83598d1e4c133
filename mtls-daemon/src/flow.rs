//! One connection as operators see it: counted and listed while it lives, and
//! one line in the access log at its end.

mod woken;

use std::cell::RefCell;
use std::net::IpAddr;
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
use crate::direct::Direct;
use crate::facts::{Facts, Newest};
use crate::kernel::ClientName;
use crate::metrics::{Direction, Plaintext, ThreadMetrics, Towards};
use crate::netns::Cookie;
use crate::policy::{self, Connection};
use crate::reason::Reason;
use crate::refused::Refused;
use crate::spiffe::SpiffeId;
use crate::trace::ConnectionId;
use crate::tunnel::{self, Carried, CarryEnd, Cut};
use crate::workload::Workload;

use woken::Woken;

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
    /// Address of the other end of the tunnel, or of the connection in clear.
    pub tunnel: Option<TunnelAddr>,
    pub tunnel_use: Option<TunnelUse>,
    /// The rule that let it in, or did not; of inbound ones.
    pub rule: Option<Arc<str>>,
    pub began: Instant,
}

impl Flow {
    /// Where the client is, if that is known.
    pub fn client_ip(&self) -> Option<IpAddr> {
        self.client.map(|ClientAddr(client)| client.ip())
    }

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
            self.original_dst.0,
        ))
    }

    /// Why it may not go on by `facts`, if it may not.
    pub fn forbidden_by(&self, facts: &Facts) -> Option<Reason> {
        let (modes, name) = (&facts.modes, &self.workload.name);
        match self.tunnel_use {
            Some(TunnelUse::None(Plaintext::Permissive))
                if !modes.takes_plaintext(name, self.original_dst.0.port()) =>
            {
                return Some(Reason::PlaintextRefused);
            }
            Some(TunnelUse::None(Plaintext::NotEnrolled)) if !modes.sends_plaintext(name) => {
                return Some(Reason::NotEnrolled);
            }
            _ => {}
        }
        let connection = self.connection()?;
        let allowed = facts.rules.inbound(&connection).is_allowed();
        (!allowed).then_some(Reason::NotAuthorised)
    }
}

/// A connection whose bytes are being carried, until its end.
pub enum Carry {
    Tunnel(tunnel::Carry),
    /// Boxed: the others are many.
    Direct(Box<Direct>),
}

/// The connections of one worker.
pub struct Flows {
    metrics: ThreadMetrics,
    facts: Newest,
    live: RefCell<Slab<Live>>,
    /// Those of `live` that may have ended, by their places.
    woken: Woken,
    /// Told whenever the last connection has ended.
    emptied: Notify,
}

/// A connection that is open: all that an idle one costs, besides its place in
/// the tunnel's loop. It has no task of its own.
struct Live {
    flow: Flow,
    carry: Carry,
    /// Boxed: only inbound ones have one.
    name: Option<Box<ClientName>>,
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
            woken: Woken::default(),
            emptied: Notify::new(),
        }
    }

    /// Bytes flow from now on; at its end the connection is counted and logged,
    /// and what its application sees as its client is forgotten.
    pub fn follow(&self, flow: Flow, carry: Carry, name: Option<ClientName>) {
        self.metrics
            .connection_established(flow.direction, flow.began.elapsed());
        flow.workload.connections.fetch_add(1, Ordering::Relaxed);
        let nth = self.live.borrow_mut().insert(Live {
            flow,
            carry,
            name: name.map(Box::new),
            counted: (0, 0),
        });
        self.look_at(nth);
    }

    /// Sees connections off as they end. For ever.
    pub async fn see_off(self: Rc<Self>) {
        loop {
            for nth in self.woken.next().await {
                self.look_at(nth);
            }
            // Whatever else the thread does shall have its turn too.
            tokio::task::yield_now().await;
        }
    }

    /// Has the connection in that place ended? If not, or if the place has
    /// another one by now, it is looked at when that is woken.
    fn look_at(&self, nth: usize) {
        let mut live = self.live.borrow_mut();
        let Some(Live { carry, .. }) = live.get_mut(nth) else {
            return;
        };
        let waker = self.woken.waker(nth);
        let Poll::Ready(carried) = Pin::new(carry).poll(&mut Context::from_waker(&waker)) else {
            return;
        };
        let ended = live.remove(nth);
        let was_last = live.is_empty();
        drop(live);
        self.ended(ended, &carried);
        if was_last {
            self.emptied.notify_waiters();
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
        let shown = live.iter().map(|(_, Live { flow, carry, .. })| Snapshot {
            flow: flow.clone(),
            bytes: Bytes::of(flow.direction, carry.bytes().unwrap_or_default()),
        });
        shown.collect()
    }

    /// Cuts what policies or modes do not allow any more, whenever they change.
    /// For ever.
    pub async fn hold_to_the_rules(self: Rc<Self>) {
        let mut facts = self.facts.changes();
        loop {
            let now = Arc::clone(&facts.borrow_and_update());
            self.cut_what_is_forbidden(&now);
            let other = |facts: &Arc<Facts>| !facts.judges_as(&now);
            if facts.wait_for(other).await.is_err() {
                return;
            }
        }
    }

    fn cut_what_is_forbidden(&self, facts: &Facts) {
        for (_, live) in self.live.borrow().iter() {
            if let Some(reason) = live.flow.forbidden_by(facts) {
                tracing::info!(
                    id = %live.flow.id,
                    workload = %live.flow.workload.name,
                    %reason,
                    "a connection is cut: policies or modes do not allow it any more"
                );
                live.carry.cut(Cut(reason));
            }
        }
    }

    /// Tells the metrics of the bytes of open connections, now and then: a
    /// download of an hour must show before its end. For ever; 10,000 idle
    /// connections take well below a millisecond each time.
    pub async fn count_bytes(self: Rc<Self>) {
        loop {
            tokio::time::sleep(COUNT_EVERY).await;
            for (_, live) in self.live.borrow_mut().iter_mut() {
                if let Some(bytes) = live.carry.bytes() {
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

    fn ended(&self, live: Live, carried: &Carried) {
        let Live {
            flow,
            name,
            mut counted,
            ..
        } = live;
        let all = (carried.to_peer, carried.from_peer);
        self.count(flow.direction, &mut counted, all);
        let reason = carried.end.reason();
        self.metrics.connection_ended(flow.direction, reason);
        let detail = detail(&carried.end);
        let bytes = Bytes::of(flow.direction, all);
        self.log(&flow, bytes, reason, detail.as_deref());
        flow.workload.connections.fetch_sub(1, Ordering::Relaxed);
        drop(name);
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
    /// Resets both sides now, if it has not ended yet.
    fn cut(&self, why: Cut) {
        match self {
            Self::Tunnel(carry) => carry.handle().cut(why),
            Self::Direct(direct) => direct.moved().cut(why),
        }
    }

    /// Bytes to the peer and from it; `None` when it has ended.
    fn bytes(&self) -> Option<(u64, u64)> {
        match self {
            Self::Tunnel(carry) => carry.handle().bytes(),
            Self::Direct(direct) => Some(direct.moved().bytes()),
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

/// What the reason's word does not say.
fn detail(end: &CarryEnd) -> Option<String> {
    match end {
        CarryEnd::TunnelLost(end) => Some(end.to_string()),
        CarryEnd::Local(error) => Some(error.to_string()),
        CarryEnd::Done | CarryEnd::ResetByApp | CarryEnd::ResetByPeer(_) | CarryEnd::Cut(_) => None,
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

    /// 10,000 idle connections a node: what each of them holds here.
    #[test]
    fn an_open_connection_is_small() {
        assert!(size_of::<Live>() <= 240, "{} bytes", size_of::<Live>());
    }
}
