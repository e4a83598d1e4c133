//! A node whose daemon is being uninstalled: enforcement is detached, and stays
//! so until the DaemonSet says that the daemon is to stay after all.

use crate::admin::view::Phase;
use crate::cni::install::Place;
use crate::kernel;
use crate::kubernetes::{Mark, Notice, Own, Report, Uninstall};

use super::Node;

/// What was asked, and what came of it.
#[derive(Clone, Debug)]
pub struct Leaving {
    asked: Uninstall,
    /// As the cluster has been told.
    told: Option<Result<(), String>>,
}

impl Node {
    pub fn is_leaving(&self) -> bool {
        self.leaving.borrow().is_some()
    }

    /// Detaches, if that is what the DaemonSet asks for by now.
    pub fn heed_own(&self) {
        let asked = match self.cluster.borrow().as_deref().map(|it| &it.own) {
            Some(Own::Leaves(asked)) => asked.clone(),
            Some(Own::Stays | Own::NotTold) | None => return,
        };
        let before = self.leaving.borrow().as_ref().map(|it| it.asked.clone());
        if before.as_ref() == Some(&asked) {
            return;
        }
        tracing::warn!(
            request = asked.request,
            daemonset = asked.daemonset,
            "the DaemonSet is being uninstalled: detaching; connections of the workloads travel in clear from now on"
        );
        self.leaving.replace(Some(Leaving { asked, told: None }));
        self.stay_detached();
    }

    /// Whether a daemon that was detached is to enforce again. It takes a new
    /// process: this one holds what was taken off.
    pub fn is_asked_back(&self) -> bool {
        let cluster = self.cluster.borrow();
        let own = cluster.as_deref().map(|it| &it.own);
        self.is_leaving() && matches!(own, Some(Own::Stays))
    }

    /// The next daemon does not find that this one was to leave.
    pub fn come_back(&self) {
        if let Err(error) = Mark::of(&self.config.borrow()).clear() {
            tracing::error!(%error, "a successor would not attach before the API server answers");
        }
        tracing::warn!("the DaemonSet is to stay after all: ending, and the next daemon enforces");
    }

    /// Until nothing is left, and the cluster knows.
    pub(super) fn stay_detached(&self) {
        let Some(Leaving { asked, told }) = self.leaving.borrow().clone() else {
            return;
        };
        if told == Some(Ok(())) {
            return;
        }
        let outcome = self.detach(&asked);
        self.enter(Phase::Detached {
            asked_by: asked.request.clone(),
            still_attached: outcome.clone().err(),
        });
        if told.as_ref() == Some(&outcome) {
            return;
        }
        match &outcome {
            Ok(()) => tracing::warn!("detached"),
            Err(error) => tracing::error!(error, "not detached: trying again"),
        }
        let report = Report {
            of: asked,
            outcome: outcome.clone(),
        };
        // Where there is no room, the next look finds it untold.
        if self.notices.try_send(Notice::Left(report)).is_ok()
            && let Some(leaving) = &mut *self.leaving.borrow_mut()
        {
            leaving.told = Some(outcome);
        }
    }

    fn detach(&self, asked: &Uninstall) -> Result<(), String> {
        let config = self.config.borrow().clone();
        // First, lest a successor of a daemon that is killed here attaches.
        if let Err(error) = Mark::of(&config).set(asked) {
            tracing::error!(%error, "a successor would attach again if the API server is away");
        }
        // Nothing is to wait for what is not enforced any more.
        self.detach_plugin();
        let removed = Place::new(&config.cni).remove();
        removed.map_err(|error| format!("the network plug-in's entry stays: {error}"))?;
        kernel::detach(&config.kernel.pins).map_err(|error| error.to_string())?;
        match self.kernel.borrow().links_in_force() {
            Ok(0) => Ok(()),
            Ok(links) => Err(format!(
                "{links} links are still in force: they go when this daemon ends"
            )),
            Err(error) => Err(error.to_string()),
        }
    }
}
