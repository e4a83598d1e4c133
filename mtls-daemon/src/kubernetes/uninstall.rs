//! Being uninstalled: what a daemon answers, and what whoever asked waits for.
//!
//! The answers are Events on the DaemonSet, for which a daemon needs no right
//! that it has not: who could forge one ends the waiting early, and the node
//! stays as it is, enforced.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use thiserror::Error;
use tokio::time::{sleep, timeout};

use crate::api_server::root_cause;

use super::ANSWER_WITHIN;
use super::own::{UNINSTALL, Uninstall};

/// What came of it on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub of: Uninstall,
    /// Or why something is still in force.
    pub outcome: Result<(), String>,
}

const DETACHED: &str = "Detached";
const NOT_DETACHED: &str = "NotDetached";
const CONTROLLER: &str = "mtls-daemon";

/// The API server's limits, in bytes.
const MOST_OF_A_NOTE: usize = 1024;
const MOST_OF_AN_INSTANCE: usize = 128;

const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(8);

/// Returns when the API server has taken it.
pub(super) async fn tell(client: Client, node: String, report: Report) {
    let events: Api<Event> = Api::namespaced(client, &report.of.namespace);
    let mut pause = FIRST_PAUSE;
    loop {
        let event = event(&report, &node, Timestamp::now());
        let params = PostParams::default();
        let failed = match timeout(ANSWER_WITHIN, events.create(&params, &event)).await {
            Ok(Ok(_)) => return,
            Ok(Err(error)) => root_cause(&error),
            Err(_elapsed) => format!("no answer within {ANSWER_WITHIN:?}"),
        };
        tracing::warn!(
            error = failed,
            "the API server does not take the Event for which `mtls-daemon uninstall` waits: trying again"
        );
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

fn event(report: &Report, node: &str, now: Timestamp) -> Event {
    let Uninstall {
        request,
        namespace,
        daemonset,
        uid,
    } = &report.of;
    let (kind, reason, note) = match &report.outcome {
        Ok(()) => (
            "Normal",
            DETACHED,
            format!("Node {node}: nothing is intercepted or refused any more"),
        ),
        Err(why) => ("Warning", NOT_DETACHED, format!("Node {node}: {why}")),
    };
    Event {
        metadata: ObjectMeta {
            generate_name: Some(format!("{daemonset}-")),
            namespace: Some(namespace.clone()),
            annotations: Some(BTreeMap::from([(UNINSTALL.to_owned(), request.clone())])),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(now)),
        action: Some("Uninstall".to_owned()),
        reason: Some(reason.to_owned()),
        type_: Some(kind.to_owned()),
        note: Some(cut_off(&note, MOST_OF_A_NOTE).to_owned()),
        regarding: Some(ObjectReference {
            api_version: Some("apps/v1".to_owned()),
            kind: Some("DaemonSet".to_owned()),
            namespace: Some(namespace.clone()),
            name: Some(daemonset.clone()),
            uid: Some(uid.clone()),
            ..ObjectReference::default()
        }),
        related: Some(ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Node".to_owned()),
            name: Some(node.to_owned()),
            ..ObjectReference::default()
        }),
        reporting_controller: Some(CONTROLLER.to_owned()),
        reporting_instance: Some(cut_off(node, MOST_OF_AN_INSTANCE).to_owned()),
        ..Event::default()
    }
}

fn cut_off(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}

/// Why nobody can be asked, or nobody's answer be heard.
#[derive(Debug, Error)]
pub enum UninstallError {
    #[error(
        "there is no DaemonSet {0}/{1}: which nodes have something attached that its daemons left is not known"
    )]
    Missing(String, String),
    #[error("{0}: {1}")]
    Api(&'static str, String),
}

/// The daemons of a DaemonSet, asked to detach.
pub struct Asked {
    daemonset: String,
    request: String,
    uid: String,
    sets: Api<DaemonSet>,
    pods: Api<Pod>,
    events: Api<Event>,
}

