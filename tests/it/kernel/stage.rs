//! The daemon's place at the hooks: opens the kernel side, enrols pods, and
//! holds their listeners.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ipnet::IpNet;
use mtls_daemon::addr::OriginalDst;
use mtls_daemon::config::{Outside, Udp, Unknown};
use mtls_daemon::kernel::{
    Enrolment, Event, Events, FoundAt, Hook, Kernel, KernelError, ListenerKind, Options, Outcome,
    Slots,
};
use mtls_daemon::netns::{self, Netns};
use mtls_tests::deadline::{Deadline, PATIENCE};
use mtls_tests::error::Doing;
use mtls_tests::script::{Ended, Step};
use mtls_tests::{Error, Family, Node, Pod, Result, ensure, ensure_eq};
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, poll};
use socket2::Socket;

pub(super) const TUNNEL_PORT: u16 = 15008;

/// A daemon's kernel side on one node.
pub(super) struct Stage {
    /// `None` while the daemon is down.
    kernel: Option<Kernel>,
    options: Options,
}

impl Stage {
    /// Opens it with pins of its own, at the node's cgroup; nothing is
    /// attached yet. The mesh is all pods; what is outside passes.
    pub(super) fn open(node: &Node) -> Result<Self> {
        let bpffs = node.scene().dir().join(format!("bpf-{}", node.name()));
        std::fs::create_dir(&bpffs).doing(|| format!("making {}", bpffs.display()))?;
        mount(
            Some("bpf"),
            &bpffs,
            Some("bpf"),
            MsFlags::empty(),
            None::<&str>,
        )
        .doing(|| format!("mounting a bpffs at {}", bpffs.display()))?;
        let options = Options {
            cgroup: Some(node.cgroup().path().to_owned()),
            pins: bpffs.join("mtls"),
            tunnel_port: TUNNEL_PORT,
            prober: Some(node.cgroup().path().join("pods/prober")),
            veth_gate: true,
        };
        let mut stage = Self {
            kernel: None,
            options,
        };
        stage.start()?;
        Ok(stage)
    }

    /// Opens it and attaches.
    pub(super) fn attached(node: &Node) -> Result<Self> {
        let mut stage = Self::open(node)?;
        stage.kernel().attach().said()?;
        Ok(stage)
    }

    /// The daemon starts.
    pub(super) fn start(&mut self) -> Result {
        let mut kernel = Kernel::open(&self.options).said()?;
        kernel.set_networks(&mesh(), &[]).said()?;
        kernel
            .set_policy(Unknown::Refuse, Outside::Direct, Udp::Pass)
            .said()?;
        self.kernel = Some(kernel);
        Ok(())
    }

    /// The daemon goes, without a word.
    pub(super) fn stop(&mut self) {
        self.kernel = None;
    }

    pub(super) fn kernel(&mut self) -> &mut Kernel {
        self.kernel
            .as_mut()
            .expect("the story has started the daemon")
    }

    pub(super) fn options(&self) -> &Options {
        &self.options
    }

    pub(super) fn pins(&self) -> &Path {
        &self.options.pins
    }

    /// Enrols a pod and listens for it.
    pub(super) fn enrol(&mut self, pod: &Pod) -> Result<Post> {
        self.enrol_as(pod, |_| {})
    }

