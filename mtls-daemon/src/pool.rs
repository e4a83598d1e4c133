//! Tunnels to peers, shared by the connections that may share one.
//!
//! One pool a worker. A connection rides a tunnel only if everything that the
//! tunnel proved is what the connection needs: that is the [`Key`].

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpSocket;
use tokio::sync::{Semaphore, watch};
use tokio::task::spawn_local;
use tokio::time::{Instant, timeout};

use crate::addr::TunnelAddr;
use crate::credentials::Credentials;
use crate::directory::Endpoint;
use crate::facts::Newest;
use crate::handshake::{self, counted};
use crate::identity::{Presenter, Svid};
use crate::metrics::{Acquire, Direction, Limit, PoolState, ThreadMetrics};
use crate::netns::Cookie;
use crate::reason::Reason;
use crate::refused::Refused;
use crate::spiffe::SpiffeId;
use crate::tls::{self, Judging, WorkloadTls};
use crate::tunnel::{Loop, Tunnel};
use crate::tunnels::{Proved, Tunnels};
use crate::workload::Workload;

/// What a tunnel proved. Two connections share a tunnel if and only if all of
/// this is equal; a change of anything else makes no handshake.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    /// The source workload's instance: a namespace made anew is another one.
    instance: Cookie,
    source: SpiffeId,
    source_addr: IpAddr,
    peer: SpiffeId,
    tunnel: TunnelAddr,
    /// Generation of the bundle that the peer's certificate was judged by.
    bundle: u64,
}

/// From so far away a peer gets several tunnels. What one TCP connection carries
/// falls with the distance, and a packet that is lost holds up all that ride it
/// for the longer. Near by, more tunnels are only more handshakes.
pub const FAR: Duration = Duration::from_millis(2);
/// Connections that share a tunnel to a far peer before there is another one.
const FEW: usize = 2;
/// After a further tunnel could not be opened.
const NOT_AGAIN_FOR: Duration = Duration::from_secs(10);

pub struct Pool {
    pub tunnel_loop: Loop,
    pub tunnels: Rc<Tunnels>,
    pub facts: Newest,
    pub credentials: Rc<Credentials>,
    pub metrics: ThreadMetrics,
    pub handshakes: Semaphore,
    pub peers: Peers,
    /// [`FAR`].
    pub far: Duration,
}

/// The tunnels of a pool, by what they proved.
#[derive(Default)]
pub struct Peers(RefCell<HashMap<Key, Peer>>);

#[derive(Default)]
struct Peer {
    open: Vec<Rc<Pooled>>,
    /// Set while a dial is under way; everyone else waits for its outcome.
    dialling: Option<Outcome>,
    /// When a dial failed last.
    failed: Option<Instant>,
}

struct Pooled {
    tunnel: Tunnel,
    /// Ours that was proved on it last.
    own: RefCell<Arc<Svid>>,
    /// From here on new connections use a newer tunnel. Certificates are
    /// renewed at half of their life, the peer's as well as ours, and proved
    /// here or on a new tunnel; a connection that began at the very end of what
    /// this one proved would be cut with it. At three quarters of what is left
    /// the handshakes stay few where an issuer is down and nothing newer comes:
    /// each lets three quarters of the rest pass.
    fresh_until: Cell<Instant>,
    /// The shortest round trip seen: where the processors have much to do,
    /// near peers look far for a while.
    round_trip: Cell<Duration>,
}

impl Pooled {
    fn new(tunnel: Tunnel, proved: &Proved, judging: &Judging) -> Self {
        Self {
            round_trip: Cell::new(tunnel.round_trip()),
            tunnel,
            own: RefCell::new(Arc::clone(&proved.own)),
            fresh_until: Cell::new(fresh_until(proved, judging)),
        }
    }

    fn renewed(&self, proved: &Proved, judging: &Judging) {
        self.own.replace(Arc::clone(&proved.own));
        self.fresh_until.set(fresh_until(proved, judging));
    }

    fn may_take(&self, newest: &Arc<Svid>) -> bool {
        Arc::ptr_eq(&self.own.borrow(), newest)
            && Instant::now() < self.fresh_until.get()
            && self.tunnel.has_room()
    }

    fn is_from(&self, far: Duration) -> bool {
        if self.round_trip.get() >= far {
            let now = self.tunnel.round_trip();
            self.round_trip.set(now.min(self.round_trip.get()));
        }
        self.round_trip.get() >= far
    }
}

