//! The end of a tunnel, and what leads to it: draining, keepalive, the last
//! words.

use std::collections::VecDeque;
use std::io::{self, Read as _};
use std::net::Shutdown;
use std::time::Duration;

use tokio::time::Instant;

use super::control::OUR_PING;
use super::endpoint::{Draining, Endpoint, Flows, Role};
use super::event_loop::Shared;
use super::frame::{self, code};
use super::outcome::{CarryEnd, Cut, TunnelEnd};
use super::settings::count;
use super::streams::Streams;

/// How long an ended tunnel waits for the peer to take the last words.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// What an ended tunnel still reads in one turn, so that closing the socket
/// with unread bytes in it does not destroy them.
const LAST_READ: usize = 256 << 10;

impl Endpoint {
    /// Takes no new flows. The client says so once; the server first asks the
    /// peer to stop and lets what is on the way arrive (RFC 9113, 6.8).
    pub(super) fn drain(&mut self, shared: &mut Shared) {
        if self.draining != Draining::No || self.end.is_some() {
            return;
        }
        match self.role {
            Role::Client => {
                frame::put_goaway(&mut self.out, 0, code::NO_ERROR);
                self.draining = Draining::Final;
            }
            Role::Server => {
                frame::put_goaway(&mut self.out, frame::MAX_STREAM, code::NO_ERROR);
                self.draining = Draining::Announced;
                self.ping(shared);
            }
        }
    }

    pub(super) fn ping(&mut self, shared: &mut Shared) {
        frame::put_ping(&mut self.out, false, OUR_PING);
        self.pinged = Some(shared.now);
        shared.rearm = true;
    }

    pub(super) fn is_drained(&self) -> bool {
        self.flows == 0
            && self.end.is_none()
            && (self.draining == Draining::Final || self.going_away.is_some())
    }

    /// Cuts every flow and ends the tunnel.
    pub(super) fn abort(&mut self, why: Cut, flows: &mut Flows, shared: &mut Shared) {
        if self.end.is_some() {
            return;
        }
        let mut streams: Vec<u32> = self.streams.values().copied().collect();
        streams.sort_unstable();
        for index in streams {
            self.reset(index, code::CANCEL, CarryEnd::Cut(why), flows, shared);
        }
        self.finish(TunnelEnd::Cut(why), flows, shared);
    }

    /// The tunnel is over: its flows are lost, and everybody is told.
    pub(super) fn finish(&mut self, end: TunnelEnd, flows: &mut Flows, shared: &mut Shared) {
        if self.end.is_some() {
            return;
        }
        let goaway = match &end {
            TunnelEnd::Violation(violation) => {
                count(&shared.stats.tunnel_violations, 1);
                if violation.is_flood() {
                    count(&shared.stats.floods, 1);
                }
                Some(violation.code)
            }
            TunnelEnd::Drained
            | TunnelEnd::Cut(_)
            | TunnelEnd::ClosedByPeer
            | TunnelEnd::PeerError(_) => Some(code::NO_ERROR),
            TunnelEnd::Unresponsive => {
                count(&shared.stats.unresponsive, 1);
                None
            }
            TunnelEnd::Truncated | TunnelEnd::Tls(_) | TunnelEnd::Io(_) => None,
        };
        if let Some(code) = goaway {
            let last = match self.role {
                Role::Client => 0,
                Role::Server => self.last_stream,
            };
            frame::put_goaway(&mut self.out, last, code);
        }
        if matches!(end, TunnelEnd::Io(_)) {
            self.socket = None;
        }
        for (_, flow) in flows.iter_mut() {
            if flow.tunnel == self.index {
                flow.lose_tunnel(&end, shared);
            }
        }
        for key in self.incoming.drain(..) {
            flows.try_remove(key.index as usize);
        }
        self.streams = Streams::default();
        self.ready = VecDeque::new();
        self.starved = Vec::new();
        self.flows = 0;
        self.end = Some(end);
        self.closing = Some(shared.now);
        shared.rearm = true;
        shared.wake(&mut self.incoming_waiter);
        shared.wakers.extend(self.watchers.drain());
    }

    /// Says the last words, and closes the socket when the peer has heard them.
    pub(super) fn wind_down(&mut self, shared: &mut Shared) {
        if self.writable
            && let Some(socket) = &self.socket
        {
            let last = !self.said_last;
            self.said_last = true;
            match self.records.send(self.out.filled_mut(), last, socket) {
                Ok(unsent) => {
                    self.unsent = unsent;
                    self.writable = unsent == 0;
                    if unsent == 0 {
                        let _ = socket.shutdown(Shutdown::Write);
                    }
                }
                Err(_gone) => self.socket = None,
            }
            self.out.clear();
        }
        let mut left = LAST_READ;
        while self.readable
            && left > 0
            && let Some(socket) = &mut self.socket
        {
            match socket.read(&mut shared.wire) {
                Ok(0) => self.socket = None,
                Ok(n) => left = left.saturating_sub(n),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.readable = false,
                Err(_reset) => self.socket = None,
            }
        }
    }

    /// When time alone will have something to do for this tunnel.
    pub(super) fn deadline(&self, shared: &Shared) -> Option<Instant> {
        let settings = &shared.settings;
        self.socket.as_ref()?;
        Some(match (self.closing, self.pinged) {
            (Some(since), _) => since + LAST_WORDS,
            (None, Some(since)) => since + settings.ping_timeout,
            (None, None) => self.heard + settings.ping_after,
        })
    }

    /// The deadline has passed, or another tunnel's.
    pub(super) fn tick(&mut self, flows: &mut Flows, shared: &mut Shared) {
        if self.deadline(shared).is_none_or(|at| at > shared.now) {
            return;
        }
        if self.closing.is_some() {
            self.socket = None;
        } else if self.pinged.is_some() {
            self.finish(TunnelEnd::Unresponsive, flows, shared);
        } else {
            self.ping(shared);
        }
    }
}
