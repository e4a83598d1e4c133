//! The daemon's end: takes what plug-ins bring, and answers when it is in its
//! place.

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::timeout;

use crate::admin::{AdminError, door, socket};
use crate::kernel;
use crate::netns::Netns;

use super::spec::Failure;
use super::wire::{self, Answer, Arrival, Question};
use super::{ANSWER, ENROL, Pod, Sandbox};

/// What the node does with what is brought.
pub trait Sandboxes {
    /// Why none can be taken now, if none can.
    fn closed(&self) -> Option<String>;

    /// Enrols a pod in its sandbox, as far as that has come: to be called again
    /// after every change.
    fn take(&self, pod: &Pod, sandbox: &Sandbox) -> Progress;

    /// How far a pod is.
    fn progress(&self, pod: &Pod) -> Progress;

    /// Forgets sandboxes by what runtimes call them.
    fn forget(&self, gone: &dyn Fn(&str) -> bool);

    /// Marked changed whenever a pod may have come further.
    fn changes(&self) -> watch::Receiver<()>;
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Enrolled and ready, or not to be enrolled.
    Done,
    /// Not yet; what it waits for.
    Waits(String),
}

/// As many as a kubelet may start after a node's restart, and some.
const LIMITS: door::Limits = door::Limits {
    most: 512,
    time: ENROL.saturating_add(ANSWER),
};

/// The socket, as long as plug-ins find somebody there.
pub struct Open(AbortHandle);

impl Drop for Open {
    /// Who comes from now on waits for the next daemon.
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Listens for plug-ins, in a task of the current `LocalSet`.
pub fn open(node: Rc<impl Sandboxes + 'static>, path: &Path) -> Result<Open, AdminError> {
    let (listener, path) = socket::bind(path)?;
    let serve = move |stream: UnixStream| serve(Rc::clone(&node), stream);
    let task = spawn_local(async move {
        // The path goes when the task does.
        let _path = path;
        door::attend(listener, LIMITS, serve).await;
    });
    Ok(Open(task.abort_handle()))
}

async fn serve(node: Rc<impl Sandboxes>, mut stream: UnixStream) {
    match stream.peer_cred() {
        Ok(peer) if peer.uid() == 0 => {}
        peer => {
            tracing::warn!(?peer, "refused at the plug-in's socket: only root may ask");
            return;
        }
    }
    let (question, netns) = match timeout(ANSWER, wire::hear(&stream)).await {
        Ok(Ok(heard)) => heard,
        Ok(Err(error)) => return tracing::warn!(%error, "a plug-in's question cannot be read"),
        Err(_elapsed) => return tracing::warn!("a plug-in asked nothing"),
    };
    let answer = answer(&*node, question, netns, ENROL).await;
    if let Err(Failure { msg, details, .. }) = &answer {
        tracing::warn!(msg, details, "a plug-in was told that it failed");
    }
    // Whoever is gone has an answer already: the runtime's limit.
    if let Ok(text) = serde_json::to_vec(&answer) {
        let _ = stream.write_all(&text).await;
    }
}

pub(super) async fn answer(
    node: &impl Sandboxes,
    question: Question,
    netns: Option<OwnedFd>,
    patience: Duration,
) -> Answer {
    match question {
        Question::Add(arrival) => {
            let Arrival {
                container,
                pod,
                addresses,
            } = arrival;
            let netns = namespace(netns, &pod, &addresses)?;
            let sandbox = Sandbox { container, netns };
            let outcome = enrol(node, &pod, &sandbox, patience).await;
            if outcome.is_err() {
                // The runtime takes it apart again.
                node.forget(&|container| container == sandbox.container);
            }
            outcome
        }
        Question::Check(Arrival { pod, .. }) => match node.progress(&pod) {
            Progress::Done => Ok(()),
            Progress::Waits(why) => Err(not_ready(&pod, &why)),
        },
        Question::Del { container } => {
            node.forget(&|it| it == container);
            Ok(())
        }
        Question::Gc { valid } => {
            node.forget(&|it| !valid.iter().any(|valid| valid == it));
            Ok(())
        }
        Question::Status => match node.closed() {
            None => Ok(()),
            Some(why) => {
                let msg = "mtls-daemon is not ready";
                Err(Failure::new(Failure::UNAVAILABLE, msg, why))
            }
        },
    }
}

fn namespace(fd: Option<OwnedFd>, pod: &Pod, brought: &[IpAddr]) -> Result<Netns, Failure> {
    let bad = |details: String| {
        let msg = format!("the network namespace of {}/{}", pod.namespace, pod.name);
        Failure::new(Failure::NOT_ENROLLED, msg, details)
    };
    let fd = fd.ok_or_else(|| bad("was not handed over".to_owned()))?;
    let netns = Netns::of(fd).map_err(|error| bad(format!("cannot be entered: {error}")))?;
    let assigned = kernel::addresses(&netns);
    let assigned = assigned.map_err(|error| bad(format!("cannot be looked into: {error}")))?;
    let missing = brought.iter().find(|address| !assigned.contains(address));
    if let Some(address) = missing {
        // It may be one that only the node's routes know of.
        tracing::warn!(
            pod = format!("{}/{}", pod.namespace, pod.name),
            %address,
            "the network plug-ins name an address that is not assigned in the pod"
        );
    }
    Ok(netns)
}

async fn enrol(
    node: &impl Sandboxes,
    pod: &Pod,
    sandbox: &Sandbox,
    patience: Duration,
) -> Result<(), Failure> {
    // Watch before asking: what changes in between is not missed.
    let mut changes = node.changes();
    let mut waits = String::new();
    let done = async {
        loop {
            changes.mark_unchanged();
            let progress = match node.closed() {
                Some(why) => Progress::Waits(format!("the daemon: {why}")),
                None => node.take(pod, sandbox),
            };
            match progress {
                Progress::Done => return,
                Progress::Waits(why) => waits = why,
            }
            if changes.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    };
    let done = timeout(patience, done).await;
    done.map_err(|_elapsed| not_ready(pod, &waits))
}

fn not_ready(pod: &Pod, waits: &str) -> Failure {
    let Pod {
        namespace, name, ..
    } = pod;
    let msg = format!("mtls-daemon has not enrolled {namespace}/{name} yet");
    Failure::new(Failure::TRY_AGAIN, msg, waits)
}
