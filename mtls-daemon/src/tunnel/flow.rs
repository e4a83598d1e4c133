//! One flow: an application's socket, its stream, and what is known of both.
//! About a hundred bytes while it is idle.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut, Read as _};
use std::mem::{self, MaybeUninit};
use std::net::TcpStream;
use std::task::Waker;

use socket2::SockRef;

use super::event_loop::Shared;
use super::frame::{self, Head, flag, kind};
use super::out::Out;
use super::outcome::{CarryEnd, TunnelEnd};
use super::poller::Token;
use super::request::ConnectRequest;
use super::settings::count;
use super::windows::{SendWindow, StreamWindow};

/// What a flow says before the next one's turn: with the frame's head it fills
/// exactly four TLS records.
pub(super) const QUANTUM: usize = 65_536 - frame::HEAD;
/// What goes behind a request at most: one TLS record.
const EARLY: usize = 16_384 - frame::HEAD;
/// Slices that go to the kernel in one call.
pub(super) const MAX_SLICES: usize = 64;
/// The tunnel of a flow that needs none any more.
pub(super) const NO_TUNNEL: u32 = u32::MAX;

/// A flow's slot and which flow in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FlowKey {
    pub(super) index: u32,
    pub(super) generation: u32,
}

/// What is known of a flow, one bit each.
pub(super) mod is {
    /// The application's socket has something to read, or may have.
    pub(in super::super) const READABLE: u16 = 1 << 0;
    /// The application will send no more; what it sent may still wait.
    pub(in super::super) const HALF_CLOSED: u16 = 1 << 1;
    /// The application's connection has failed. Sticky: the kernel tells an
    /// error once, and looks like an orderly end afterwards.
    pub(in super::super) const FAILED: u16 = 1 << 2;
    /// It stands in its tunnel's queue of ready flows.
    pub(in super::super) const QUEUED: u16 = 1 << 3;
    /// It waits for the connection's window.
    pub(in super::super) const STARVED: u16 = 1 << 4;
    /// The kernel tells when the socket takes bytes again.
    pub(in super::super) const WATCHED_OUT: u16 = 1 << 5;
    /// The peer was told 200, or has told us.
    pub(in super::super) const ANSWERED: u16 = 1 << 6;
    /// We have ended our half of the stream.
    pub(in super::super) const SENT_END: u16 = 1 << 7;
    /// The peer has ended its half.
    pub(in super::super) const GOT_END: u16 = 1 << 8;
    /// The application was told so.
    pub(in super::super) const SHUT: u16 = 1 << 9;
    /// The stream is over on the wire: not one more frame for it.
    pub(in super::super) const CLOSED: u16 = 1 << 10;
}

/// A flow's slot.
pub(super) struct Flow {
    pub(super) tunnel: u32,
    pub(super) stream: u32,
    generation: u32,
    state: u16,
    /// Bytes that were sent behind the request. Until the answer they are in
    /// the application's socket too.
    pub(super) early: u16,
    app: Option<TcpStream>,
    pub(super) send: SendWindow,
    pub(super) receive: StreamWindow,
    /// What the application has not taken yet: bounded by the stream's window.
    #[expect(clippy::box_collection, reason = "most flows never need it")]
    pending: Option<Box<VecDeque<u8>>>,
    pub(super) to_peer: u64,
    pub(super) from_peer: u64,
    /// Who waits for the answer, the reset or the end.
    pub(super) waiter: Option<Waker>,
    /// A request that was not fetched yet.
    pub(super) head: Option<Box<ConnectRequest>>,
    /// How it ended, until that is fetched.
    pub(super) outcome: Option<Box<Outcome>>,
}

/// How a flow ended.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The peer has answered with this status, which is not 2xx.
    Refused(u16),
    /// The peer has not looked at the stream.
    GoneAway,
    /// Any other end.
    Ended(CarryEnd),
}

/// The application's connection has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AppFailed;

/// What one read from an application gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// So many bytes, now in frames; with `end`, also the end of the stream.
    Bytes { n: usize, end: bool },
    /// The orderly end, alone.
    End,
    /// Nothing for now.
    Nothing,
}

impl Flow {
    pub(super) fn new(
        tunnel: u32,
        stream: u32,
        generation: u32,
        send: SendWindow,
        receive: StreamWindow,
    ) -> Self {
        Self {
            tunnel,
            stream,
            generation,
            state: 0,
            early: 0,
            app: None,
            send,
            receive,
            pending: None,
            to_peer: 0,
            from_peer: 0,
            waiter: None,
            head: None,
            outcome: None,
        }
    }

    pub(super) fn is(&self, bit: u16) -> bool {
        self.state & bit != 0
    }

    pub(super) fn set(&mut self, bits: u16) {
        self.state |= bits;
    }

    pub(super) fn clear(&mut self, bits: u16) {
        self.state &= !bits;
    }

    pub(super) fn has_ended(&self) -> bool {
        self.outcome.is_some()
    }

