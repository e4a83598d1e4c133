//! The daemon as a whole: the only file that knows every part, puts them
//! together in an order that is never open, and takes them apart again.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use thiserror::Error;
use tokio::runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at, timeout};

use crate::admin::view::Phase;
use crate::cgroup2::Cgroup2Error;
use crate::clock::Clock;
use crate::config::{Config, VethGate};
use crate::facts::{Facts, Newest};
use crate::heartbeat::Heartbeats;
use crate::identity::{IdentityStore, Timings};
use crate::kernel::{self, Armed, Events, Kernel, KernelError};
use crate::kubernetes::{self, FromNode, KubernetesError, Snapshot};
use crate::memory::{self, Memory};
use crate::metrics::Metrics;
use crate::netns::Netns;
use crate::node::{InstallError, Node, Origin, PluginError, Policies};
use crate::reason::Reason;
use crate::rights::{self, Caller};
use crate::tls::Judging;
use crate::tunnel;
use crate::worker::{self, Command, Setup};
use crate::{admin, cgroup2};

/// How often the node looks whether namespaces and hooks are still in place;
/// most changes are told by the kernel at once.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// When memory that a burst has left is given back.
const TIDY_EVERY: Duration = Duration::from_secs(10);

/// So long the start waits for the cluster; enforcement does not end meanwhile.
const FIRST_NEWS: Duration = Duration::from_secs(5);

/// What waits to be told the cluster.
const NOTICES: usize = 64;

/// Addresses that wait for somebody to ask the cluster about them.
const QUESTIONS: usize = 1024;

