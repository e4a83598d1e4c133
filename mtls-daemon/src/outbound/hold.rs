//! connect() that tells the truth: the kernel holds the application's SYN back
//! while the far application is asked. Its acceptance lets the SYN go, which
//! then comes to the listener as any other; a refusal is answered with RST|ACK,
//! and connect() fails with ECONNREFUSED.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use mtls_common::syn::{Packet, Syn};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::spawn_local;
use tokio::time::timeout;

use crate::addr::OriginalDst;
use crate::flow::Flow;
use crate::metrics::{HeldConnect, Limit};
use crate::netns::{self, Cookie};
use crate::reason::Reason;
use crate::refused::Refused;
use crate::tunnel::Stream;
use crate::workload::Workload;

use super::{Captured, Outbound};

/// A connection of an application that waits in connect().
pub struct Held {
    pub workload: Arc<Workload>,
    pub dialled: OriginalDst,
    pub syn: Syn,
}

/// So long a SYN that was let go may take to come to the listener. The kernel
/// sends it again after one second, and another two.
const TAKEN_WITHIN: Duration = Duration::from_secs(5);

impl Outbound {
    /// Ask the far application, and tell the one that waits. A SYN that was
    /// sent again while its peer is asked changes nothing.
    pub fn hold(self: Rc<Self>, held: Held, pending: Arc<Semaphore>) {
        match self.holds.enter(&held) {
            Entered::New => {}
            Entered::Asked => return,
            Entered::Answered => return held.answer(&held.syn.whole()),
        }
        match pending.try_acquire_owned() {
            Ok(pass) => drop(spawn_local(self.ask(held, pass))),
            Err(_full) => {
                self.metrics.limit_reached(Limit::PendingPerWorkload);
                let flow = self.begin(&held.workload, held.syn.source(), held.dialled);
                let refused = Refused::new(
                    Reason::LimitReached,
                    "limits.pending_per_workload wait already",
                );
                self.turn_away(&held, &flow, &refused);
            }
        }
    }

    async fn ask(self: Rc<Self>, held: Held, pass: OwnedSemaphorePermit) {
        let mut flow = self.begin(&held.workload, held.syn.source(), held.dialled);
        // Boxed: what asking needs is freed before the application is told.
        let asked = Box::pin(self.establish_in_time(&mut flow, None)).await;
        match asked {
            Ok(_) if !self.is_waiting(&held) => {
                self.metrics.connect_held(HeldConnect::GivenUp);
                self.flows
                    .refused(&flow, &Refused::from(Reason::ResetByLocalApp));
                self.holds.leave(&held);
            }
            Ok(stream) => {
                let Some(taken) = self.holds.answered(&held, flow, stream) else {
                    return self.metrics.connect_held(HeldConnect::GivenUp);
                };
                self.metrics.connect_held(HeldConnect::Released);
                // Its place is free for the connection that the listener takes.
                drop(pass);
                held.answer(&held.syn.whole());
                // Not taken: the application has gone, and its stream is reset.
                let _ = timeout(TAKEN_WITHIN, taken).await;
                self.holds.leave(&held);
            }
            Err(refused) => self.turn_away(&held, &flow, &refused),
        }
    }

    fn turn_away(&self, held: &Held, flow: &Flow, refused: &Refused) {
        if !self.holds.leave(held) {
            return;
        }
        self.metrics.connect_held(match refused.reason {
            Reason::Timeout => HeldConnect::TimedOut,
            _ => HeldConnect::Refused,
        });
        match refused.reason {
            // Asked again, the peer may answer otherwise, and at no great cost.
            Reason::UpstreamRefused | Reason::RefusedByPeer => self.flows.refused(flow, refused),
            _ => self.refuse(flow, refused),
        }
        held.answer(&held.syn.refusal());
    }

    fn is_waiting(&self, held: &Held) -> bool {
        let Key {
            instance,
            source,
            captured_at,
        } = held.key();
        let waiting = self.handoff.is_waiting(instance.0, source, captured_at);
        waiting.unwrap_or_else(|error| {
            tracing::error!(%error, "reading the hand-off map");
            false
        })
    }
}

impl Held {
    fn key(&self) -> Key {
        Key {
            instance: self.workload.netns.cookie(),
            source: self.syn.source(),
            captured_at: self.syn.target(),
        }
    }

    /// What cannot be sent is asked for again in a second, with the next SYN.
    fn answer(&self, packet: &Packet) {
        let send = || netns::send_raw(packet.as_bytes(), packet.to());
        if let Err(error) = self.workload.netns.sockets(send) {
            tracing::warn!(workload = %self.workload.name, %error, "answering a connect()");
        }
    }
}

/// Connections whose applications wait in connect(), or are about to be
/// accepted because of it. Each has a place in `limits.pending_per_workload`
/// until it is answered, and is forgotten soon after.
#[derive(Default)]
pub struct Holds(RefCell<HashMap<Key, Hold>>);

/// One connection, as the kernel knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    instance: Cookie,
    source: SocketAddr,
    captured_at: SocketAddr,
}

struct Hold {
    /// Tells it from a later one of the same ends.
    sequence: u32,
    answer: Option<Answer>,
}

struct Answer {
    flow: Flow,
    stream: Stream,
    /// Dropped with this.
    _taken: oneshot::Sender<()>,
}

enum Entered {
    New,
    Asked,
    Answered,
}

impl Holds {
    fn enter(&self, held: &Held) -> Entered {
        let mut holds = self.0.borrow_mut();
        let sequence = held.syn.sequence();
        match holds.get(&held.key()) {
            Some(hold) if hold.sequence == sequence => match hold.answer {
                Some(_) => Entered::Answered,
                None => Entered::Asked,
            },
            // The application gave the former up, and has dialled anew.
            _ => {
                let hold = Hold {
                    sequence,
                    answer: None,
                };
                holds.insert(held.key(), hold);
                Entered::New
            }
        }
    }

    /// Told when it has been taken; `None` if nobody waits for it any more.
    fn answered(&self, held: &Held, flow: Flow, stream: Stream) -> Option<oneshot::Receiver<()>> {
        let mut holds = self.0.borrow_mut();
        let hold = holds.get_mut(&held.key())?;
        if hold.sequence != held.syn.sequence() {
            return None;
        }
        let (sender, taken) = oneshot::channel();
        hold.answer = Some(Answer {
            flow,
            stream,
            _taken: sender,
        });
        Some(taken)
    }

    /// The stream of a connection that waited; there is one for it once.
    pub fn take(&self, captured: &Captured) -> Option<(Flow, Stream)> {
        let key = Key {
            instance: captured.workload.netns.cookie(),
            source: captured.source,
            captured_at: captured.socket.local_addr().ok()?,
        };
        let answer = self.0.borrow_mut().remove(&key)?.answer?;
        Some((answer.flow, answer.stream))
    }

    /// Whether it was there still.
    fn leave(&self, held: &Held) -> bool {
        let mut holds = self.0.borrow_mut();
        let key = held.key();
        let is_it = |hold: &Hold| hold.sequence == held.syn.sequence();
        holds.get(&key).is_some_and(is_it) && holds.remove(&key).is_some()
    }

    /// The workload is gone.
    pub fn forget(&self, instance: Cookie) {
        self.0
            .borrow_mut()
            .retain(|key, _| key.instance != instance);
    }
}
