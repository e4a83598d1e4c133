//! Events on pods and policies, for those who ask the API server why one is
//! not, or not any more, what they think.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tokio::task::{AbortHandle, JoinSet, spawn_local};
use tokio::time::{Instant, timeout};

use crate::api_server::root_cause;
use crate::sock_diag::Cut;

use super::pods::Unfit;
use super::policies::{Kind, Note, Standing};
use super::services::PodRef;
use super::uninstall::{self, Report};

/// At once; more come by and by, and what is too much is left to the log.
const BURST: u32 = 25;
const ONE_EVERY: Duration = Duration::from_secs(5);
const WITHIN: Duration = Duration::from_secs(5);
/// Probes come every few seconds, and are told of this often.
const PROBES_EVERY: Duration = Duration::from_secs(600);

/// What the node wants told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Connections of a pod of this node were cut when it was enrolled.
    Cut { uid: String, cut: Cut },
    /// From the node, at a probe port of a pod, by whom nobody knows as the
    /// prober; whose cgroup that is, as configured.
    ProbeRefused {
        uid: String,
        port: u16,
        prober: Option<PathBuf>,
    },
    /// What came of being uninstalled.
    Left(Report),
}

pub(super) struct Events {
    recorder: Recorder,
    allowance: Allowance,
    under_way: JoinSet<Result<(), String>>,
    failed: bool,
    /// Pods that cannot be enrolled and know it, by UID.
    unfit: HashSet<String>,
    /// When a pod's port was last told of, by its UID.
    probed: HashMap<(String, u16), Instant>,
    client: Client,
    node: String,
    /// Goes on until the API server has taken it.
    leaving: Option<AbortHandle>,
}

impl Events {
    pub(super) fn new(client: Client, node: &str) -> Self {
        let reporter = Reporter {
            controller: "mtls-daemon".to_owned(),
            instance: Some(node.to_owned()),
        };
        Self {
            recorder: Recorder::new(client.clone(), reporter),
            allowance: Allowance::full(Instant::now()),
            under_way: JoinSet::new(),
            failed: false,
            unfit: HashSet::new(),
            probed: HashMap::new(),
            client,
            node: node.to_owned(),
            leaving: None,
        }
    }

    /// In place of what was told of it before. Somebody waits for it.
    pub(super) fn left(&mut self, report: Report) {
        let telling = uninstall::tell(self.client.clone(), self.node.clone(), report);
        let telling = spawn_local(telling).abort_handle();
        if let Some(before) = self.leaving.replace(telling) {
            before.abort();
        }
    }

    /// Once each.
    pub(super) fn cannot_enrol(&mut self, unfit: &[Unfit]) {
        (self.unfit).retain(|uid| unfit.iter().any(|Unfit { pod, .. }| pod.uid == *uid));
        for Unfit { pod, why, .. } in unfit {
            if self.unfit.insert(pod.uid.clone()) {
                let note = format!("Its connections are not protected: {why}");
                let kind = EventType::Warning;
                self.tell(reference(pod), kind, "Enrol", "NotEnrolled", note);
            }
        }
    }

    pub(super) fn connections_cut(&mut self, pod: &PodRef, Cut { ended, left }: Cut) {
        let (kind, reason, note) = match left {
            0 => (
                EventType::Normal,
                "ConnectionsCut",
                format!("Ended {ended} TCP connections from before the pod was enrolled"),
            ),
            _ => (
                EventType::Warning,
                "ConnectionsInClear",
                "TCP connections from before the pod was enrolled go on in clear, for the node's \
                 kernel does not end them: delete the pod, so that it is made anew"
                    .to_owned(),
            ),
        };
        self.tell(reference(pod), kind, "Enrol", reason, note);
    }

    pub(super) fn probe_refused(&mut self, pod: &PodRef, port: u16, prober: Option<&Path>) {
        let now = Instant::now();
        let is_new = |at: &Instant| now.saturating_duration_since(*at) < PROBES_EVERY;
        self.probed.retain(|_, at| is_new(at));
        let key = (pod.uid.clone(), port);
        if self.probed.contains_key(&key) {
            return;
        }
        self.probed.insert(key, now);
        let note = refused_probe(port, prober);
        let kind = EventType::Warning;
        self.tell(reference(pod), kind, "Enforce", "ProbeRefused", note);
    }

