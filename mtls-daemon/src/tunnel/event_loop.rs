//! The loop of a data thread: events set flags, tunnels that have something to
//! do take their turns, and everything of a turn leaves in one write.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use nix::sys::epoll::EpollEvent;
use slab::Slab;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};
use tokio::time::{Instant, Sleep};

use super::endpoint::{Endpoint, Flows};
use super::flow::{FlowKey, NO_TUNNEL, is};
use super::frame::{DEFAULT_WINDOW, MAX_WINDOW};
use super::out::Out;
use super::poller::{BATCH, Event, NestedPoller, Poller, Token};
use super::serve::finish_delivery;
use super::settings::{Settings, Stats, count};
use super::windows::{Growth, Millis};

/// What one tunnel reads, and what it serves, before the next one's turn.
pub(super) const TURN: usize = 512 << 10;
/// What is read from a tunnel's socket at once, and what of it is opened at once.
const SCRATCH: usize = 256 << 10;
/// What a turn seals at once, and a quantum more.
const OUT: usize = 208 << 10;
/// When a loop without tunnels looks at its clock.
const FAR: Duration = Duration::from_secs(24 * 3_600);

/// What all tunnels and flows of a loop share.
pub(super) struct Shared {
    pub(super) poller: Rc<Poller>,
    pub(super) settings: Settings,
    pub(super) stats: Rc<Stats>,
    pub(super) growth: Growth,
    /// The time of the turn.
    pub(super) now: Instant,
    pub(super) millis: Millis,
    start: Instant,
    /// A deadline may have come nearer.
    pub(super) rearm: bool,
    /// Whoever is to be woken, once the state is not borrowed any more.
    pub(super) wakers: Vec<Waker>,
    generation: u32,
    /// Large buffers, of which one is enough for all tunnels.
    pub(super) wire: Vec<u8>,
    pub(super) plain: Vec<u8>,
    pub(super) out: Out,
}

/// Everything that a loop knows.
pub(super) struct State {
    pub(super) tunnels: Slab<Endpoint>,
    pub(super) flows: Flows,
    pub(super) shared: Shared,
    /// Tunnels that have something to do.
    due: VecDeque<u32>,
}

/// A loop, as its handles see it.
pub(super) struct Inner {
    state: RefCell<State>,
    poll: AsyncFd<NestedPoller>,
    /// The task that runs the loop.
    runner: RefCell<Option<Waker>>,
    pub(super) stats: Rc<Stats>,
    /// Handles that were dropped while the state was borrowed, as a waker that
    /// holds the last reference to a task may do.
    orphans: RefCell<Vec<Orphan>>,
    busy: Cell<bool>,
}

/// What a dropped handle leaves behind.
#[derive(Clone, Copy, Debug)]
pub(super) enum Orphan {
    Flow(FlowKey),
    Tunnel(u32),
    Incoming(u32),
    Watcher { tunnel: u32, nth: usize },
}

impl Inner {
    pub(super) fn new(settings: Settings) -> io::Result<Self> {
        let shared = Shared::new(settings)?;
        let poll = NestedPoller::nest(&shared.poller)?;
        let stats = Rc::clone(&shared.stats);
        Ok(Self {
            state: RefCell::new(State {
                tunnels: Slab::new(),
                flows: Slab::new(),
                shared,
                due: VecDeque::new(),
            }),
            poll,
            runner: RefCell::new(None),
            stats,
            orphans: RefCell::new(Vec::new()),
            busy: Cell::new(false),
        })
    }

    /// Works on the state for a handle; then wakes whoever has to know.
    pub(super) fn with<R>(&self, f: impl FnOnce(&mut State) -> R) -> R {
        let (result, wakers, due) = {
            let mut state = self.state.borrow_mut();
            state.shared.look_at_clock();
            let result = f(&mut state);
            self.bury(&mut state);
            let wakers = std::mem::take(&mut state.shared.wakers);
            let due = !state.due.is_empty() || state.shared.rearm;
            (result, wakers, due)
        };
        wakers.into_iter().for_each(Waker::wake);
        if due
            && !self.busy.get()
            && let Some(runner) = &*self.runner.borrow()
        {
            runner.wake_by_ref();
        }
        result
    }

    /// A handle was dropped.
    pub(super) fn orphan(&self, orphan: Orphan) {
        self.orphans.borrow_mut().push(orphan);
        if self.state.try_borrow_mut().is_ok() {
            self.with(|_| ());
        }
    }

    fn bury(&self, state: &mut State) {
        // Not borrowed while one is buried: that may leave another one.
        let next = || self.orphans.borrow_mut().pop();
        while let Some(orphan) = next() {
            state.bury(orphan);
        }
    }

