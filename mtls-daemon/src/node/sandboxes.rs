//! Pods whose network plug-in waits for them to be enrolled.

use tokio::sync::watch;

use crate::admin::view::{Phase, WorkloadState};
use crate::cni::door::{Progress, Sandboxes};
use crate::cni::{Pod, Sandbox};
use crate::config::Place;
use crate::metrics::HookState;

use super::Node;
use super::enrolled::Enrolled;
use super::view::hook_states;

impl Sandboxes for Node {
    fn closed(&self) -> Option<String> {
        match &*self.phase.borrow() {
            Phase::Starting => return Some("is starting".to_owned()),
            Phase::Draining { .. } => return Some("is ending".to_owned()),
            // Nothing is enforced that they could wait for.
            Phase::Detached { .. } => return None,
            Phase::Serving => {}
        }
        let hooks = hook_states(&self.kernel.borrow());
        let missing = |state: &HookState| (!state.attached).then(|| state.hook.word());
        let missing: Vec<&str> = hooks.iter().filter_map(missing).collect();
        if !missing.is_empty() {
            return Some(format!("hooks are not attached: {}", missing.join(", ")));
        }
        let cluster = self.cluster.borrow();
        let unknown = cluster.as_ref().filter(|snapshot| !snapshot.is_whole);
        unknown.map(|snapshot| {
            let trouble = snapshot.trouble.as_deref().unwrap_or("no answer yet");
            format!("the API server has not told what the cluster is: {trouble}")
        })
    }

    fn take(&self, pod: &Pod, sandbox: &Sandbox) -> Progress {
        if self.is_leaving() {
            return Progress::Done;
        }
        let netns = &sandbox.netns;
        let is_new = self.of_pod(pod, |enrolled| {
            let is_here = enrolled.netns().map(|it| it.cookie()) == Some(netns.cookie());
            if !is_here {
                enrolled.sandbox = Some(sandbox.clone());
            }
            !is_here
        });
        if is_new == Some(true) {
            self.reconcile();
        }
        self.of_pod(pod, |enrolled| match enrolled.cookie() {
            Some(cookie) if cookie == netns.cookie() => come(&enrolled.state()),
            _ => Progress::Waits("its network namespace is not enrolled".to_owned()),
        })
        .unwrap_or_else(|| self.not_known(pod))
    }

    fn progress(&self, pod: &Pod) -> Progress {
        if self.is_leaving() {
            return Progress::Done;
        }
        self.of_pod(pod, |enrolled| come(&enrolled.state()))
            .unwrap_or_else(|| self.not_known(pod))
    }

    fn forget(&self, gone: &dyn Fn(&str) -> bool) {
        let mut any = false;
        for enrolled in self.workloads.borrow_mut().values_mut() {
            let sandbox = &mut enrolled.sandbox;
            any |= sandbox.take_if(|it| gone(&it.container)).is_some();
        }
        if any {
            self.reconcile();
        }
    }

    fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }
}

impl Node {
    fn of_pod<T>(&self, pod: &Pod, then: impl FnOnce(&mut Enrolled) -> T) -> Option<T> {
        let mut workloads = self.workloads.borrow_mut();
        let is_it =
            |it: &&mut Enrolled| matches!(&it.wanted.place, Place::Pod(uid) if *uid == pod.uid);
        workloads.values_mut().find(is_it).map(then)
    }

    /// One that is not among the workloads is not known yet, or not to be
    /// enrolled at all.
    fn not_known(&self, pod: &Pod) -> Progress {
        let cluster = self.cluster.borrow();
        let mut unfit = cluster.iter().flat_map(|snapshot| &snapshot.unfit);
        if unfit.any(|unfit| unfit.local_uid == pod.uid) {
            return Progress::Done;
        }
        let trouble = cluster
            .as_ref()
            .and_then(|snapshot| snapshot.trouble.clone());
        let trouble = trouble.map(|trouble| format!(": {trouble}"));
        Progress::Waits(format!(
            "the API server has not told of the pod with UID {} on this node{}",
            pod.uid,
            trouble.unwrap_or_default()
        ))
    }
}

fn come(state: &WorkloadState) -> Progress {
    match state {
        WorkloadState::Ready => Progress::Done,
        WorkloadState::Absent { detail } => Progress::Waits(detail.clone()),
        WorkloadState::Waiting { detail } => Progress::Waits(format!("it waits {detail}")),
        WorkloadState::Failed { reason, detail }
        | WorkloadState::NotEnrolled { reason, detail } => {
            Progress::Waits(format!("{reason}: {detail}; {}", reason.remedy()))
        }
    }
}