    /// Whether the application may have something for us: bytes, the end or
    /// an error, and after its end an error.
    pub(super) fn wants_service(&self) -> bool {
        let news = match self.is(is::SENT_END) {
            false => is::READABLE | is::HALF_CLOSED | is::FAILED,
            true => is::FAILED,
        };
        self.app.is_some() && self.is(news)
    }

    /// Puts what the application has said so far behind its request, and
    /// leaves it in the socket: a refused request can go elsewhere with it.
    pub(super) fn speak_early(&mut self, app: &TcpStream, out: &mut Out, window: usize) -> usize {
        let most = EARLY.min(window).min(self.send.open());
        let room = out.spare(frame::HEAD + most);
        // An error or the end will be there for whoever reads it.
        let n = app
            .peek(&mut room[frame::HEAD..frame::HEAD + most])
            .unwrap_or(0);
        if n > 0 {
            self.put_data_head(out, n, false);
            out.advance(n);
            self.send.spend(n);
            self.early = u16::try_from(n).unwrap_or(0);
        }
        n
    }

    /// The peer has accepted, and with the request what was sent behind it.
    fn forget_early(&mut self, app: &TcpStream, shared: &Shared) -> Result<(), AppFailed> {
        let early = usize::from(mem::take(&mut self.early));
        if early == 0 {
            return Ok(());
        }
        self.to_peer += early as u64;
        count(&shared.stats.bytes_to_peers, early as u64);
        // With this flag the kernel throws bytes away and copies none.
        let mut nowhere = [const { MaybeUninit::uninit() }; EARLY];
        match SockRef::from(app).recv_with_flags(&mut nowhere[..early], libc::MSG_TRUNC) {
            Ok(n) if n == early => Ok(()),
            _reset => Err(AppFailed),
        }
    }

    /// Takes the application's socket and has it watched.
    pub(super) fn attach(&mut self, index: u32, app: TcpStream, shared: &Shared) -> io::Result<()> {
        if self.forget_early(&app, shared).is_err() {
            self.set(is::FAILED);
        }
        shared.poller.watch_app(&app, self.token(index), false)?;
        self.app = Some(app);
        Ok(())
    }

    /// The key of the flow in this slot.
    pub(super) fn key(&self, index: u32) -> FlowKey {
        FlowKey {
            index,
            generation: self.generation,
        }
    }

    fn token(&self, index: u32) -> Token {
        Token::Flow(self.key(index))
    }