fn fresh_until(proved: &Proved, judging: &Judging) -> Instant {
    Instant::now() + proved.valid_for(judging) * 3 / 4
}

/// A tunnel with room, and how this connection came by it.
pub struct CheckedOut {
    pub tunnel: Tunnel,
    pub acquired: Acquire,
}

type Outcome = watch::Receiver<Option<Result<(), Refused>>>;

impl Pool {
    /// A tunnel from `source` to `peer` with room for one more connection:
    /// an open one, or a new one. However many ask at once, one dials.
    pub async fn checkout(
        self: &Rc<Self>,
        source: &Arc<Workload>,
        peer: &Endpoint,
    ) -> Result<CheckedOut, Refused> {
        let mut acquired = Acquire::Hit;
        loop {
            if self.tunnels.are_draining() {
                return Err(Refused::from(Reason::Draining));
            }
            let tls = self.credentials.of(source)?;
            let key = key(source, peer, &tls)?;
            if let Some((tunnel, is_enough)) = self.open_tunnel(&key, tls.svid()) {
                self.metrics.pool_acquired(acquired);
                if !is_enough {
                    // For those that come after this one, which does not wait.
                    self.dial_once(key, source, peer, tls);
                }
                return Ok(CheckedOut { tunnel, acquired });
            }
            let (mut outcome, ours) = self.dial_once(key, source, peer, tls);
            acquired = if ours { Acquire::Miss } else { Acquire::Wait };
            let finished = outcome.wait_for(Option::is_some).await;
            match finished.as_deref() {
                Ok(Some(Err(refused))) => return Err(refused.clone()),
                // Take it from the pool, or dial once more if others filled it.
                Ok(_) => {}
                Err(_) => return Err(Refused::new(Reason::Internal, "the dial was dropped")),
            }
        }
    }

    /// New connections use a tunnel on which the newest SVID was proved, and
    /// none that nears the end of a certificate. With it, whether the peer has
    /// as many as it should.
    fn open_tunnel(&self, key: &Key, newest: &Arc<Svid>) -> Option<(Tunnel, bool)> {
        let peers = self.peers.0.borrow();
        let peer = peers.get(key)?;
        let usable = || peer.open.iter().filter(|pooled| pooled.may_take(newest));
        let idlest = usable().min_by_key(|pooled| pooled.tunnel.flows())?;
        let is_enough = idlest.tunnel.flows() < FEW
            || usable().count() >= self.facts.get().limits.tunnels_per_far_peer
            || peer.failed.is_some_and(|at| at.elapsed() < NOT_AGAIN_FOR)
            // Last: it may ask the kernel.
            || !idlest.is_from(self.far);
        Some((idlest.tunnel.clone(), is_enough))
    }

    fn dial_once(
        self: &Rc<Self>,
        key: Key,
        source: &Arc<Workload>,
        peer: &Endpoint,
        tls: Rc<WorkloadTls>,
    ) -> (Outcome, bool) {
        let mut peers = self.peers.0.borrow_mut();
        let slot = peers.entry(key.clone()).or_default();
        if let Some(outcome) = &slot.dialling {
            return (outcome.clone(), false);
        }
        let (finished, outcome) = watch::channel(None);
        slot.dialling = Some(outcome.clone());
        self.metrics.pool_moved(None, Some(PoolState::Connecting));
        let (pool, source, peer) = (Rc::clone(self), Arc::clone(source), peer.clone());
        // A task of its own: the connection that asked first may go away, and
        // the others still want the tunnel.
        spawn_local(async move {
            let dialled = pool.dial(&key, &source, &peer, &tls).await;
            let result = match dialled {
                Ok((tunnel, proved)) => {
                    pool.admit(key, tunnel, proved);
                    Ok(())
                }
                Err(refused) => {
                    let who = format!("{} at {}", peer.id, peer.tunnel);
                    handshake::tell(Direction::Outbound, &source, &who, &refused);
                    pool.forget_dial(&key);
                    Err(refused)
                }
            };
            finished.send_replace(Some(result));
        });
        (outcome, true)
    }