    /// The same, with another enrolment than usual.
    pub(super) fn enrol_as(
        &mut self,
        pod: &Pod,
        change: impl FnOnce(&mut Enrolment<'_>),
    ) -> Result<Post> {
        let netns = Netns::open(pod.netns().path()).doing(|| "opening a pod's namespace")?;
        let slots = self.enrol_only(pod, &netns, change)?;
        let mut post = Post {
            cookie: slots.cookie,
            netns,
            listeners: Vec::new(),
        };
        post.listen(self, &slots)?;
        Ok(post)
    }

    /// Enrols it and does not listen.
    pub(super) fn enrol_only(
        &mut self,
        pod: &Pod,
        netns: &Netns,
        change: impl FnOnce(&mut Enrolment<'_>),
    ) -> Result<Slots> {
        let mut enrolment = Enrolment {
            cookie: netns.cookie().0,
            netns,
            found_at: FoundAt::BESIDE,
            cgroup_id: Some(pod.cgroup().id()?),
            addresses: pod.addresses().to_vec(),
            excluded: Vec::new(),
            excluded_outbound_ports: Vec::new(),
            excluded_inbound_ports: Vec::new(),
            permissive: false,
            strict_ports: Vec::new(),
            permissive_ports: Vec::new(),
            truthful: false,
            probe_ports: Vec::new(),
            spread: 1,
            listeners: Vec::new(),
        };
        change(&mut enrolment);
        self.kernel().enrol(&enrolment).said()
    }

    /// How often a hook had an outcome.
    pub(super) fn count(&mut self, hook: Hook, outcome: Outcome) -> Result<u64> {
        let counters = self.kernel().counters().doing(|| "reading the counters")?;
        Ok(counters
            .iter()
            .find(|(h, o, _)| (*h, *o) == (hook, outcome))
            .map_or(0, |(_, _, n)| *n))
    }

    /// The news from the hooks, each waited for.
    pub(super) fn news(&mut self) -> Result<News> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .doing(|| "making a runtime")?;
        let inside = runtime.enter();
        let events = self.kernel().events().said()?;
        drop(inside);
        Ok(News { events, runtime })
    }

    /// Entries of a map.
    pub(super) fn entries(&mut self, map: &str) -> Result<u64> {
        self.kernel()
            .map_usage()
            .iter()
            .find(|usage| usage.name == map)
            .map(|usage| usage.entries)
            .ok_or_else(|| Error::Unexpected(format!("nothing is known of map {map}")))
    }
}

/// All pods of both nodes.
pub(super) fn mesh() -> Vec<IpNet> {
    ["10.0.0.0/16", "fd00::/24"]
        .iter()
        .map(|net| net.parse().expect("a constant network"))
        .collect()
}

/// What the hooks report.
pub(super) struct News {
    // Before its runtime.
    events: Events,
    runtime: tokio::runtime::Runtime,
}

impl News {
    /// Waits for an event that is wanted; others are passed over.
    pub(super) fn wait<T>(
        &mut self,
        what: &str,
        mut wanted: impl FnMut(Event) -> Option<T>,
    ) -> Result<T> {
        let events = &mut self.events;
        let search = async {
            loop {
                if let Some(found) = wanted(events.next().await) {
                    return found;
                }
            }
        };
        self.runtime
            .block_on(async { tokio::time::timeout(PATIENCE, search).await })
            .map_err(|_elapsed| Error::TimedOut {
                waiting_for: what.to_owned(),
                seen: String::new(),
            })
    }

    /// Waits until the hooks' log, in the daemon's, has a line that contains `text`.
    pub(super) fn wait_for_log(&mut self, text: &str) -> Result {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .finish();
        let events = &mut self.events;
        let listen = async {
            while !log.text().contains(text) {
                let look_again = tokio::time::sleep(Duration::from_millis(5));
                tokio::select! {
                    _ = events.next() => {}
                    () = look_again => {}
                }
            }
        };
        let runtime = &self.runtime;
        tracing::subscriber::with_default(subscriber, || {
            runtime.block_on(async { tokio::time::timeout(PATIENCE, listen).await })
        })
        .map_err(|_elapsed| Error::TimedOut {
            waiting_for: format!("the hooks to log {text:?}"),
            seen: log.text(),
        })
    }

    /// How many events come within a time.
    pub(super) fn count_for(&mut self, span: Duration) -> usize {
        let mut seen = 0;
        let events = &mut self.events;
        let listen = async {
            loop {
                events.next().await;
                seen += 1;
            }
        };
        // Ends by its time only.
        let _: std::result::Result<(), _> = self
            .runtime
            .block_on(async { tokio::time::timeout(span, listen).await });
        seen
    }
}

/// What was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        log.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The daemon's sockets in a pod.
pub(super) struct Post {
    pub(super) cookie: u64,
    pub(super) netns: Netns,
    listeners: Vec<(ListenerKind, Socket)>,
}

/// A connection that came to the daemon.
pub(super) struct Accepted {
    pub(super) socket: TcpStream,
    /// Where it came from, and where the socket says it went to.
    pub(super) peer: SocketAddr,
    pub(super) local: SocketAddr,
}

impl Post {
    /// A listener of each kind.
    pub(super) fn listen(&mut self, stage: &mut Stage, slots: &Slots) -> Result {
        for kind in ListenerKind::ALL {
            let family = match kind.is_v4() {
                true => netns::Family::V4,
                false => netns::Family::V6,
            };
            let listener = self
                .netns
                .loopback_listener(family)
                .doing(|| "listening in a pod")?;
            stage
                .kernel()
                .put_listener(slots, kind, 0, listener.as_fd())
                .said()?;
            self.listeners.push((kind, listener));
        }
        Ok(())
    }

    /// The daemon's sockets go.
    pub(super) fn close(&mut self) {
        self.listeners.clear();
    }

    /// Waits for a connection.
    pub(super) fn accept(&self, kind: ListenerKind) -> Result<Accepted> {
        let listener = self.listener(kind)?;
        if !readable(listener.as_fd(), Deadline::default())? {
            return Err(Error::Unexpected(format!("no connection came to {kind:?}")));
        }
        accept_from(listener)?
            .ok_or_else(|| Error::Unexpected(format!("the connection to {kind:?} went away")))
    }