    /// Gives bytes of the peer to the application; what it does not take waits.
    /// Returns how many it took.
    pub(super) fn deliver(
        &mut self,
        index: u32,
        slices: &mut [IoSlice<'_>],
        shared: &Shared,
    ) -> Result<usize, AppFailed> {
        if self.is(is::FAILED) {
            return Err(AppFailed);
        }
        let mut rest = slices;
        let mut taken = 0;
        if let Some(app) = self.app.as_ref().filter(|_| self.pending.is_none()) {
            taken = send(app, rest)?;
            IoSlice::advance_slices(&mut rest, taken);
        }
        if !rest.is_empty() {
            let pending = self.pending.get_or_insert_default();
            rest.iter().for_each(|slice| pending.extend(&slice[..]));
            self.watch_out(index, shared)?;
        }
        Ok(self.took(taken, shared))
    }

    /// Gives what waits to the application. Returns how much it took.
    pub(super) fn drain(&mut self, index: u32, shared: &Shared) -> Result<usize, AppFailed> {
        if self.is(is::FAILED) {
            return Err(AppFailed);
        }
        let (Some(app), Some(pending)) = (&self.app, &mut self.pending) else {
            return Ok(0);
        };
        let (front, back) = pending.as_slices();
        let taken = send(app, &[IoSlice::new(front), IoSlice::new(back)])?;
        pending.drain(..taken);
        if pending.is_empty() {
            self.pending = None;
        } else {
            self.watch_out(index, shared)?;
        }
        Ok(self.took(taken, shared))
    }

    fn took(&mut self, n: usize, shared: &Shared) -> usize {
        self.from_peer += n as u64;
        count(&shared.stats.bytes_from_peers, n as u64);
        n
    }

    /// The kernel watches for room only from the first time that there is none.
    fn watch_out(&mut self, index: u32, shared: &Shared) -> Result<(), AppFailed> {
        let Some(app) = &self.app else { return Ok(()) };
        if !self.is(is::WATCHED_OUT) {
            // It fails only without kernel memory, and then nobody would ever
            // deliver the rest.
            shared
                .poller
                .watch_app(app, self.token(index), true)
                .map_err(|_no_memory| AppFailed)?;
            self.set(is::WATCHED_OUT);
        }
        Ok(())
    }

    /// Reads up to `window` bytes of the application straight into frames of
    /// at most `max_frame` behind `out`.
    pub(super) fn take(
        &mut self,
        out: &mut Out,
        window: usize,
        max_frame: usize,
    ) -> Result<Taken, AppFailed> {
        let Some(app) = &self.app else {
            return Ok(Taken::Nothing);
        };
        let want = window.min(QUANTUM);
        let size = max_frame.min(want);
        let mut room = out.spare(want + want.div_ceil(size) * frame::HEAD);
        let mut slices: [_; 4] = std::array::from_fn(|_| IoSliceMut::new(&mut []));
        let mut used = 0;
        while used * size < want && used < slices.len() {
            let (payload, rest) = room[frame::HEAD..].split_at_mut(size.min(want - used * size));
            slices[used] = IoSliceMut::new(payload);
            room = rest;
            used += 1;
        }
        let read = loop {
            match (&mut &*app).read_vectored(&mut slices[..used]) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        let n = match read {
            Ok(0) if self.is(is::FAILED) => return Err(AppFailed),
            Ok(0) => return Ok(Taken::End),
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock && !self.is(is::FAILED) => {
                self.clear(is::READABLE);
                return Ok(Taken::Nothing);
            }
            Err(_reset_or_timed_out) => return Err(AppFailed),
        };
        // A short read has emptied the socket. If its end was announced before,
        // that was the end, and no further read has to find it.
        let short = n < want;
        let end = short && self.is(is::HALF_CLOSED) && !self.is(is::FAILED);
        if short {
            self.clear(is::READABLE);
        }
        let mut left = n;
        while left > 0 {
            let len = left.min(size);
            left -= len;
            self.put_data_head(out, len, end && left == 0);
            out.advance(len);
        }
        Ok(Taken::Bytes { n, end })
    }

    fn put_data_head(&self, out: &mut Out, len: usize, last: bool) {
        let head = Head {
            len: u32::try_from(len).unwrap_or(0),
            kind: kind::DATA,
            flags: if last { flag::END_STREAM } else { 0 },
            stream: self.stream,
        };
        out.put(&head.bytes());
    }

    /// Whether the application has ended its half and nothing of it waits:
    /// the one thing that can be said with the window shut.
    pub(super) fn at_end(&self) -> bool {
        let Some(app) = &self.app else { return false };
        self.is(is::HALF_CLOSED) && !self.is(is::FAILED) && matches!(app.peek(&mut [0]), Ok(0))
    }

    /// Tells the application that the peer has ended its half, once it has
    /// taken everything. With both halves over, closing tells it.
    ///
    /// `SO_LINGER {1,0}` stays on: shutdown does not look at it, and until the
    /// other half has ended in order too, the loss of this socket, even by the
    /// daemon's own death, has to be a reset.
    pub(super) fn shut(&mut self) -> Result<(), AppFailed> {
        let Some(app) = &self.app else { return Ok(()) };
        if self.is(is::GOT_END)
            && !self.is(is::SENT_END)
            && !self.is(is::SHUT)
            && self.pending.is_none()
        {
            app.shutdown(std::net::Shutdown::Write)
                .map_err(|_not_connected| AppFailed)?;
            self.set(is::SHUT);
        }
        Ok(())
    }

    /// Whether both halves have ended and the application has everything.
    pub(super) fn is_done(&self) -> bool {
        self.is(is::SENT_END)
            && self.is(is::GOT_END)
            && self.pending.is_none()
            && self.app.is_some()
    }

    /// Ends the flow: closes the application's socket, in order only if all is
    /// done, and tells whoever waits.
    pub(super) fn end(&mut self, outcome: Outcome, shared: &mut Shared) {
        if self.has_ended() {
            return;
        }
        if let Some(app) = self.app.take()
            && matches!(outcome, Outcome::Ended(CarryEnd::Done))
        {
            // Without this, closing would throw away what the kernel has not
            // delivered yet. If it fails, the reset is the honest end.
            let _ = SockRef::from(&app).set_linger(None);
        }
        self.pending = None;
        self.head = None;
        self.set(is::CLOSED);
        self.outcome = Some(Box::new(outcome));
        shared.wake(&mut self.waiter);
    }

    /// The tunnel has ended. A flow whose stream was over by then still
    /// delivers what waits; any other is lost.
    pub(super) fn lose_tunnel(&mut self, end: &TunnelEnd, shared: &mut Shared) {
        let grown = self.receive.release(shared.settings.initial_window);
        shared.growth.give(grown);
        self.tunnel = NO_TUNNEL;
        if !(self.is(is::SENT_END) && self.is(is::GOT_END) && self.app.is_some()) {
            self.end(Outcome::Ended(CarryEnd::TunnelLost(end.clone())), shared);
        }
    }
}

/// Writes to an application what it takes now.
fn send(app: &TcpStream, slices: &[IoSlice<'_>]) -> Result<usize, AppFailed> {
    loop {
        // Without SIGPIPE, whatever the process does with it.
        match SockRef::from(app).send_vectored_with_flags(slices, libc::MSG_NOSIGNAL) {
            Ok(n) => return Ok(n),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(0),
            Err(_reset_or_closed) => return Err(AppFailed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 10,000 idle flows a node: what each of them holds here, besides an
    /// entry in its tunnel's map and the buffers of the kernel.
    #[test]
    fn an_idle_flow_is_small() {
        assert!(size_of::<Flow>() <= 112, "{} bytes", size_of::<Flow>());
    }
}