impl Asked {
    /// Asks them all.
    pub async fn ask(
        client: Client,
        namespace: &str,
        daemonset: &str,
        request: String,
    ) -> Result<Self, UninstallError> {
        let sets: Api<DaemonSet> = Api::namespaced(client.clone(), namespace);
        let patch = json!({"metadata": {"annotations": {UNINSTALL: request}}});
        let (params, patch) = (PatchParams::default(), Patch::Merge(&patch));
        let patched = timeout(ANSWER_WITHIN, sets.patch(daemonset, &params, &patch)).await;
        let set = match patched {
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => Err(
                UninstallError::Missing(namespace.to_owned(), daemonset.to_owned()),
            ),
            patched => within(patched, "annotating the DaemonSet"),
        }?;
        Ok(Self {
            daemonset: daemonset.to_owned(),
            request,
            uid: set.uid().unwrap_or_default(),
            sets,
            pods: Api::namespaced(client.clone(), namespace),
            events: Api::namespaced(client, namespace),
        })
    }

    /// How far they are.
    pub async fn progress(&self) -> Result<Progress, UninstallError> {
        // Pods first: whoever comes later has nothing attached.
        let all = ListParams::default();
        let pods = timeout(ANSWER_WITHIN, self.pods.list(&all)).await;
        let pods = within(pods, "listing pods")?;
        let set = timeout(ANSWER_WITHIN, self.sets.get(&self.daemonset)).await;
        let set = within(set, "reading the DaemonSet")?;
        let about = ListParams::default().fields(&format!("regarding.uid={}", self.uid));
        let events = timeout(ANSWER_WITHIN, self.events.list(&about)).await;
        let events = within(events, "listing Events")?;
        let wanted = set.status.map_or(0, |it| it.desired_number_scheduled);
        let wanted = usize::try_from(wanted).unwrap_or_default();
        let answers = answers(&events.items, &self.request);
        Ok(Progress::of(&pods.items, &self.uid, wanted, &answers))
    }
}

type Answered<T> = Result<Result<T, kube::Error>, tokio::time::error::Elapsed>;

fn within<T>(answer: Answered<T>, what: &'static str) -> Result<T, UninstallError> {
    match answer {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(UninstallError::Api(what, root_cause(&error))),
        Err(_elapsed) => {
            let why = format!("no answer within {ANSWER_WITHIN:?}");
            Err(UninstallError::Api(what, why))
        }
    }
}

/// By node: detached, or why not. Who has detached at last has.
fn answers(events: &[Event], request: &str) -> BTreeMap<String, Result<(), String>> {
    let mut answers = BTreeMap::new();
    let to_this = |event: &&Event| {
        let annotations = event.metadata.annotations.as_ref();
        annotations
            .and_then(|it| it.get(UNINSTALL))
            .map(String::as_str)
            == Some(request)
    };
    for event in events.iter().filter(to_this) {
        let node = event.related.as_ref().and_then(|it| it.name.clone());
        let outcome = match event.reason.as_deref() {
            Some(DETACHED) => Ok(()),
            Some(NOT_DETACHED) => Err(event.note.clone().unwrap_or_default()),
            _ => continue,
        };
        let Some(node) = node else { continue };
        match answers.get(&node) {
            Some(Ok(())) => {}
            _ => drop(answers.insert(node, outcome)),
        }
    }
    answers
}

/// How far the daemons are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Nodes.
    pub detached: BTreeSet<String>,
    /// Nodes where something is still attached, and why.
    pub failing: BTreeMap<String, String>,
    /// Nodes that have not answered, and what is known of their pods.
    pub silent: BTreeMap<String, String>,
    /// Nodes that are to have a daemon's pod and have none at the moment.
    pub without_pod: usize,
}

impl Progress {
    fn of(
        pods: &[Pod],
        daemonset: &str,
        wanted: usize,
        answers: &BTreeMap<String, Result<(), String>>,
    ) -> Self {
        let mut progress = Self::default();
        for pod in pods {
            let owners = pod.metadata.owner_references.iter().flatten();
            let is_its = owners.into_iter().any(|owner| owner.uid == daemonset);
            let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
            let (true, Some(node)) = (is_its, node) else {
                continue;
            };
            match answers.get(&node) {
                Some(Ok(())) => {
                    progress.detached.insert(node);
                }
                Some(Err(why)) => {
                    progress.failing.insert(node, why.clone());
                }
                None => {
                    progress.silent.insert(node, silent(pod));
                }
            }
        }
        let nodes = progress.detached.len() + progress.missing().count();
        progress.without_pod = wanted.saturating_sub(nodes);
        progress
    }

    /// Who has not detached, and what is known of why.
    pub fn missing(&self) -> impl Iterator<Item = (&str, &str)> {
        let missing = self.failing.iter().chain(&self.silent);
        missing.map(|(node, why)| (node.as_str(), why.as_str()))
    }

