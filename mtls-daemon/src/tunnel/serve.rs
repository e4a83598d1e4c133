//! Applications' bytes into the tunnel: ready flows are served round robin,
//! one quantum each.

use super::endpoint::{Endpoint, Flows, Role};
use super::event_loop::{Shared, TURN};
use super::flow::{AppFailed, Flow, NO_TUNNEL, Taken, is};
use super::frame::{self, code};
use super::outcome::{CarryEnd, TunnelEnd};
use super::settings::count;

/// So much waits at most before it is sealed and written in the middle of a turn.
const FLUSH_AT: usize = 128 << 10;

impl Endpoint {
    /// Puts a flow into the queue, if its application may have something.
    pub(super) fn enqueue(&mut self, index: u32, flows: &mut Flows) {
        if let Some(flow) = flows.get_mut(index as usize)
            && flow.wants_service()
            && !flow.is(is::QUEUED)
        {
            flow.set(is::QUEUED);
            self.ready.push_back(index);
        }
    }

    /// Serves the ready flows until none is left, the turn is used up, or the
    /// tunnel takes no more: then the applications' own sockets fill up.
    pub(super) fn serve(
        &mut self,
        flows: &mut Flows,
        shared: &mut Shared,
    ) -> Result<(), TunnelEnd> {
        let mut budget = TURN;
        while self.writable && budget > 0 {
            let Some(index) = self.ready.pop_front() else {
                break;
            };
            // A slot may have got another flow meanwhile.
            let Some(flow) = flows.get_mut(index as usize) else {
                continue;
            };
            if flow.tunnel != self.index || !flow.is(is::QUEUED) {
                continue;
            }
            flow.clear(is::QUEUED);
            let moved = self.serve_one(index, flows, shared);
            self.enqueue_again(index, moved, flows);
            budget = budget.saturating_sub(moved);
            if self.out.len() >= FLUSH_AT {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// One quantum of one flow. Returns the bytes moved.
    fn serve_one(&mut self, index: u32, flows: &mut Flows, shared: &mut Shared) -> usize {
        let Some(flow) = flows.get_mut(index as usize) else {
            return 0;
        };
        if !flow.wants_service() {
            return 0;
        }
        let window = self.send.open().min(flow.send.open());
        if window == 0 {
            self.serve_shut(index, flows, shared);
            return 0;
        }
        let max_frame = self.peer.max_frame as usize;
        match flow.take(&mut self.out, window, max_frame) {
            Ok(Taken::Bytes { n, end }) => {
                flow.send.spend(n);
                self.send.spend(n);
                flow.to_peer += n as u64;
                count(&shared.stats.bytes_to_peers, n as u64);
                if end {
                    flow.set(is::SENT_END);
                    self.settle(index, flows, shared);
                }
                n
            }
            Ok(Taken::End) => {
                self.end_half(index, flows, shared);
                0
            }
            Ok(Taken::Nothing) => 0,
            Err(AppFailed) => {
                self.app_reset(index, flows, shared);
                0
            }
        }
    }

    /// With the window shut, only the end or the failure of an application can
    /// be passed on. Bytes that a failed one has left are lost, as they would
    /// be in its kernel.
    fn serve_shut(&mut self, index: u32, flows: &mut Flows, shared: &mut Shared) {
        let Some(flow) = flows.get_mut(index as usize) else {
            return;
        };
        if flow.is(is::FAILED) {
            self.app_reset(index, flows, shared);
        } else if flow.at_end() {
            self.end_half(index, flows, shared);
        } else if self.send.open() == 0 && !flow.is(is::STARVED) {
            flow.set(is::STARVED);
            self.starved.push(index);
            if self.starved.len() > 2 * self.flows + 64 {
                // Most have ended since.
                let (own, flows) = (self.index, &*flows);
                self.starved.retain(|index| {
                    let flow = flows.get(*index as usize);
                    flow.is_some_and(|flow| flow.tunnel == own && flow.is(is::STARVED))
                });
            }
        }
    }

    fn enqueue_again(&mut self, index: u32, moved: usize, flows: &mut Flows) {
        let Some(flow) = flows.get_mut(index as usize) else {
            return;
        };
        // With a window shut, the peer's WINDOW_UPDATE brings it back.
        let open = flow.send.open() > 0 && !flow.is(is::STARVED);
        let goes_on = moved > 0 || flow.is(is::READABLE) && open;
        if flow.tunnel == self.index && goes_on {
            self.enqueue(index, flows);
        }
    }

    /// The application has ended its half, and everything of it is sent.
    fn end_half(&mut self, index: u32, flows: &mut Flows, shared: &mut Shared) {
        if let Some(flow) = flows.get_mut(index as usize) {
            frame::put_end_stream(&mut self.out, flow.stream);
            flow.set(is::SENT_END);
            self.settle(index, flows, shared);
        }
    }

    /// The application has reset its connection: so does the far one's daemon.
    fn app_reset(&mut self, index: u32, flows: &mut Flows, shared: &mut Shared) {
        let code = match self.role {
            Role::Client => code::CANCEL,
            // RFC 9113, 8.5, has a code for the connection that was asked for.
            Role::Server => code::CONNECT_ERROR,
        };
        self.reset(index, code, CarryEnd::ResetByApp, flows, shared);
    }
}

/// A flow without a tunnel: both halves had ended, and its application still
/// takes what waits. Returns whether it is over.
pub(super) fn finish_delivery(flow: &mut Flow, index: u32, shared: &mut Shared) {
    debug_assert_eq!(flow.tunnel, NO_TUNNEL, "a tunnel would serve it");
    use super::flow::Outcome;
    let end = match flow.drain(index, shared) {
        Ok(_) if flow.is_done() => CarryEnd::Done,
        Ok(_) => return,
        Err(AppFailed) => CarryEnd::ResetByApp,
    };
    flow.end(Outcome::Ended(end), shared);
}