    pub(super) fn policy(&mut self, note: &Note, complaint: &str) {
        let reason = match (note.standing, note.kind) {
            (Standing::PassedOver, _) => "PassedOver",
            (Standing::Unreadable, _) => "Unreadable",
            (Standing::Whole | Standing::InPart, Kind::AuthorizationPolicy) => {
                "StricterThanWritten"
            }
            (Standing::Whole | Standing::InPart, Kind::PeerAuthentication) => "NotAsWritten",
        };
        let (object, complaint) = (note.object.clone(), complaint.to_owned());
        self.tell(object, EventType::Warning, "Enforce", reason, complaint);
    }

    fn tell(
        &mut self,
        object: ObjectReference,
        kind: EventType,
        action: &str,
        reason: &str,
        note: String,
    ) {
        if !self.allowance.take(Instant::now()) {
            let (kind, namespace, name) = (object.kind, object.namespace, object.name);
            tracing::info!(
                kind,
                namespace,
                name,
                reason,
                note,
                "too many Events: this one is only here"
            );
            return;
        }
        let event = Event {
            type_: kind,
            reason: reason.to_owned(),
            note: Some(note),
            action: action.to_owned(),
            secondary: None,
        };
        let recorder = self.recorder.clone();
        self.under_way.spawn_local(async move {
            match timeout(WITHIN, recorder.publish(&event, &object)).await {
                Ok(published) => published.map_err(|error| root_cause(&error)),
                Err(_elapsed) => Err(format!("no answer within {WITHIN:?}")),
            }
        });
    }

    /// Returns when one was told, or was not; pends while there is none.
    pub(super) async fn told(&mut self) {
        let Some(done) = self.under_way.join_next().await else {
            return std::future::pending().await;
        };
        let told = done.unwrap_or_else(|error| Err(error.to_string()));
        if let (Err(error), false) = (&told, self.failed) {
            tracing::warn!(
                error,
                "the API server takes no Events: let the daemon's account create and patch events.k8s.io"
            );
        }
        self.failed = told.is_err();
    }
}

fn refused_probe(port: u16, prober: Option<&Path>) -> String {
    let known = match prober {
        Some(cgroup) => format!("is {}", cgroup.display()),
        None => "is not set".to_owned(),
    };
    format!(
        "A connection in clear from this node to probe port {port} was refused, for it is not \
         known to be the kubelet's: kubernetes.kubelet_cgroup {known}. If the kubelet's probes \
         fail, set it to the cgroup that the kubelet runs in; another prober's port belongs into \
         the pod's excluded-inbound-ports"
    )
}

fn reference(pod: &PodRef) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        namespace: Some(pod.namespace.clone()),
        name: Some(pod.name.clone()),
        uid: Some(pod.uid.clone()),
        ..ObjectReference::default()
    }
}

/// So many more may be told.
#[derive(Debug)]
struct Allowance {
    left: u32,
    since: Instant,
}

impl Allowance {
    fn full(now: Instant) -> Self {
        Self {
            left: BURST,
            since: now,
        }
    }

    fn take(&mut self, now: Instant) -> bool {
        while self.left < BURST && now.saturating_duration_since(self.since) >= ONE_EVERY {
            self.left += 1;
            self.since += ONE_EVERY;
        }
        if self.left == BURST {
            self.since = now;
        }
        let may = self.left > 0;
        self.left = self.left.saturating_sub(1);
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_an_end_to_events_and_a_beginning_again() {
        let now = Instant::now();
        let mut allowance = Allowance::full(now);
        let told = (0..2 * BURST).filter(|_| allowance.take(now)).count();
        assert_eq!(told, BURST as usize);
        assert!(!allowance.take(now + ONE_EVERY / 2));
        assert!(allowance.take(now + ONE_EVERY));
        assert!(!allowance.take(now + ONE_EVERY));
        let later = now + ONE_EVERY * 1000;
        let told = (0..2 * BURST).filter(|_| allowance.take(later)).count();
        assert_eq!(told, BURST as usize);
    }
}
