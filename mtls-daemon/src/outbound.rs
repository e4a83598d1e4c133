//! Outbound: a connection that a workload of this node opened.
//!
//! The kernel turned it to the daemon; here it gets its original destination
//! back, a route, a tunnel to the peer's daemon, and a stream in that tunnel.

mod hold;
mod waiting;

use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::access_log::TunnelUse;
use crate::addr::{ClientAddr, OriginalDst, TunnelAddr};
use crate::answers::{Answers, TRUSTED_FOR};
use crate::direct::{self, Directs, Far};
use crate::directory::{Endpoint, Target};
use crate::facts::Newest;
use crate::flow::{Carry, Flow, Flows};
use crate::health::Health;
use crate::kernel::Handoff;
use crate::listener::Pass;
use crate::metrics::{Acquire, Direction, InClear, Plaintext, ThreadMetrics};
use crate::policy::{self, Clear};
use crate::pool::{CheckedOut, Pool};
use crate::reason::Reason;
use crate::refused::Refused;
use crate::tls;
use crate::trace::ConnectionIds;
use crate::tunnel::{ConnectError, ConnectRequest, Stream, TunnelEnd};
use crate::workload::Workload;

pub use hold::{Held, Holds};

/// A connection as the listener accepted it, before anybody knows where the
/// application wanted to go. Dropping it resets the application.
pub struct Captured {
    pub socket: TcpStream,
    pub workload: Arc<Workload>,
    /// The application's end, as the daemon's socket sees it.
    pub source: SocketAddr,
    /// Its place among those that wait.
    pub pass: Pass,
}

pub struct Outbound {
    pub pool: Rc<Pool>,
    pub facts: Newest,
    pub handoff: Handoff,
    pub metrics: ThreadMetrics,
    pub flows: Rc<Flows>,
    pub directs: Rc<Directs>,
    pub ids: Rc<ConnectionIds>,
    pub health: Health,
    pub answers: Answers,
    pub holds: Holds,
}

/// So long the kernel answers a destination that refused with ECONNREFUSED,
/// without asking us again.
const REFUSED_FOR: Duration = Duration::from_secs(1);

/// Tunnels that one connection tries to one endpoint, beyond the first.
const RETRIES: usize = 3;

/// Endpoints of one service that one connection tries.
const ATTEMPTS: usize = 3;

impl Outbound {
    /// Carry one connection from accept to its end.
    pub async fn carry(self: Rc<Self>, captured: Captured) {
        let dst = self.original_dst(&captured.workload, &captured.socket, captured.source);
        let Some(dst) = dst else {
            // Somebody dialled the capture address itself; the reset that the
            // drop sends is all the answer there is.
            self.metrics
                .connection_refused(Direction::Outbound, Reason::NoOriginalDst);
            return;
        };
        // The application waited in connect(): its peer has answered already.
        if let Some((flow, established)) = self.holds.of(&captured) {
            let carry = established.carry(captured.socket, &self.directs);
            self.flows.follow(flow, carry, None);
            return;
        }
        let Captured {
            socket,
            workload,
            source,
            pass: _pass,
        } = captured;
        let mut flow = self.begin(&workload, source, dst);
        match self.establish_in_time(&mut flow, Some(&socket)).await {
            Ok(established) => {
                let carry = established.carry(socket, &self.directs);
                self.flows.follow(flow, carry, None);
            }
            Err(refused) => self.refuse(&flow, &refused),
        }
    }

    /// Within `limits.establish`. What destinations answer is remembered.
    async fn establish_in_time(
        &self,
        flow: &mut Flow,
        app: Option<&TcpStream>,
    ) -> Result<Established, Refused> {
        let limit = self.facts.get().limits.establish;
        let established = timeout(limit, self.establish(flow, app)).await;
        let established = established.unwrap_or_else(|_elapsed| Err(too_slow(limit)))?;
        let (by, dst) = (flow.workload.netns.cookie(), flow.original_dst);
        if self.answers.accepted(by, dst)
            && let Err(error) = self.handoff.accept(by.0, dst, TRUSTED_FOR)
        {
            tracing::warn!(%error, "noting a destination that accepted");
        }
        Ok(established)
    }