    pub fn is_done(&self) -> bool {
        self.missing().next().is_none() && self.without_pod == 0
    }
}

/// Of a pod whose daemon has not answered.
fn silent(pod: &Pod) -> String {
    let name = pod.name_any();
    let status = pod.status.as_ref();
    let phase = status.and_then(|status| status.phase.as_deref());
    let mut conditions = status
        .and_then(|status| status.conditions.as_deref())
        .unwrap_or_default()
        .iter();
    let ready = conditions.any(|it| it.type_ == "Ready" && it.status == "True");
    let ready = match ready {
        true => "ready",
        false => "not ready",
    };
    let phase = phase.unwrap_or("Unknown");
    format!("the daemon of pod {name} ({phase}, {ready}) has not answered")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(request: &str, outcome: Result<(), &str>) -> Report {
        Report {
            of: Uninstall {
                request: request.to_owned(),
                namespace: "infra".to_owned(),
                daemonset: "mesh".to_owned(),
                uid: "u1".to_owned(),
            },
            outcome: outcome.map_err(str::to_owned),
        }
    }

    fn told(node: &str, request: &str, outcome: Result<(), &str>) -> Event {
        event(&report(request, outcome), node, Timestamp::UNIX_EPOCH)
    }

    fn pod(node: &str, owner: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {
                "name": format!("mesh-{node}"),
                "ownerReferences": [
                    {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "mesh", "uid": owner},
                ],
            },
            "spec": {"nodeName": node, "containers": []},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "False"}]},
        }))
        .unwrap()
    }

    #[test]
    fn answers_to_another_request_do_not_count() {
        let events = [
            told("a", "before", Ok(())),
            told("b", "now", Ok(())),
            told("c", "now", Err("a link stays")),
        ];
        let answers = answers(&events, "now");
        let nodes: Vec<&str> = answers.keys().map(String::as_str).collect();
        assert_eq!(nodes, ["b", "c"]);
        assert_eq!(answers["b"], Ok(()));
        assert_eq!(answers["c"], Err("Node c: a link stays".to_owned()));
    }

    #[test]
    fn who_has_detached_at_last_has() {
        let (failed, done) = (told("a", "now", Err("busy")), told("a", "now", Ok(())));
        for events in [[failed.clone(), done.clone()], [done, failed]] {
            assert_eq!(answers(&events, "now")["a"], Ok(()));
        }
    }

    #[test]
    fn every_node_with_a_daemon_is_waited_for_and_named() {
        let pods = [
            pod("a", "u1"),
            pod("b", "u1"),
            pod("c", "u2"),
            pod("d", "u1"),
        ];
        let events = [
            told("a", "now", Ok(())),
            told("d", "now", Err("a link stays")),
        ];
        let answers = answers(&events, "now");
        let progress = Progress::of(&pods, "u1", 3, &answers);
        assert!(!progress.is_done());
        assert_eq!(progress.detached, BTreeSet::from(["a".to_owned()]));
        let missing: Vec<(&str, &str)> = progress.missing().collect();
        assert_eq!(
            missing,
            [
                ("d", "Node d: a link stays"),
                (
                    "b",
                    "the daemon of pod mesh-b (Running, not ready) has not answered"
                ),
            ]
        );
    }

    #[test]
    fn a_node_whose_pod_is_made_anew_is_waited_for() {
        let answers = answers(&[told("a", "now", Ok(()))], "now");
        let progress = Progress::of(&[pod("a", "u1")], "u1", 2, &answers);
        assert_eq!((progress.without_pod, progress.is_done()), (1, false));
        let progress = Progress::of(&[pod("a", "u1")], "u1", 1, &answers);
        assert!(progress.is_done());
        // Where no node has one, there is nobody to wait for.
        assert!(Progress::of(&[], "u1", 0, &answers).is_done());
    }

    #[test]
    fn an_event_keeps_within_the_api_servers_limits() {
        let why = "ü".repeat(2000);
        let node = "n".repeat(250);
        let event = told(&node, "now", Err(&why));
        assert!(event.note.unwrap().len() <= MOST_OF_A_NOTE);
        assert!(event.reporting_instance.unwrap().len() <= MOST_OF_AN_INSTANCE);
        assert_eq!(event.related.unwrap().name, Some(node));
        assert_eq!(event.metadata.namespace, event.regarding.unwrap().namespace);
    }
}
