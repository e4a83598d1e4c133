//! Frames that move no bytes: SETTINGS, PING, GOAWAY, WINDOW_UPDATE,
//! RST_STREAM, PRIORITY.

use super::endpoint::{Draining, Endpoint, Flows, Role, flood};
use super::event_loop::Shared;
use super::flow::{Outcome, is};
use super::frame::{self, Head, MAX_WINDOW, code, flag, setting};
use super::outcome::{CarryEnd, Violation};
use super::receive::protocol;
use super::settings::count;
use super::windows::{Overflow, SendWindow};

/// What our own PINGs carry. One is on the way at a time.
pub(super) const OUR_PING: [u8; 8] = *b"mtls-ask";

impl Endpoint {
    pub(super) fn settings(
        &mut self,
        head: Head,
        payload: &[u8],
        flows: &mut Flows,
        shared: &mut Shared,
    ) -> Result<(), Violation> {
        if head.stream != 0 {
            return Err(protocol("SETTINGS on a stream"));
        }
        if head.has(flag::ACK) {
            if !payload.is_empty() {
                return Err(size("a SETTINGS acknowledgement with a payload"));
            }
            if !self.peer.told {
                return Err(protocol("the first frame was not SETTINGS"));
            }
            self.decoder.forbid_table();
            return Ok(());
        }
        let (entries, rest) = payload.as_chunks::<6>();
        if !rest.is_empty() {
            return Err(size("SETTINGS of a broken length"));
        }
        if !self.limits.settings(shared.millis) {
            return Err(flood("SETTINGS without end"));
        }
        self.peer.told = true;
        let window_before = self.peer.initial_window;
        for &[i0, i1, v0, v1, v2, v3] in entries {
            let id = u16::from_be_bytes([i0, i1]);
            self.setting(id, u32::from_be_bytes([v0, v1, v2, v3]))?;
        }
        if self.proofs.taken {
            shared.wake(&mut self.proofs.waiter);
        }
        frame::put_settings_ack(&mut self.out);
        // Once for the whole frame, however often it names the window.
        let delta = i64::from(self.peer.initial_window) - i64::from(window_before);
        if delta != 0 {
            self.shift_windows(delta, flows)?;
        }
        Ok(())
    }

    fn setting(&mut self, id: u16, value: u32) -> Result<(), Violation> {
        match id {
            setting::HEADER_TABLE_SIZE => self.peer.owed_no_table |= value < 4_096,
            setting::ENABLE_PUSH if value > 1 || value == 1 && self.role == Role::Client => {
                return Err(protocol("a wrong ENABLE_PUSH"));
            }
            setting::MAX_CONCURRENT_STREAMS => self.peer.max_streams = value,
            setting::INITIAL_WINDOW_SIZE => {
                if value > MAX_WINDOW {
                    return Err(overflow("an initial window past 2^31 - 1"));
                }
                self.peer.initial_window = value;
            }
            setting::MAX_FRAME_SIZE => {
                if !(frame::DEFAULT_MAX_FRAME..1 << 24).contains(&value) {
                    return Err(protocol("a wrong MAX_FRAME_SIZE"));
                }
                self.peer.max_frame = value;
            }
            setting::TAKES_PROOFS => self.proofs.taken = value == 1,
            setting::HOLDS_EARLY_DATA => self.peer.holds_early_data = value == 1,
            // We send no header list near any limit, and unknown ones are ignored.
            _ => {}
        }
        Ok(())
    }

    /// The peer's initial window changed: so do those of the open streams.
    fn shift_windows(&mut self, delta: i64, flows: &mut Flows) -> Result<(), Violation> {
        let mut widened = Vec::new();
        for &index in self.streams.values() {
            let Some(flow) = flows.get_mut(index as usize) else {
                continue;
            };
            let shut = flow.send.open() == 0;
            flow.send
                .shift(delta)
                .map_err(|Overflow| overflow("a stream's window past 2^31 - 1"))?;
            if shut && flow.send.open() > 0 {
                widened.push(index);
            }
        }
        for index in widened {
            self.enqueue(index, flows);
        }
        Ok(())
    }

    pub(super) fn window_update(
        &mut self,
        head: Head,
        payload: &[u8],
        flows: &mut Flows,
        shared: &mut Shared,
    ) -> Result<(), Violation> {
        let &[a, b, c, d] = payload else {
            return Err(size("a WINDOW_UPDATE of a wrong length"));
        };
        let increment = u32::from_be_bytes([a, b, c, d]) & MAX_WINDOW;
        if head.stream == 0 {
            if increment == 0 {
                return Err(protocol("a WINDOW_UPDATE of nothing"));
            }
            self.send
                .add(increment)
                .map_err(|Overflow| overflow("the connection's window past 2^31 - 1"))?;
            for index in std::mem::take(&mut self.starved) {
                if let Some(flow) = flows.get_mut(index as usize)
                    && flow.tunnel == self.index
                {
                    flow.clear(is::STARVED);
                    self.enqueue(index, flows);
                }
            }
            return Ok(());
        }
        let Some(&index) = self.streams.get(&head.stream) else {
            return if self.is_idle(head.stream) {
                Err(protocol(
                    "a WINDOW_UPDATE for a stream that was never opened",
                ))
            } else {
                Ok(())
            };
        };
        let Some(flow) = flows.get_mut(index as usize) else {
            return Ok(());
        };
        let code = match add(&mut flow.send, increment) {
            Ok(()) => {
                self.enqueue(index, flows);
                return Ok(());
            }
            Err(code) => code,
        };
        self.stream_violation(index, code, flows, shared);
        Ok(())
    }