    fn listener(&self, kind: ListenerKind) -> Result<&Socket> {
        self.listeners
            .iter()
            .find(|(of, _)| *of == kind)
            .map(|(_, listener)| listener)
            .ok_or_else(|| Error::Unexpected(format!("no listener for {kind:?}")))
    }

    /// Accepts a captured connection and takes its original destination.
    pub(super) fn accept_captured(
        &self,
        stage: &mut Stage,
        kind: ListenerKind,
    ) -> Result<(Accepted, Option<OriginalDst>)> {
        let accepted = self.accept(kind)?;
        let original = self.original(stage, &accepted)?;
        Ok((accepted, original))
    }

    pub(super) fn original(
        &self,
        stage: &mut Stage,
        accepted: &Accepted,
    ) -> Result<Option<OriginalDst>> {
        stage
            .kernel()
            .handoff()
            .take_original_dst(self.cookie, accepted.peer, accepted.local)
            .doing(|| "taking an original destination")
    }
}

impl Accepted {
    /// Hears a word and says one.
    pub(super) fn talk(mut self, hear: &str, say: &str) -> Result {
        let talk = |socket: &mut TcpStream| -> io::Result<Vec<u8>> {
            socket.set_nonblocking(false)?;
            socket.set_read_timeout(Some(Duration::from_secs(20)))?;
            let mut heard = vec![0; hear.len()];
            socket.read_exact(&mut heard)?;
            socket.write_all(say.as_bytes())?;
            // An orderly end; with it on the application would be reset.
            socket2::SockRef::from(&*socket).set_linger(None)?;
            Ok(heard)
        };
        let heard = talk(&mut self.socket).doing(|| "talking as the daemon")?;
        ensure_eq(
            String::from_utf8_lossy(&heard).as_ref(),
            hear,
            "what the daemon heard",
        )
    }
}

fn accept_from(listener: &Socket) -> Result<Option<Accepted>> {
    match listener.accept() {
        Ok((socket, peer)) => {
            let local = socket
                .local_addr()
                .doing(|| "asking for an accepted socket's address")?;
            let name = |address: socket2::SockAddr| {
                address
                    .as_socket()
                    .ok_or_else(|| Error::Unexpected("an address of no known family".into()))
            };
            Ok(Some(Accepted {
                socket: socket.into(),
                peer: name(peer)?,
                local: name(local)?,
            }))
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error).doing(|| "accepting"),
    }
}

fn readable(fd: BorrowedFd<'_>, deadline: Deadline) -> Result<bool> {
    let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
    poll(&mut fds, deadline.left_for_poll())
        .map(|ready| ready > 0)
        .doing(|| "waiting for a connection")
}

/// A kernel error with all that it knows, as the harness' own.
pub(super) trait Said<T> {
    fn said(self) -> Result<T>;
}

impl<T> Said<T> for std::result::Result<T, KernelError> {
    fn said(self) -> Result<T> {
        self.map_err(|error| {
            let mut text = error.to_string();
            let mut source = std::error::Error::source(&error);
            while let Some(cause) = source {
                text = format!("{text}: {cause}");
                source = cause.source();
            }
            Error::Unexpected(text)
        })
    }
}

/// The listener that takes what a client of this family opens.
pub(super) fn capture_kind(family: Family, v6_only: bool) -> ListenerKind {
    if family == Family::V6 && v6_only {
        ListenerKind::CaptureV6
    } else {
        ListenerKind::CaptureV4
    }
}

/// Says and hears a word, in plain text.
pub(super) fn chat() -> (Vec<Step>, Vec<Step>) {
    let client = vec![Step::Say("ask".into()), Step::Hear("answer".into())];
    let server = vec![Step::Hear("ask".into()), Step::Say("answer".into())];
    (client, server)
}

/// Fails unless connect() was refused, at once.
pub(super) fn ensure_refused(ended: &Ended, what: &str) -> Result {
    ensure(ended.failed_to_connect(), || format!("{what}: {ended:?}"))?;
    ensure_eq(ended.error(), "ECONNREFUSED", what)?;
    // A retry of the SYN comes after a second.
    ensure(ended.connect_micros < 500_000, || {
        format!("{what}: only after {} us", ended.connect_micros)
    })
}

/// Lets two pods find one another before anything is measured: neighbour
/// discovery over a fresh bridge can take a second.
pub(super) fn meet(from: &Pod, to: &Pod) -> Result {
    for family in Family::BOTH {
        let ended = from.connect(to.at(family, 9), [])?;
        ensure_eq(ended.error(), "ECONNREFUSED", "a closed port")?;
    }
    Ok(())
}
