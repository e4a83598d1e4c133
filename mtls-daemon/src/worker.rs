//! A data thread: one runtime, one tunnel loop, one pool. A connection, its
//! tunnel and its timers live and die here; nothing on the path is shared.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;

use mtls_common::syn::Syn;
use rustls::crypto::aws_lc_rs;
use tokio::runtime;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::{AbortHandle, LocalSet, spawn_local};

use crate::addr::OriginalDst;
use crate::answers::Answers;
use crate::credentials::Credentials;
use crate::direct::Directs;
use crate::facts::Newest;
use crate::flow::{Flows, Snapshot};
use crate::health::Health;
use crate::heartbeat::Heartbeat;
use crate::inbound::{Arrived, Inbound};
use crate::kernel::{Handoff, ListenerKind};
use crate::listener::Door;
use crate::metrics::{Direction, Metrics, ThreadMetrics};
use crate::netns::Cookie;
use crate::outbound::{Captured, Held, Holds, Outbound};
use crate::pool::{FAR, Peers, Pool};
use crate::reason::Reason;
use crate::tls::Judging;
use crate::trace::ConnectionIds;
use crate::tunnel::{self, Cut, Loop};
use crate::tunnels::Tunnels;
use crate::turns::Turns;
use crate::workload::Workload;

/// What a worker is made of.
pub struct Setup {
    pub index: usize,
    pub facts: Newest,
    pub judging: Judging,
    pub metrics: Metrics,
    pub handoff: Handoff,
    pub tunnel: tunnel::Settings,
    pub heartbeat: Heartbeat,
    /// Hears of the thread's end, which never comes by itself.
    pub ended: mpsc::UnboundedSender<io::Error>,
}

/// What the control thread asks of a worker.
pub enum Command {
    /// Take the connections of a workload.
    Serve {
        workload: Arc<Workload>,
        listeners: Vec<(ListenerKind, TcpListener)>,
    },
    /// Answer an application that waits in connect().
    Hold {
        instance: Cookie,
        dialled: OriginalDst,
        syn: Syn,
    },
    /// The workload is gone: close its listeners, reset its connections.
    Withdraw(Cookie),
    /// Tell of every established connection.
    Connections(oneshot::Sender<Vec<Snapshot>>),
    /// Take nothing new; answer when the last connection has ended.
    Drain(oneshot::Sender<()>),
    /// Reset everything that is still open.
    Cut(Reason),
}

/// The control thread's end of a worker.
pub struct Handle {
    pub commands: mpsc::UnboundedSender<Command>,
    _thread: JoinHandle<()>,
}

impl Handle {
    pub async fn connections(&self) -> Vec<Snapshot> {
        let (answer, snapshot) = oneshot::channel();
        if self.commands.send(Command::Connections(answer)).is_err() {
            return Vec::new();
        }
        snapshot.await.unwrap_or_default()
    }
}

/// Start a data thread.
pub fn spawn(setup: Setup) -> io::Result<Handle> {
    let (commands, received) = mpsc::unbounded_channel();
    let ended = setup.ended.clone();
    let name = format!("worker-{}", setup.index);
    let thread = std::thread::Builder::new().name(name).spawn(move || {
        let error = match runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => LocalSet::new().block_on(&runtime, run(setup, received)),
            Err(error) => error,
        };
        // Nobody listens once the process is on its way out.
        let _ = ended.send(error);
    })?;
    Ok(Handle {
        commands,
        _thread: thread,
    })
}

/// Obey commands until the tunnel loop fails, which the process cannot survive.
async fn run(setup: Setup, mut commands: mpsc::UnboundedReceiver<Command>) -> io::Error {
    let tunnel_loop = match Loop::new(setup.tunnel.clone()) {
        Ok(tunnel_loop) => tunnel_loop,
        Err(error) => return error,
    };
    let worker = Worker::new(&setup, &tunnel_loop);
    spawn_local(setup.heartbeat.run());
    spawn_local(Rc::clone(&worker.flows).see_off());
    spawn_local(Rc::clone(&worker.flows).count_bytes());
    spawn_local(Rc::clone(&worker.flows).hold_to_the_rules());
    let turning = tunnel_loop.run();
    tokio::pin!(turning);
    loop {
        tokio::select! {
            error = &mut turning => return error,
            command = commands.recv() => match command {
                Some(command) => worker.obey(command),
                None => return io::Error::other("the control thread is gone"),
            },
        }
    }
}

