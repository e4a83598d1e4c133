//! connect() that tells the truth: the kernel holds the application's SYN back
//! while the far application is asked. Its acceptance lets the SYN go, which
//! then comes to the listener as any other; a refusal is answered with RST|ACK,
//! and connect() fails with ECONNREFUSED.

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
use crate::reason::Reason;
use crate::refused::Refused;
use crate::workload::Workload;

use super::waiting::{Attempt, Ends, Entered, Waiting};
use super::{Captured, Established, Outbound};

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
        match self.holds.enter(held.attempt()) {
            Entered::New => {}
            Entered::Asked => return,
            Entered::Answered => return held.answer(&held.syn.whole()),
        }
        // Sent again just before it was let go, and heard of after it was
        // accepted: its peer must not be asked for another connection.
        if !self.is_waiting(&held) {
            self.holds.leave(held.attempt());
            return;
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
                self.holds.leave(held.attempt());
            }
            Ok(established) => {
                let (sender, taken) = oneshot::channel();
                let answer = Answer {
                    flow,
                    established,
                    _taken: sender,
                };
                if !self.holds.answered(held.attempt(), answer) {
                    return self.metrics.connect_held(HeldConnect::GivenUp);
                }
                self.metrics.connect_held(HeldConnect::Released);
                // Its place is free for the connection that the listener takes.
                drop(pass);
                held.answer(&held.syn.whole());
                // Not taken: the application has gone, and its stream is reset.
                let _ = timeout(TAKEN_WITHIN, taken).await;
                self.holds.leave(held.attempt());
            }
            Err(refused) => self.turn_away(&held, &flow, &refused),
        }
    }

    fn turn_away(&self, held: &Held, flow: &Flow, refused: &Refused) {
        if !self.holds.leave(held.attempt()) {
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
        let Ends {
            instance,
            source,
            captured_at,
        } = held.attempt().ends;
        let waiting = self.handoff.is_waiting(instance.0, source, captured_at);
        waiting.unwrap_or_else(|error| {
            tracing::error!(%error, "reading the hand-off map");
            false
        })
    }
}

impl Held {
    fn attempt(&self) -> Attempt {
        Attempt {
            ends: Ends {
                instance: self.workload.netns.cookie(),
                source: self.syn.source(),
                captured_at: self.syn.target(),
            },
            sequence: self.syn.sequence(),
        }
    }

    /// What cannot be sent is asked for again in a second, with the next SYN.
    fn answer(&self, packet: &Packet) {
        let sent = (self.workload.netns).send_raw(packet.as_bytes(), packet.to());
        if let Err(error) = sent {
            tracing::warn!(workload = %self.workload.name, %error, "answering a connect()");
        }
    }
}

/// What waiting connections are told. Each has a place in
/// `limits.pending_per_workload` until then, and is forgotten soon after.
pub type Holds = Waiting<Answer>;

pub struct Answer {
    flow: Flow,
    established: Established,
    /// Dropped with this.
    _taken: oneshot::Sender<()>,
}

impl Holds {
    /// What leads to the peer of an accepted connection that waited.
    pub(super) fn of(&self, captured: &Captured) -> Option<(Flow, Established)> {
        let answer = self.take(Ends {
            instance: captured.workload.netns.cookie(),
            source: captured.source,
            captured_at: captured.socket.local_addr().ok()?,
        })?;
        Some((answer.flow, answer.established))
    }
}