    async fn dial(
        &self,
        key: &Key,
        source: &Arc<Workload>,
        peer: &Endpoint,
        tls: &WorkloadTls,
    ) -> Result<(Tunnel, Proved), Refused> {
        let limits = &self.facts.get().limits;
        let _turn = self.handshakes.try_acquire().map_err(|_full| {
            self.metrics.limit_reached(Limit::HandshakesPerWorker);
            Refused::new(
                Reason::LimitReached,
                "limits.handshakes_per_worker are under way",
            )
        })?;
        let socket = source
            .netns
            .stream_from(key.source_addr)
            .map_err(|error| Refused::socket(&error, "making the tunnel's socket"))?;
        let dial = TcpSocket::from_std_stream(socket.into()).connect(key.tunnel.0);
        let socket = match timeout(limits.connect, dial).await {
            Ok(Ok(socket)) => socket,
            Ok(Err(error)) => {
                let what = format!("dialling {} for {}: {error}", key.tunnel, peer.id);
                return Err(Refused::new(Reason::PeerUnreachable, what));
            }
            Err(_elapsed) => {
                let what = format!("{} did not answer in {:?}", key.tunnel, limits.connect);
                return Err(Refused::new(Reason::PeerUnreachable, what));
            }
        };
        let config = tls
            .client(&peer.id)
            .map_err(|error| Refused::new(Reason::Internal, format!("TLS settings: {error}")))?;
        let handshake = tls::connect(socket, &config, limits.handshake).await;
        let handshaken = counted(handshake, Direction::Outbound, &self.metrics)?;
        let tunnel = self
            .tunnel_loop
            .client(handshaken.socket, handshaken.session)
            .map_err(|error| Refused::socket(&error, "starting the tunnel"))?;
        let proved = Proved {
            workload: Arc::clone(source),
            own: Arc::clone(tls.svid()),
            peer: handshaken.peer,
            chain: handshaken.chain,
            binding: handshaken.binding,
            bundles: tls.bundles().clone(),
            presenter: Presenter::Server,
        };
        Ok((tunnel, proved))
    }

    /// Put a tunnel where others find it, and watch over it until it ends.
    fn admit(self: &Rc<Self>, key: Key, tunnel: Tunnel, proved: Proved) {
        let judging = self.tunnels.judging();
        let pooled = Rc::new(Pooled::new(tunnel.clone(), &proved, judging));
        let mut peers = self.peers.0.borrow_mut();
        let slot = peers.entry(key.clone()).or_default();
        slot.dialling = None;
        slot.open.push(Rc::clone(&pooled));
        drop(peers);
        self.metrics
            .pool_moved(Some(PoolState::Connecting), Some(PoolState::Open));
        let pool = Rc::clone(self);
        spawn_local(async move {
            let renewed = |proved: &Proved| pooled.renewed(proved, pool.tunnels.judging());
            pool.tunnels.guard(tunnel, proved, renewed).await;
            pool.metrics.pool_moved(Some(PoolState::Open), None);
            pool.remove_ended(&key);
        });
    }

    fn forget_dial(&self, key: &Key) {
        self.metrics.pool_moved(Some(PoolState::Connecting), None);
        let mut peers = self.peers.0.borrow_mut();
        if let Some(slot) = peers.get_mut(key) {
            slot.dialling = None;
            slot.failed = Some(Instant::now());
            if slot.open.is_empty() {
                peers.remove(key);
            }
        }
    }

    fn remove_ended(&self, key: &Key) {
        let mut peers = self.peers.0.borrow_mut();
        if let Some(slot) = peers.get_mut(key) {
            slot.open.retain(|pooled| pooled.tunnel.is_open());
            if slot.open.is_empty() && slot.dialling.is_none() {
                peers.remove(key);
            }
        }
    }
}

fn key(source: &Workload, peer: &Endpoint, tls: &WorkloadTls) -> Result<Key, Refused> {
    let trust_domain = peer.id.trust_domain();
    let bundle = tls.bundles().get(&trust_domain).ok_or_else(|| {
        Refused::new(Reason::TrustDomain, format!("no bundle for {trust_domain}"))
    })?;
    let towards = peer.tunnel.0.ip();
    let source_addr = source.source_for(towards).ok_or_else(|| {
        let family = if towards.is_ipv4() { "IPv4" } else { "IPv6" };
        Refused::new(
            Reason::PeerUnreachable,
            format!("{} has no {family} address", source.name),
        )
    })?;
    Ok(Key {
        instance: source.netns.cookie(),
        source: source.id.clone(),
        source_addr,
        peer: peer.id.clone(),
        tunnel: peer.tunnel,
        bundle: bundle.generation(),
    })
}