struct Worker {
    facts: Newest,
    metrics: ThreadMetrics,
    credentials: Rc<Credentials>,
    flows: Rc<Flows>,
    tunnels: Rc<Tunnels>,
    directs: Rc<Directs>,
    outbound: Rc<Outbound>,
    inbound: Rc<Inbound>,
    /// By the workload's instance.
    served: RefCell<HashMap<Cookie, Served>>,
}

struct Served {
    workload: Arc<Workload>,
    /// Its places for connections that wait.
    pending: Arc<Semaphore>,
    /// Accepting tasks.
    doors: Vec<AbortHandle>,
}

impl Worker {
    fn new(setup: &Setup, tunnel_loop: &Loop) -> Self {
        let facts = &setup.facts;
        let metrics = setup.metrics.thread();
        let credentials = Rc::new(Credentials::new(setup.judging.clone()));
        let flows = Rc::new(Flows::new(metrics.clone(), facts.clone()));
        let tunnels = Rc::new(Tunnels::new(
            facts.clone(),
            setup.judging.clone(),
            metrics.clone(),
        ));
        let ids = Rc::new(ConnectionIds::new(
            aws_lc_rs::default_provider().secure_random,
        ));
        let pool = Rc::new(Pool {
            tunnel_loop: tunnel_loop.clone(),
            tunnels: Rc::clone(&tunnels),
            facts: facts.clone(),
            credentials: Rc::clone(&credentials),
            metrics: metrics.clone(),
            handshakes: Semaphore::new(facts.get().limits.handshakes_per_worker),
            peers: Peers::default(),
            far: FAR,
        });
        let directs = Rc::<Directs>::default();
        let outbound = Rc::new(Outbound {
            directs: Rc::clone(&directs),
            pool,
            facts: facts.clone(),
            handoff: setup.handoff.clone(),
            metrics: metrics.clone(),
            flows: Rc::clone(&flows),
            ids: Rc::clone(&ids),
            health: Health::default(),
            answers: Answers::default(),
            holds: Holds::default(),
        });
        let inbound = Rc::new(Inbound {
            tunnel_loop: tunnel_loop.clone(),
            tunnels: Rc::clone(&tunnels),
            facts: facts.clone(),
            credentials: Rc::clone(&credentials),
            handoff: setup.handoff.clone(),
            metrics: metrics.clone(),
            flows: Rc::clone(&flows),
            directs: Rc::clone(&directs),
            ids,
            handshakes: Turns::new(facts.get().limits.handshakes_per_worker),
        });
        let served = RefCell::default();
        Self {
            facts: facts.clone(),
            metrics,
            credentials,
            flows,
            tunnels,
            directs,
            outbound,
            inbound,
            served,
        }
    }

    fn obey(&self, command: Command) {
        match command {
            Command::Serve {
                workload,
                listeners,
            } => self.serve(&workload, listeners),
            Command::Hold {
                instance,
                dialled,
                syn,
            } => self.hold(instance, dialled, syn),
            Command::Withdraw(instance) => self.withdraw(instance),
            Command::Connections(answer) => {
                // The asker may have given up meanwhile.
                let _ = answer.send(self.flows.snapshot());
            }
            Command::Drain(done) => self.drain(done),
            Command::Cut(reason) => self.cut(None, reason),
        }
    }