    pub(super) fn rst_stream(
        &mut self,
        head: Head,
        payload: &[u8],
        flows: &mut Flows,
        shared: &mut Shared,
    ) -> Result<(), Violation> {
        let &[a, b, c, d] = payload else {
            return Err(size("a RST_STREAM of a wrong length"));
        };
        let code = u32::from_be_bytes([a, b, c, d]);
        let Some(&index) = self.streams.get(&head.stream) else {
            return if self.is_idle(head.stream) {
                Err(protocol("a RST_STREAM for a stream that was never opened"))
            } else {
                Ok(())
            };
        };
        let answered = flows
            .get(index as usize)
            .is_some_and(|flow| flow.is(is::ANSWERED));
        let ended = Outcome::Ended(CarryEnd::ResetByPeer(code));
        self.close_flow(index, None, ended, flows, shared);
        if self.role == Role::Server && !answered {
            count(&shared.stats.early_resets, 1);
            if !self.limits.early_reset(shared.millis) {
                return Err(flood("streams opened and reset without end"));
            }
        }
        Ok(())
    }

    pub(super) fn ping_frame(
        &mut self,
        head: Head,
        payload: &[u8],
        shared: &mut Shared,
    ) -> Result<(), Violation> {
        let Ok(payload) = <[u8; 8]>::try_from(payload) else {
            return Err(size("a PING of a wrong length"));
        };
        if head.stream != 0 {
            return Err(protocol("a PING on a stream"));
        }
        if head.has(flag::ACK) {
            // Everything that the peer sent before it saw our GOAWAY is here.
            if payload == OUR_PING && self.draining == Draining::Announced {
                frame::put_goaway(&mut self.out, self.last_stream, code::NO_ERROR);
                self.draining = Draining::Final;
            }
            return Ok(());
        }
        if !self.limits.ping(shared.millis) {
            return Err(flood("PINGs without end"));
        }
        frame::put_ping(&mut self.out, true, payload);
        Ok(())
    }

    pub(super) fn goaway(
        &mut self,
        head: Head,
        payload: &[u8],
        flows: &mut Flows,
        shared: &mut Shared,
    ) -> Result<(), Violation> {
        let Some((&[a, b, c, d, e, f, g, h], _debug_data)) = payload.split_first_chunk::<8>()
        else {
            return Err(size("a GOAWAY of a wrong length"));
        };
        if head.stream != 0 {
            return Err(protocol("a GOAWAY on a stream"));
        }
        if !self.limits.idle_frame(shared.millis) {
            return Err(flood("GOAWAY without end"));
        }
        self.going_away = Some(u32::from_be_bytes([e, f, g, h]));
        if self.role == Role::Client {
            // Streams above the last one were not looked at: not a byte of
            // theirs has gone anywhere.
            let last = u32::from_be_bytes([a, b, c, d]) & frame::MAX_STREAM;
            let unseen: Vec<u32> = self
                .streams
                .iter()
                .filter(|(stream, _)| **stream > last)
                .map(|(_, index)| *index)
                .collect();
            for index in unseen {
                self.close_flow(index, None, Outcome::GoneAway, flows, shared);
            }
        }
        Ok(())
    }

    /// We serve in our own order; the frame only costs.
    pub(super) fn priority(&mut self, head: Head, shared: &mut Shared) -> Result<(), Violation> {
        if head.stream == 0 {
            return Err(protocol("PRIORITY without a stream"));
        }
        if head.len != 5 {
            return Err(size("a PRIORITY of a wrong length"));
        }
        if !self.limits.idle_frame(shared.millis) {
            return Err(flood("PRIORITY without end"));
        }
        Ok(())
    }
}

/// A stream's WINDOW_UPDATE; the error is the code to reset it with.
fn add(window: &mut SendWindow, increment: u32) -> Result<(), u32> {
    if increment == 0 {
        return Err(code::PROTOCOL_ERROR);
    }
    window
        .add(increment)
        .map_err(|Overflow| code::FLOW_CONTROL_ERROR)
}

pub(super) fn size(what: &'static str) -> Violation {
    Violation {
        code: code::FRAME_SIZE_ERROR,
        what,
    }
}

fn overflow(what: &'static str) -> Violation {
    Violation {
        code: code::FLOW_CONTROL_ERROR,
        what,
    }
}