    /// The kernel's note of where the application dialled; there is one note a
    /// connection, and taking it removes it.
    pub fn original_dst(
        &self,
        workload: &Workload,
        socket: &TcpStream,
        source: SocketAddr,
    ) -> Option<OriginalDst> {
        let captured_at = socket.local_addr().ok()?;
        let cookie = workload.netns.cookie().0;
        match self.handoff.take_original_dst(cookie, source, captured_at) {
            Ok(found) => found,
            Err(error) => {
                tracing::error!(%error, "reading the hand-off map");
                None
            }
        }
    }

    /// `app`: the application's socket, if it may have spoken already.
    async fn establish(
        &self,
        flow: &mut Flow,
        app: Option<&TcpStream>,
    ) -> Result<Established, Refused> {
        let dst = flow.original_dst;
        let facts = self.facts.about(dst, flow.client_ip()).await;
        let clear = Clear {
            outside: facts.outside,
            permissive: facts.modes.sends_plaintext(&flow.workload.name),
            turn: self.health.turn(),
            client: flow.client_ip(),
        };
        let route = policy::route(&facts.directory, clear, dst)?;
        drop(facts);
        let mut refused = Refused::from(Reason::NoHealthyEndpoint);
        for target in self.health.in_turn(&route).take(ATTEMPTS) {
            let reached = match target {
                Target::Workload(endpoint) => self.connect(endpoint, flow, app).await,
                Target::Outside(server) => {
                    let dialled = self.go_in_clear(*server, Plaintext::Outside, flow).await;
                    dialled.map_err(Failed::from)
                }
                Target::NotEnrolled(server) => {
                    let why = Plaintext::NotEnrolled;
                    let dialled = self.go_in_clear(*server, why, flow).await;
                    dialled.map_err(Failed::from)
                }
            };
            let failed = match reached {
                Ok(established) => {
                    self.health.answered(target.address());
                    return Ok(established);
                }
                Err(failed) => failed,
            };
            let blamed = Health::blames(failed.refused.reason);
            if blamed {
                self.health.failed(target.address());
            }
            if !blamed || failed.has_spoken {
                return Err(failed.refused);
            }
            refused = failed.refused;
        }
        Err(refused)
    }

    async fn connect(
        &self,
        endpoint: &Endpoint,
        flow: &mut Flow,
        app: Option<&TcpStream>,
    ) -> Result<Established, Failed> {
        flow.peer = Some(endpoint.id.clone());
        flow.tunnel = Some(endpoint.tunnel);
        let request = ConnectRequest {
            authority: endpoint.address,
            forwarded: flow.client.map(|client| client.0),
            traceparent: Some(flow.id.traceparent()),
            baggage: None,
        };
        let mut left = RETRIES;
        loop {
            let CheckedOut { tunnel, acquired } =
                self.pool.checkout(&flow.workload, endpoint).await?;
            flow.tunnel_use = Some(match acquired {
                Acquire::Miss => TunnelUse::New,
                Acquire::Hit | Acquire::Wait => TunnelUse::Reused,
            });
            let opened = match app {
                Some(app) => tunnel.open_for(&request, app),
                None => tunnel.open(&request),
            };
            let (answer, has_spoken) = match opened {
                Ok(opening) => {
                    let has_spoken = opening.has_spoken();
                    (opening.answer().await, has_spoken)
                }
                Err(error) => (Err(error), false),
            };
            match answer {
                Ok(stream) => return Ok(Established::Tunnel(stream)),
                // The tunnel closed its door between checkout and here, and
                // the peer did nothing: the pool has another, or dials.
                Err(error) if left > 0 && error.may_retry() => {}
                // It had died unseen, with its peer's namespace or node. None
                // of the application's bytes were on it.
                Err(ConnectError::Lost(end))
                    if left > 0 && !has_spoken && died_unseen(&end, acquired) => {}
                Err(error) => {
                    return Err(Failed {
                        refused: self.refusal(&error),
                        has_spoken: has_spoken && matches!(error, ConnectError::Lost(_)),
                    });
                }
            }
            left -= 1;
        }
    }