    fn serve(&self, workload: &Arc<Workload>, listeners: Vec<(ListenerKind, TcpListener)>) {
        let pending = Arc::new(Semaphore::new(self.facts.get().limits.pending_per_workload));
        let mut doors = Vec::new();
        for (kind, listener) in listeners {
            let direction = match kind {
                ListenerKind::CaptureV4 | ListenerKind::CaptureV6 => Direction::Outbound,
                ListenerKind::TunnelV4
                | ListenerKind::TunnelV6
                | ListenerKind::PlainV4
                | ListenerKind::PlainV6 => Direction::Inbound,
            };
            let (of, pending) = (Arc::clone(workload), Arc::clone(&pending));
            let metrics = self.metrics.clone();
            let task = match Door::new(listener, of, direction, pending, metrics) {
                Ok(door) => match kind {
                    ListenerKind::CaptureV4 | ListenerKind::CaptureV6 => {
                        spawn_local(take_captured(door, Rc::clone(&self.outbound)))
                    }
                    ListenerKind::TunnelV4 | ListenerKind::TunnelV6 => {
                        spawn_local(take_tunnels(door, Rc::clone(&self.inbound)))
                    }
                    ListenerKind::PlainV4 | ListenerKind::PlainV6 => {
                        spawn_local(take_plain(door, Rc::clone(&self.inbound)))
                    }
                },
                Err(error) => {
                    // The listener is dropped and its slot empty: it refuses.
                    tracing::error!(%error, "cannot watch a listener");
                    continue;
                }
            };
            doors.push(task.abort_handle());
        }
        let served = Served {
            workload: Arc::clone(workload),
            pending,
            doors,
        };
        let mut all = self.served.borrow_mut();
        all.insert(workload.netns.cookie(), served);
    }

    fn hold(&self, instance: Cookie, dialled: OriginalDst, syn: Syn) {
        let served = self.served.borrow();
        // Of a workload that was withdrawn meanwhile the kernel asks again,
        // and then refuses, since it has no listener.
        if let Some(served) = served.get(&instance) {
            let held = Held {
                workload: Arc::clone(&served.workload),
                dialled,
                syn,
            };
            let pending = Arc::clone(&served.pending);
            Rc::clone(&self.outbound).hold(held, pending);
        }
    }

    fn withdraw(&self, instance: Cookie) {
        if let Some(served) = self.served.borrow_mut().remove(&instance) {
            served.doors.iter().for_each(AbortHandle::abort);
        }
        self.outbound.holds.forget(instance);
        self.cut(Some(instance), Reason::WorkloadRemoved);
        self.credentials.forget(instance);
    }

    fn cut(&self, instance: Option<Cookie>, reason: Reason) {
        self.tunnels.cut(instance, Cut(reason));
        self.directs.cut(instance, Cut(reason));
    }

    fn drain(&self, done: oneshot::Sender<()>) {
        for (_, served) in self.served.borrow_mut().drain() {
            served.doors.iter().for_each(AbortHandle::abort);
        }
        self.tunnels.drain();
        let (flows, tunnels) = (Rc::clone(&self.flows), Rc::clone(&self.tunnels));
        spawn_local(async move {
            flows.none().await;
            tunnels.none().await;
            // The control thread may have passed its deadline.
            let _ = done.send(());
        });
    }
}

async fn take_captured(door: Door, outbound: Rc<Outbound>) {
    // An application that has gone already leaves its note to us alone.
    let forget = |socket: &TcpStream, source| {
        outbound.original_dst(&door.workload, socket, source);
    };
    loop {
        let (socket, source, pass) = door.next(forget).await;
        let workload = Arc::clone(&door.workload);
        spawn_local(Rc::clone(&outbound).carry(Captured {
            socket,
            workload,
            source,
            pass,
        }));
    }
}

async fn take_plain(door: Door, inbound: Rc<Inbound>) {
    loop {
        let (socket, source, pass) = door.next(|_, _| {}).await;
        let workload = Arc::clone(&door.workload);
        spawn_local(Rc::clone(&inbound).take_plain(Arrived {
            socket,
            workload,
            source,
            pass,
        }));
    }
}

async fn take_tunnels(door: Door, inbound: Rc<Inbound>) {
    loop {
        let (socket, source, pass) = door.next(|_, _| {}).await;
        let workload = Arc::clone(&door.workload);
        spawn_local(Rc::clone(&inbound).serve(Arrived {
            socket,
            workload,
            source,
            pass,
        }));
    }
}