/// What stops the daemon.
#[derive(Debug, Error)]
pub enum AppError {
    #[error("{0}")]
    Kernel(#[from] KernelError),
    #[error("{0}")]
    Install(#[from] InstallError),
    #[error("{0}")]
    Admin(#[from] admin::AdminError),
    #[error("{0}")]
    Cgroup2(#[from] Cgroup2Error),
    #[error("{0}")]
    Kubernetes(#[from] KubernetesError),
    #[error("{0}")]
    Plugin(#[from] PluginError),
    #[error("starting a thread's runtime")]
    Runtime(#[source] io::Error),
    #[error("starting a worker")]
    Worker(#[source] io::Error),
    #[error("a worker ended: {0}")]
    WorkerEnded(io::Error),
    #[error("reading the host's network namespace")]
    Host(#[source] io::Error),
    #[error("the helper that enters network namespaces has ended")]
    HelperEnded,
    #[error("giving up rights")]
    Rights(#[source] io::Error),
    #[error("waiting for signals")]
    Signals(#[source] io::Error),
    #[error("raising the limit of open files")]
    Descriptors(#[source] nix::Error),
}

/// Run until SIGTERM or SIGINT, or until something fails that cannot be
/// mended in this process. What is attached stays attached either way.
pub fn run(config: Config, path: PathBuf) -> Result<(), AppError> {
    memory::settle();
    raise_descriptor_limit().map_err(AppError::Descriptors)?;
    // Private keys stay out of core dumps and away from other processes.
    if let Err(error) = nix::sys::prctl::set_dumpable(false) {
        tracing::warn!(%error, "core dumps could not be switched off");
    }
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(AppError::Runtime)?;
    LocalSet::new().block_on(&runtime, daemon(config, path))
}

/// Attach before a daemon has ever run, with nobody known but the host: whatever
/// begins in a network namespace of its own is refused until a daemon knows it.
/// What is attached already stays as it is.
pub fn arm(config: &Config) -> Result<Armed, KernelError> {
    if Kernel::is_attached(&config.kernel.pins) {
        return Ok(Armed::Before);
    }
    let mut kernel = Kernel::open(&kernel_options(config))?;
    let node = &config.node;
    kernel.set_policy(node.unknown, node.outside, config.network.udp)?;
    kernel.exempt_nobody()?;
    kernel.attach()?;
    Ok(Armed::Now)
}

fn kernel_options(config: &Config) -> kernel::Options {
    let cluster = config.kubernetes.as_ref();
    kernel::Options {
        cgroup: config.kernel.cgroup.clone(),
        pins: config.kernel.pins.clone(),
        tunnel_port: config.network.tunnel_port,
        prober: cluster.and_then(|cluster| cluster.kubelet_cgroup.clone()),
        veth_gate: config.kernel.veth_gate == VethGate::On,
    }
}

async fn daemon(config: Config, path: PathBuf) -> Result<(), AppError> {
    let clock = Clock::system();
    let metrics = Metrics::new(clock.now());
    let heartbeats = Heartbeats::new();
    spawn_local(heartbeats.expect("control").run());

    let mut kernel = Kernel::open(&kernel_options(&config))?;
    let events = kernel.events()?;
    // Before a thread inherits them, and before any byte from outside is read.
    give_up_rights().map_err(AppError::Rights)?;
    let (facts, newest) = watch::channel(Arc::new(Facts::new(&config, Arc::default(), &[])));
    let (ask, questions) = mpsc::channel(QUESTIONS);
    let (notices, noticed) = mpsc::channel(NOTICES);
    let from_node = FromNode {
        questions,
        notices: noticed,
    };
    let cgroup2 = match &config.kernel.cgroup {
        Some(folder) => cgroup2::around(folder)?,
        None => cgroup2::mount()?,
    };
    let mut cluster = match &config.kubernetes {
        Some(cluster) => Some(kubernetes::start(cluster, &config, &cgroup2, from_node).await?),
        None => None,
    };
    let (report, ended) = mpsc::unbounded_channel();
    let parts = Parts {
        metrics: &metrics,
        heartbeats: &heartbeats,
        ended: report,
    };
    let identities = IdentityStore::new(config.identity.clone(), clock.clone(), Timings::default());
    let judging = Judging {
        clock: clock.clone(),
        skew: config.identity.clock_skew,
        revocations: identities.revocations(),
    };
    let workers = parts.workers(&config, &Newest::new(newest, ask), &judging, &kernel)?;
    let listen = (config.admin.socket.clone(), config.metrics.listen);

    let node = Rc::new(Node {
        config: RefCell::new(Arc::new(config.clone())),
        cluster: RefCell::default(),
        notices,
        origin: Origin {
            path,
            started: clock.now(),
            loaded: Cell::new(clock.now()),
            reload_error: RefCell::default(),
            policies: Policies::default(),
            restart_needed: RefCell::default(),
            added: RefCell::default(),
        },
        host: Netns::host().map_err(AppError::Host)?,
        cgroup2,
        kernel: RefCell::new(kernel),
        workers,
        facts,
        identities,
        metrics: metrics.clone(),
        counts: metrics.thread(),
        clock,
        workloads: RefCell::new(BTreeMap::new()),
        newcomers: RefCell::default(),
        changes: watch::Sender::new(()),
        phase: RefCell::new(Phase::Starting),
        pins_error: RefCell::default(),
        plugin: RefCell::default(),
        leaving: RefCell::default(),
    });
    admin::serve(Rc::clone(&node), metrics, heartbeats, listen).await?;
    if let Some(cluster) = &mut cluster {
        // Pods that run already had better be known before the hooks are.
        let known = cluster.wait_for(|snapshot| snapshot.is_enough());
        let _ = timeout(FIRST_NEWS, known).await;
        (node.cluster).replace(Some(Arc::clone(&cluster.borrow_and_update())));
    }
    node.metrics.config_loaded(node.clock.now());
    node.heed_own();
    let begun = match node.is_leaving() {
        true => Ok(()),
        false => begin(&node, config).await,
    };
    let outcome = match begun {
        Ok(()) => serve(&node, events, cluster, ended).await,
        Err(error) => Err(error),
    };
    // Without its helper it can dial nobody: the next daemon had better come
    // soon.
    if !matches!(outcome, Err(AppError::HelperEnded)) {
        node.leave_plugin().await;
        let limit = match node.is_asked_back() {
            // What is not enforced meanwhile had better be soon.
            true => Duration::ZERO,
            false => node.config.borrow().limits.drain,
        };
        drain(&node, limit).await;
    }
    outcome
}

/// Puts everything in its place, and attaches.
async fn begin(node: &Rc<Node>, config: Config) -> Result<(), AppError> {
    node.install(config)?;
    // Last: from here on enrolled connections come to us, and all that they
    // meet is in place.
    node.kernel.borrow_mut().attach()?;
    node.enter(Phase::Serving);
    node.cut_earlier_connections();
    tracing::info!("serving");
    Ok(node.install_plugin().await?)
}

/// What entering network namespaces takes is with the helper from here on.
fn give_up_rights() -> io::Result<()> {
    rights::keep(&rights::OF_THE_DAEMON)?;
    let held = rights::of_the_process()?;
    match held
        .iter()
        .find(|right| !rights::OF_THE_DAEMON.contains(right))
    {
        None => rights::refuse_calls(Caller::Daemon),
        Some(right) => Err(io::Error::other(format!("a thread still holds {right}"))),
    }
}

/// Keep the node in order until a signal ends it.
async fn serve(
    node: &Node,
    mut events: Events,
    mut cluster: Option<watch::Receiver<Arc<Snapshot>>>,
    mut ended: Ended,
) -> Result<(), AppError> {
    let on = |kind| signal(kind).map_err(AppError::Signals);
    let mut terminate = on(SignalKind::terminate())?;
    let mut interrupt = on(SignalKind::interrupt())?;
    let mut hangup = on(SignalKind::hangup())?;
    // The helper is the only child.
    let mut child = on(SignalKind::child())?;
    let mut look = interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut memory = Memory::after_start();
    let mut tidy = interval_at(Instant::now() + TIDY_EVERY, TIDY_EVERY);
    tidy.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = hangup.recv() => node.reload(),
            _ = child.recv() => return Err(AppError::HelperEnded),
            _ = look.tick() => node.look(),
            _ = tidy.tick() => memory.look(),
            event = events.next() => node.heed(&event),
            snapshot = news_of(&mut cluster) => {
                node.follow_cluster(snapshot);
                if node.is_asked_back() {
                    node.come_back();
                    return Ok(());
                }
            }
            Some(error) = ended.recv() => return Err(AppError::WorkerEnded(error)),
        }
    }
}

/// Never returns where there is no cluster.
async fn news_of(cluster: &mut Option<watch::Receiver<Arc<Snapshot>>>) -> Arc<Snapshot> {
    if let Some(cluster) = cluster
        && cluster.changed().await.is_ok()
    {
        return Arc::clone(&cluster.borrow_and_update());
    }
    std::future::pending().await
}

/// Let what is open end by itself, for a while; then reset it.
async fn drain(node: &Node, limit: Duration) {
    node.enter(Phase::Draining {
        deadline: node.clock.now() + limit,
    });
    tracing::info!(?limit, "draining");
    if timeout(limit, node.drained()).await.is_err() {
        tracing::warn!("the drain deadline passed: resetting what is still open");
        node.tell_workers(|| Command::Cut(Reason::DrainDeadline));
        // The resets are on their way once the tunnels are gone.
        let _ = timeout(Duration::from_secs(1), node.drained()).await;
    }
}

/// Hears of workers that ended.
type Ended = mpsc::UnboundedReceiver<io::Error>;

/// What every worker gets its share of.
struct Parts<'a> {
    metrics: &'a Metrics,
    heartbeats: &'a Heartbeats,
    ended: mpsc::UnboundedSender<io::Error>,
}

impl Parts<'_> {
    fn workers(
        &self,
        config: &Config,
        facts: &Newest,
        judging: &Judging,
        kernel: &Kernel,
    ) -> Result<Vec<worker::Handle>, AppError> {
        let count = match config.node.workers {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            count => count,
        };
        let setup = |index| Setup {
            index,
            facts: facts.clone(),
            judging: judging.clone(),
            metrics: self.metrics.clone(),
            handoff: kernel.handoff(),
            tunnel: tunnel_settings(config, count),
            heartbeat: self.heartbeats.expect(format!("worker-{index}")),
            ended: self.ended.clone(),
        };
        let workers = (0..count).map(|index| worker::spawn(setup(index)));
        workers.collect::<io::Result<_>>().map_err(AppError::Worker)
    }
}

fn tunnel_settings(config: &Config, workers: usize) -> tunnel::Settings {
    let limits = &config.limits;
    let defaults = tunnel::Settings::default();
    tunnel::Settings {
        max_streams: limits.streams_per_tunnel,
        tunnel_growth: limits.buffer_per_workload as u64,
        loop_growth: (limits.buffer_total / workers.max(1)) as u64,
        ping_after: limits.ping_interval,
        ping_timeout: limits.ping_timeout,
        ..defaults
    }
}

/// As many descriptors as we may have: each connection needs one.
fn raise_descriptor_limit() -> Result<(), nix::Error> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(())
}
