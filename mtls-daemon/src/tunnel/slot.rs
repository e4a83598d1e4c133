//! A flow's slot as its one handle holds it, and how flows' ends are told.

use std::future::poll_fn;
use std::io;
use std::net::TcpStream;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::endpoint::{Endpoint, Flows};
use super::event_loop::{Inner, Orphan, Shared, State};
use super::flow::{Flow, FlowKey, Outcome};
use super::frame::code;
use super::outcome::{Carried, CarryEnd, ConnectError, Cut, TunnelEnd};

/// What of a loop an endpoint works on.
pub(super) struct Parts<'s> {
    pub(super) flows: &'s mut Flows,
    pub(super) shared: &'s mut Shared,
}

/// A flow's slot, held by the one handle that stands for the flow.
pub(super) struct Slot {
    pub(super) inner: Rc<Inner>,
    pub(super) tunnel: u32,
    pub(super) key: FlowKey,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.inner.orphan(Orphan::Flow(self.key));
    }
}

impl Slot {
    /// What `ready` finds in the flow, once it does; `None` if the flow is
    /// not there, which would be a fault of ours.
    pub(super) async fn until<T>(
        &self,
        mut ready: impl FnMut(&mut Flow) -> Option<T>,
    ) -> Option<T> {
        poll_fn(|cx| self.poll(cx, &mut ready)).await
    }

    pub(super) fn poll<T>(
        &self,
        cx: &mut Context<'_>,
        ready: impl FnOnce(&mut Flow) -> Option<T>,
    ) -> Poll<Option<T>> {
        self.inner.with(|state| {
            let Some(flow) = state.flow(self.key) else {
                return Poll::Ready(None);
            };
            match ready(flow) {
                Some(found) => Poll::Ready(Some(found)),
                None => {
                    park(&mut flow.waiter, cx);
                    Poll::Pending
                }
            }
        })
    }

    pub(super) fn respond(&self, status: u16) {
        self.with_tunnel(|tunnel, index, parts| {
            tunnel.respond(index, status, parts.flows, parts.shared);
        });
    }

    pub(super) fn attach(&self, app: TcpStream) {
        // Without a tunnel the socket is dropped, which resets the application.
        self.with_tunnel(|tunnel, index, parts| {
            tunnel.attach(index, app, parts.flows, parts.shared);
        });
    }

    pub(super) fn cut(&self, why: Cut) -> Carried {
        self.with_tunnel(|tunnel, index, parts| {
            let end = CarryEnd::Cut(why);
            tunnel.reset(index, code::CANCEL, end, parts.flows, parts.shared);
        });
        self.inner.with(|state| {
            let Some(flow) = state.flow(self.key) else {
                return nothing_carried();
            };
            // None: it was delivering without its tunnel. Dropping the slot
            // resets the application.
            let outcome = flow.outcome.take();
            let outcome = outcome.map_or(Outcome::Ended(CarryEnd::Cut(why)), |boxed| *boxed);
            carried(flow, outcome)
        })
    }

    fn with_tunnel(&self, f: impl FnOnce(&mut Endpoint, u32, &mut Parts<'_>)) {
        self.inner.with(|state| {
            let alive = state.flow(self.key).is_some_and(|flow| !flow.has_ended());
            let State {
                tunnels,
                flows,
                shared,
                ..
            } = state;
            // The tunnel's slot may have another tunnel by now; then the flow
            // has ended or is not that tunnel's.
            if let Some(tunnel) = tunnels.get_mut(self.tunnel as usize)
                && alive
                && flows
                    .get(self.key.index as usize)
                    .is_some_and(|flow| flow.tunnel == self.tunnel)
            {
                f(tunnel, self.key.index, &mut Parts { flows, shared });
            }
            state.schedule(self.tunnel);
        });
    }
}

impl State {
    /// Ends a flow; whoever waits for its end hears why.
    pub(super) fn cut(&mut self, key: FlowKey, why: Cut) {
        let end = CarryEnd::Cut(why);
        let Some(flow) = self.flow(key).filter(|flow| !flow.has_ended()) else {
            return;
        };
        let index = flow.tunnel;
        let Self {
            tunnels,
            flows,
            shared,
            ..
        } = self;
        if let Some(tunnel) = tunnels.get_mut(index as usize) {
            tunnel.reset(key.index, code::CANCEL, end, flows, shared);
            self.schedule(index);
        } else if let Some(flow) = flows.get_mut(key.index as usize) {
            // It was delivering without its tunnel.
            flow.end(Outcome::Ended(end), shared);
        }
    }

    pub(super) fn flow(&mut self, key: FlowKey) -> Option<&mut Flow> {
        self.flows
            .get_mut(key.index as usize)
            .filter(|flow| flow.key(key.index) == key)
    }
}

pub(super) fn carried(flow: &Flow, outcome: Outcome) -> Carried {
    Carried {
        to_peer: flow.to_peer,
        from_peer: flow.from_peer,
        end: match outcome {
            Outcome::Ended(end) => end,
            // Neither can come once the peer has answered.
            Outcome::Refused(_) => CarryEnd::ResetByPeer(code::PROTOCOL_ERROR),
            Outcome::GoneAway => CarryEnd::ResetByPeer(code::REFUSED_STREAM),
        },
    }
}

pub(super) fn unanswered(outcome: Outcome) -> ConnectError {
    match outcome {
        Outcome::Refused(status) => ConnectError::Refused { status },
        Outcome::GoneAway => ConnectError::GoingAway,
        Outcome::Ended(end) => match end {
            CarryEnd::ResetByPeer(code) => ConnectError::Reset(code),
            CarryEnd::TunnelLost(end) => ConnectError::Lost(end),
            CarryEnd::Cut(cut) => ConnectError::Lost(TunnelEnd::Cut(cut)),
            // Before the answer there is no application that could end it.
            CarryEnd::Local(_) | CarryEnd::ResetByApp | CarryEnd::Done => ConnectError::GoingAway,
        },
    }
}

/// The slot was not there: a fault of ours, and no reason to panic.
pub(super) fn nothing_carried() -> Carried {
    Carried {
        to_peer: 0,
        from_peer: 0,
        end: CarryEnd::Local(io::ErrorKind::NotFound.into()),
    }
}

pub(super) fn park(waiter: &mut Option<Waker>, cx: &Context<'_>) {
    if !waiter.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
        *waiter = Some(cx.waker().clone());
    }
}