    /// Turns the loop until the kernel refuses to tell events.
    pub(super) async fn run(&self) -> io::Error {
        let mut sleep = pin!(tokio::time::sleep(FAR));
        let mut events = [EpollEvent::empty(); BATCH];
        loop {
            let woken = poll_fn(|cx| self.poll_woken(cx, sleep.as_mut())).await;
            let (mut ready, timer) = match woken {
                Ok(woken) => woken,
                Err(e) => return e,
            };
            self.busy.set(true);
            let turned = self.turn(&mut events, ready.is_some(), timer);
            self.busy.set(false);
            match turned {
                Err(e) => return e,
                Ok(Turned { fetched, more }) => {
                    if fetched < BATCH
                        && let Some(ready) = &mut ready
                    {
                        ready.clear_ready();
                    }
                    // Whatever else the thread does shall have its turn too.
                    if more {
                        tokio::task::yield_now().await;
                    }
                }
            }
        }
    }

    /// Ready when there are events, tunnels with work, or a deadline passed.
    fn poll_woken<'s>(
        &'s self,
        cx: &mut Context<'_>,
        mut sleep: Pin<&mut Sleep>,
    ) -> Poll<io::Result<(Option<AsyncFdReadyGuard<'s, NestedPoller>>, bool)>> {
        let mut runner = self.runner.borrow_mut();
        if !runner.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
            *runner = Some(cx.waker().clone());
        }
        drop(runner);
        let due = {
            let mut state = self.state.borrow_mut();
            if std::mem::take(&mut state.shared.rearm) {
                let deadline = state.deadline();
                sleep
                    .as_mut()
                    .reset(deadline.unwrap_or_else(|| Instant::now() + FAR));
            }
            !state.due.is_empty()
        };
        let timer = sleep.poll(cx).is_ready();
        let ready = match self.poll.poll_read_ready(cx) {
            Poll::Ready(Ok(guard)) => Some(guard),
            Poll::Ready(Err(e)) => return Poll::Ready(Err(e)),
            Poll::Pending => None,
        };
        if timer || due || ready.is_some() {
            Poll::Ready(Ok((ready, timer)))
        } else {
            Poll::Pending
        }
    }

    fn turn(
        &self,
        events: &mut [EpollEvent; BATCH],
        ready: bool,
        timer: bool,
    ) -> io::Result<Turned> {
        self.with(|state| {
            let poller = Rc::clone(&state.shared.poller);
            let fetched = if ready { poller.fetch(events)? } else { &[] };
            for event in fetched {
                state.event(Event::read(event));
            }
            if timer {
                state.tick();
            }
            if fetched.is_empty() && state.due.is_empty() {
                return Ok(Turned {
                    fetched: 0,
                    more: false,
                });
            }
            count(&state.shared.stats.turns, 1);
            for _ in 0..state.due.len() {
                state.turn_next();
            }
            Ok(Turned {
                fetched: fetched.len(),
                more: !state.due.is_empty() || fetched.len() == BATCH,
            })
        })
    }
}

/// What a turn has done.
struct Turned {
    fetched: usize,
    more: bool,
}

impl State {
    fn event(&mut self, event: Event) {
        match event.token {
            Token::Tunnel(index) => {
                if let Some(tunnel) = self.tunnels.get_mut(index as usize) {
                    tunnel.event(event);
                }
                self.schedule(index);
            }
            Token::Flow(key) => self.flow_event(key, event),
        }
    }

    fn flow_event(&mut self, key: FlowKey, event: Event) {
        let Some(flow) = self.flows.get_mut(key.index as usize) else {
            return;
        };
        if flow.key(key.index) != key || flow.has_ended() {
            return;
        }
        if event.readable || event.half_closed {
            flow.set(is::READABLE);
        }
        if event.half_closed {
            flow.set(is::HALF_CLOSED);
        }
        // Hung up without our having ended our half: a reset, of which the
        // error was told to somebody else.
        if event.failed || event.hung_up && !flow.is(is::SHUT) {
            flow.set(is::FAILED | is::READABLE);
        }
        let index = flow.tunnel;
        let Some(tunnel) = self.tunnels.get_mut(index as usize) else {
            finish_delivery(flow, key.index, &mut self.shared);
            return;
        };
        if event.writable {
            tunnel.drain_app(key.index, &mut self.flows, &mut self.shared);
        }
        tunnel.enqueue(key.index, &mut self.flows);
        self.schedule(index);
    }

