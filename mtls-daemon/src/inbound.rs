//! Inbound: a tunnel that a peer's daemon opened to a workload of this node,
//! and the connections it brings.

mod plain;

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::rc::Rc;
use std::sync::Arc;

use tokio::task::spawn_local;
use tokio::time::Instant;

use crate::addr::ClientAddr;
use crate::addr::{OriginalDst, TunnelAddr};
use crate::credentials::Credentials;
use crate::dial::{Dialled, dial};
use crate::direct::Directs;
use crate::facts::{Facts, Newest};
use crate::flow::{Flow, Flows};
use crate::handshake::{self, counted};
use crate::identity::Presenter;
use crate::kernel::Handoff;
use crate::listener::{BATCH, Pass};
use crate::metrics::{Direction, Limit, ThreadMetrics};
use crate::policy::{self, Decision, Judged, Permit};
use crate::reason::Reason;
use crate::refused::Refused;
use crate::spiffe::SpiffeId;
use crate::tls;
use crate::trace::ConnectionIds;
use crate::tunnel::{Incoming, Loop, Request, Tunnel};
use crate::tunnels::{Proved, Tunnels};
use crate::turns::Turns;
use crate::workload::Workload;

/// A connection to a workload of this node, as the listener accepted it.
pub struct Arrived {
    pub socket: TcpStream,
    pub workload: Arc<Workload>,
    pub source: SocketAddr,
    /// Its place among those that wait.
    pub pass: Pass,
}

pub struct Inbound {
    pub tunnel_loop: Loop,
    pub tunnels: Rc<Tunnels>,
    pub facts: Newest,
    pub credentials: Rc<Credentials>,
    pub handoff: Handoff,
    pub metrics: ThreadMetrics,
    pub flows: Rc<Flows>,
    pub directs: Rc<Directs>,
    pub ids: Rc<ConnectionIds>,
    pub handshakes: Turns,
}

impl Inbound {
    /// Serve one tunnel from its handshake to its end.
    pub async fn serve(self: Rc<Self>, arrived: Arrived) {
        let (workload, source) = (Arc::clone(&arrived.workload), arrived.source);
        // Boxed: what the handshake needs is freed while the tunnel lives.
        let (tunnel, incoming, peer, proved) = match Box::pin(self.open(arrived)).await {
            Ok(opened) => opened,
            Err(refused) => return self.refuse_tunnel(&workload, source, &refused),
        };
        let peer = Rc::new(peer);
        spawn_local(Rc::clone(&self).receive(incoming, peer, Arc::clone(&workload)));
        self.tunnels.guard(tunnel, proved, |_| ()).await;
    }

    /// The handshake, and whether the peer is who it says, where it says.
    async fn open(&self, arrived: Arrived) -> Result<(Tunnel, Incoming, Peer, Proved), Refused> {
        if self.tunnels.are_draining() {
            return Err(Refused::from(Reason::Draining));
        }
        let facts = self.facts.get();
        let Arrived {
            socket,
            workload,
            source,
            pass: _pass,
        } = arrived;
        let turn = self.handshakes.take(source.ip());
        let turn = turn.ok_or_else(|| self.too_many_handshakes())?;
        let arrived_at = socket
            .local_addr()
            .map_err(|error| Refused::socket(&error, "asking for the tunnel's own address"))?;
        let socket = tokio::net::TcpStream::from_std(socket)
            .map_err(|error| Refused::socket(&error, "taking the tunnel's socket"))?;
        let tls = self.credentials.of(&workload)?;
        let handshake = tokio::select! {
            biased;
            done = tls::accept(socket, tls.server(), facts.limits.handshake) => done,
            () = turn.lost() => return Err(self.too_many_handshakes()),
        };
        let handshaken = counted(handshake, Direction::Inbound, &self.metrics)?;
        let id = handshaken.peer.id.clone();
        if !self.facts.confirm(&id, source.ip()).await {
            let what = format!("{id} is not known at {}", source.ip());
            return Err(Refused::new(Reason::IdentityNotAtAddress, what));
        }
        let (tunnel, incoming) = self
            .tunnel_loop
            .server(handshaken.socket, handshaken.session)
            .map_err(|error| Refused::socket(&error, "starting the tunnel"))?;
        let proved = Proved {
            workload,
            own: Arc::clone(tls.svid()),
            peer: handshaken.peer,
            chain: handshaken.chain,
            binding: handshaken.binding,
            bundles: tls.bundles().clone(),
            presenter: Presenter::Client,
        };
        let peer = Peer {
            id,
            source,
            arrived_at: arrived_at.ip(),
        };
        Ok((tunnel, incoming, peer, proved))
    }

    fn too_many_handshakes(&self) -> Refused {
        self.metrics.limit_reached(Limit::HandshakesPerWorker);
        Refused::new(
            Reason::LimitReached,
            "limits.handshakes_per_worker are under way",
        )
    }