    /// Without a tunnel, to a server that is known to be no workload, or to
    /// have no daemon.
    async fn go_in_clear(
        &self,
        server: SocketAddr,
        why: Plaintext,
        flow: &mut Flow,
    ) -> Result<Established, Refused> {
        if self.pool.tunnels.are_draining() {
            return Err(Refused::from(Reason::Draining));
        }
        flow.peer = None;
        flow.tunnel = Some(TunnelAddr(server));
        flow.tunnel_use = Some(TunnelUse::None(why));
        let limit = self.facts.get().limits.connect;
        let far = direct::connect(&flow.workload, server, limit).await?;
        // The mode may have changed meanwhile.
        if let Some(reason) = flow.forbidden_by(&self.facts.get()) {
            return Err(Refused::from(reason));
        }
        self.metrics.carried_in_clear(Direction::Outbound, why);
        if why == Plaintext::NotEnrolled {
            self.metrics.seen_in_clear(InClear {
                workload: Arc::clone(&flow.workload.name),
                direction: Direction::Outbound,
                other: server.ip(),
                port: server.port(),
            });
        }
        Ok(Established::Direct(far))
    }

    /// In the peer's words, or in those of the tunnel that was lost.
    fn refusal(&self, error: &ConnectError) -> Refused {
        let reason = match error {
            ConnectError::Refused { status: 401 | 403 } => Reason::RefusedByPeer,
            ConnectError::Refused { status: 400 } => Reason::BadRequest,
            ConnectError::Refused { .. } => Reason::UpstreamRefused,
            ConnectError::Reset(_) => Reason::ResetByPeer,
            ConnectError::NoRoom => Reason::LimitReached,
            ConnectError::GoingAway => Reason::TunnelLost,
            // In TLS 1.3 the peer judges our certificate after our handshake
            // is done: its alert is the first thing that the tunnel reads.
            ConnectError::Lost(TunnelEnd::Tls(error)) => {
                let reason = tls::reason_of(error);
                self.metrics.handshake_failed(Direction::Outbound, reason);
                reason
            }
            ConnectError::Lost(_) => Reason::TunnelLost,
        };
        Refused::new(reason, error.to_string())
    }

    fn begin(&self, workload: &Arc<Workload>, source: SocketAddr, dst: OriginalDst) -> Flow {
        // What the application is bound to on loopback is not what its peers
        // see: the tunnel leaves from the workload's own address.
        let client = workload
            .source_for(dst.0.ip())
            .map(|ip| ClientAddr(SocketAddr::new(ip, source.port())));
        Flow {
            id: self.ids.next(),
            direction: Direction::Outbound,
            workload: Arc::clone(workload),
            peer: None,
            client,
            original_dst: dst,
            tunnel: None,
            tunnel_use: None,
            rule: None,
            began: Instant::now(),
        }
    }

    fn refuse(&self, flow: &Flow, refused: &Refused) {
        self.flows.refused(flow, refused);
        let (by, dst) = (flow.workload.netns.cookie(), flow.original_dst);
        let noted = if self.answers.refused(by, dst, refused.reason) {
            self.handoff.refuse(by.0, dst, REFUSED_FOR)
        } else {
            self.handoff.forget_answer(by.0, dst)
        };
        if let Err(error) = noted {
            tracing::warn!(%error, "noting a refused destination");
        }
    }
}

/// What leads to whoever answers.
enum Established {
    Tunnel(Stream),
    Direct(Far),
}

impl Established {
    fn carry(self, app: TcpStream, directs: &Rc<Directs>) -> Carry {
        match self {
            Self::Tunnel(stream) => stream.carry(app).into(),
            Self::Direct(far) => Carry::Direct(Box::new(directs.carry(app, far))),
        }
    }
}

/// One endpoint's failure.
struct Failed {
    refused: Refused,
    /// The tunnel was lost with bytes of the application on it: what became of
    /// them nobody knows, so nobody else may get them.
    has_spoken: bool,
}

impl From<Refused> for Failed {
    fn from(refused: Refused) -> Self {
        Self {
            refused,
            has_spoken: false,
        }
    }
}

/// Whether a tunnel that others had opened was gone before we asked.
fn died_unseen(end: &TunnelEnd, acquired: Acquire) -> bool {
    acquired != Acquire::Miss
        && matches!(
            end,
            TunnelEnd::Io(_) | TunnelEnd::Truncated | TunnelEnd::ClosedByPeer | TunnelEnd::Drained
        )
}

fn too_slow(limit: Duration) -> Refused {
    Refused::new(
        Reason::Timeout,
        format!("not established in {limit:?} (limits.establish)"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a connection costs while it is established, besides its tunnel.
    #[test]
    fn carrying_is_small() {
        fn size<A, B, F>(_: impl Fn(A, B) -> F) -> usize {
            size_of::<F>()
        }
        let carry = size(Outbound::carry);
        assert!(carry <= 1_304, "{carry} bytes");
    }
}