    /// Puts a tunnel into the queue if a turn would find something to do.
    pub(super) fn schedule(&mut self, index: u32) {
        if let Some(tunnel) = self.tunnels.get_mut(index as usize)
            && !tunnel.due
            && tunnel.has_work()
        {
            tunnel.due = true;
            self.due.push_back(index);
        }
    }

    fn turn_next(&mut self) {
        let Some(index) = self.due.pop_front() else {
            return;
        };
        let Some(tunnel) = self.tunnels.get_mut(index as usize) else {
            return;
        };
        tunnel.due = false;
        tunnel.turn(&mut self.flows, &mut self.shared);
        if tunnel.is_gone() {
            self.tunnels.remove(index as usize);
        } else {
            self.schedule(index);
        }
    }

    fn tick(&mut self) {
        for index in 0..self.tunnels.capacity() {
            if let Some(tunnel) = self.tunnels.get_mut(index) {
                tunnel.tick(&mut self.flows, &mut self.shared);
                let (index, gone) = (tunnel.index, tunnel.is_gone());
                if gone && !tunnel.due {
                    self.tunnels.remove(index as usize);
                } else {
                    self.schedule(index);
                }
            }
        }
        self.shared.rearm = true;
    }

    fn deadline(&self) -> Option<Instant> {
        self.tunnels
            .iter()
            .filter_map(|(_, tunnel)| tunnel.deadline(&self.shared))
            .min()
    }

    fn bury(&mut self, orphan: Orphan) {
        match orphan {
            Orphan::Flow(key) => self.drop_flow(key),
            Orphan::Watcher { tunnel, nth } => {
                if let Some(tunnel) = self.tunnels.get_mut(tunnel as usize) {
                    tunnel.watchers.try_remove(nth);
                }
            }
            Orphan::Incoming(index) => {
                if let Some(tunnel) = self.tunnels.get_mut(index as usize) {
                    tunnel.refuse_incoming(&mut self.flows, &mut self.shared);
                }
                self.schedule(index);
            }
            Orphan::Tunnel(index) => {
                let Some(tunnel) = self.tunnels.get_mut(index as usize) else {
                    return;
                };
                tunnel.unheld = true;
                tunnel.drain(&mut self.shared);
                if tunnel.is_gone() && !tunnel.due {
                    self.tunnels.remove(index as usize);
                } else {
                    self.schedule(index);
                }
            }
        }
    }

    /// Nobody waits for a flow any more: what has not ended is reset.
    fn drop_flow(&mut self, key: FlowKey) {
        let Some(flow) = self.flows.get(key.index as usize) else {
            return;
        };
        if flow.key(key.index) != key {
            return;
        }
        let index = flow.tunnel;
        if let Some(tunnel) = self.tunnels.get_mut(index as usize) {
            tunnel.cancel(key.index, &mut self.flows, &mut self.shared);
        }
        self.flows.try_remove(key.index as usize);
        if self.flows.is_empty() {
            self.flows.shrink_to_fit();
        }
        if index != NO_TUNNEL {
            self.schedule(index);
        }
    }
}

impl Shared {
    pub(super) fn new(mut settings: Settings) -> io::Result<Self> {
        // Below the defaults of HTTP/2, a peer that has not seen our SETTINGS
        // would break limits it cannot know.
        settings.initial_window = settings.initial_window.clamp(DEFAULT_WINDOW, MAX_WINDOW);
        settings.max_window = settings
            .max_window
            .clamp(settings.initial_window, MAX_WINDOW);
        settings.far_window = settings.far_window.min(MAX_WINDOW);
        settings.connection_window = settings.connection_window.clamp(DEFAULT_WINDOW, MAX_WINDOW);
        let now = Instant::now();
        Ok(Self {
            poller: Rc::new(Poller::new()?),
            growth: Growth::new(settings.loop_growth),
            settings,
            stats: Rc::default(),
            now,
            millis: 0,
            start: now,
            rearm: false,
            wakers: Vec::new(),
            generation: 0,
            wire: vec![0; SCRATCH],
            plain: vec![0; SCRATCH],
            out: Out::with_room(OUT),
        })
    }

    fn look_at_clock(&mut self) {
        self.now = Instant::now();
        let passed = (self.now - self.start).as_millis() & u128::from(u32::MAX);
        self.millis = u32::try_from(passed).unwrap_or(0);
    }

    /// A number that no living flow has.
    pub(super) fn next_generation(&mut self) -> u32 {
        // Below the bit that marks a tunnel's token.
        self.generation = (self.generation + 1) & (u32::MAX >> 1);
        self.generation
    }

    /// Wakes whoever waits, when the state is not borrowed any more.
    pub(super) fn wake(&mut self, waiter: &mut Option<Waker>) {
        self.wakers.extend(waiter.take());
    }
}