    async fn receive(
        self: Rc<Self>,
        mut incoming: Incoming,
        peer: Rc<Peer>,
        workload: Arc<Workload>,
    ) {
        let mut begun = 0_u32;
        while let Some(request) = incoming.next().await {
            let (inbound, peer) = (Rc::clone(&self), Rc::clone(&peer));
            spawn_local(inbound.deliver(request, peer, Arc::clone(&workload)));
            begun = begun.wrapping_add(1);
            if begun.is_multiple_of(BATCH) {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Deliver one connection to the workload's application.
    async fn deliver(self: Rc<Self>, request: Request, peer: Rc<Peer>, workload: Arc<Workload>) {
        let head = request.head();
        let client = peer.client(head.forwarded);
        let facts = self.facts.get();
        let (permit, rule) = self.judge(&facts, head.authority, &peer, client, &workload);
        let id = head
            .traceparent
            .as_deref()
            .and_then(|sent| sent.parse().ok());
        let flow = Flow {
            id: id.unwrap_or_else(|| self.ids.next()),
            direction: Direction::Inbound,
            workload: Arc::clone(&workload),
            peer: Some(peer.id.clone()),
            client: Some(client),
            original_dst: OriginalDst(head.authority),
            tunnel: Some(TunnelAddr(peer.source)),
            tunnel_use: None,
            rule,
            began: Instant::now(),
        };
        let dialled = match permit {
            Ok(permit) => tokio::select! {
                biased;
                dialled = dial(permit, &flow.workload.netns, &self.handoff, facts.limits.connect)
                    => dialled,
                // The client gave up: nobody waits for the application any more.
                () = request.reset() => Err(Refused::from(Reason::ResetByPeer)),
            },
            Err(reason) => Err(Refused::from(reason)),
        };
        let dialled = dialled.and_then(|dialled| self.still_allowed(&flow, &facts, dialled));
        match dialled {
            Ok(Dialled { socket, name }) => {
                let carry = request.accept().carry(socket).into();
                self.flows.follow(flow, carry, Some(name));
            }
            Err(refused) => {
                self.flows.refused(&flow, &refused);
                request.refuse(status_for(refused.reason));
            }
        }
    }

    /// Ask the policies, and count what they say. With the permit comes the
    /// name of the rule that decided, if one was asked.
    fn judge(
        &self,
        facts: &Facts,
        authority: SocketAddr,
        peer: &Peer,
        client: ClientAddr,
        workload: &Workload,
    ) -> (Result<Permit, Reason>, Option<Arc<str>>) {
        let request = policy::Request {
            workload: workload.target(),
            peer: &peer.id,
            arrived_at: peer.arrived_at,
            authority,
            client,
            tunnel_port: facts.tunnel_port,
        };
        self.count(policy::authorise(&request, &facts.rules))
    }

    fn count(&self, judged: Judged<'_>) -> (Result<Permit, Reason>, Option<Arc<str>>) {
        let Judged { permit, decision } = judged;
        let counted = decision.iter().flat_map(Decision::counted);
        for (rule, decided) in counted {
            self.metrics.policy_decided(rule, decided);
        }
        let rule = decision.map(|decision| Arc::clone(decision.label()));
        (permit, rule)
    }

    /// Policies and modes may have changed while the application was dialled. From here
    /// on the connection is on the list of those that are judged again.
    fn still_allowed<T>(&self, flow: &Flow, facts: &Facts, dialled: T) -> Result<T, Refused> {
        let now = self.facts.get();
        if now.judges_as(facts) {
            return Ok(dialled);
        }
        match flow.forbidden_by(&now) {
            None => Ok(dialled),
            Some(reason) => Err(Refused::from(reason)),
        }
    }

    fn refuse_tunnel(&self, workload: &Workload, source: SocketAddr, refused: &Refused) {
        self.metrics
            .connection_refused(Direction::Inbound, refused.reason);
        handshake::tell(Direction::Inbound, workload, &source, refused);
    }
}

/// What a tunnel has proved about its peer, and where it runs.
struct Peer {
    id: SpiffeId,
    /// Source of the tunnel's packets.
    source: SocketAddr,
    /// Destination address of the tunnel's packets: the workload's.
    arrived_at: IpAddr,
}

impl Peer {
    /// The client as the application shall see it: the tunnel's source, with
    /// the port that the peer's daemon claims for it.
    fn client(&self, forwarded: Option<SocketAddr>) -> ClientAddr {
        let claimed = forwarded.filter(|claimed| claimed.ip() == self.source.ip());
        ClientAddr(SocketAddr::new(
            self.source.ip(),
            claimed.map_or(0, |claimed| claimed.port()),
        ))
    }
}

/// The answers that HBONE peers understand.
fn status_for(reason: Reason) -> u16 {
    match reason {
        Reason::BadRequest => 400,
        Reason::NotAuthorised => 401,
        _ => 503,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a connection costs while it is established, and a tunnel during
    /// its handshake.
    #[test]
    fn delivering_is_small() {
        fn deliver<A, B, C, D, F>(_: impl Fn(A, B, C, D) -> F) -> usize {
            size_of::<F>()
        }
        fn serve<A, B, F>(_: impl Fn(A, B) -> F) -> usize {
            size_of::<F>()
        }
        let (deliver, serve) = (deliver(Inbound::deliver), serve(Inbound::serve));
        assert!(deliver <= 1_280, "a connection: {deliver} bytes");
        assert!(serve <= 1_536, "a tunnel: {serve} bytes");
    }
}
