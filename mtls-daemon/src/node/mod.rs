//! The node as the control thread keeps it: which workloads are wanted, which
//! are in place, and who serves them.

mod displaced;
mod earlier;
mod enrolled;
mod leaving;
mod place;
mod plugin;
mod policies;
mod probed;
mod reload;
mod sandboxes;
mod strict;
mod view;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use mtls_common::syn::Syn;
use tokio::sync::{mpsc, oneshot, watch};

use crate::addr::OriginalDst;
use crate::admin::view::Phase;
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::facts::Facts;
use crate::identity::IdentityStore;
use crate::kernel::{Event, Kernel};
use crate::kubernetes::{Notice, Snapshot};
use crate::metrics::{ConnectionResult, Metrics, ThreadMetrics};
use crate::netns::{Cookie, Netns};
use crate::reason::Reason;
use crate::worker::{self, Command};

pub use earlier::Newcomer;
use enrolled::{Enrolled, Placed};
pub use leaving::Leaving;
pub use plugin::{Plugin, PluginError};
pub use policies::Policies;
pub use reload::InstallError;

pub struct Node {
    /// What the file says, and what was enrolled beside it.
    pub config: RefCell<Arc<Config>>,
    /// What the cluster says, if the node belongs to one.
    pub cluster: RefCell<Option<Arc<Snapshot>>>,
    /// What the cluster is to hear of pods.
    pub notices: mpsc::Sender<Notice>,
    pub origin: Origin,
    pub kernel: RefCell<Kernel>,
    pub host: Netns,
    /// Mount of the unified cgroup tree.
    pub cgroup2: PathBuf,
    pub workers: Vec<worker::Handle>,
    pub facts: watch::Sender<Arc<Facts>>,
    pub identities: IdentityStore,
    pub metrics: Metrics,
    /// What the control thread itself counts.
    pub counts: ThreadMetrics,
    pub clock: Clock,
    pub workloads: RefCell<BTreeMap<String, Enrolled>>,
    /// Whose connections from before are not cut yet.
    pub newcomers: RefCell<Vec<Newcomer>>,
    /// Told when a workload's state may have changed.
    pub changes: watch::Sender<()>,
    pub phase: RefCell<Phase>,
    /// Why the pins are not what they should be.
    pub pins_error: RefCell<Option<String>>,
    /// The network plug-in, where there is one.
    pub plugin: RefCell<Option<Plugin>>,
    /// Enforcement is detached, or about to be.
    pub leaving: RefCell<Option<Leaving>>,
}

/// Where the configuration comes from, and how its last reading went.
pub struct Origin {
    pub path: PathBuf,
    pub started: SystemTime,
    pub loaded: Cell<SystemTime>,
    pub reload_error: RefCell<Option<String>>,
    pub policies: Policies,
    pub restart_needed: RefCell<Vec<String>>,
    /// Workloads that were enrolled beside the file, until the daemon ends.
    pub added: RefCell<Vec<config::Workload>>,
}

impl Node {
    pub fn enter(&self, phase: Phase) {
        self.phase.replace(phase);
        self.changes.send_replace(());
    }

    /// The regular look: is everything where it was put?
    pub fn look(&self) {
        if self.is_leaving() {
            return self.stay_detached();
        }
        self.look_at_policies();
        // A workload cannot be enrolled without them.
        self.keep_pins();
        self.reconcile();
        let workloads = self.workloads.borrow();
        let netns = workloads.values().filter_map(Enrolled::netns);
        netns.for_each(Netns::tidy);
        drop(workloads);
        self.mend_hooks();
    }

    /// News from the hooks.
    pub fn heed(&self, event: &Event) {
        match event {
            Event::UnknownNetns {
                cookie,
                cgroup_id,
                pid,
            } => {
                tracing::warn!(
                    cookie,
                    cgroup_id,
                    pid,
                    reason = %Reason::UnknownWorkload,
                    "refused a connection of a network namespace that nobody classified"
                );
                self.counts.unknown_workload();
                // It may be one of ours that has just been made.
                self.reconcile();
            }
            Event::PlaintextRefused {
                cookie,
                source,
                port,
            } => {
                let workload = self.name_of(*cookie).unwrap_or_default();
                let caller = self.facts.borrow().directory.caller(source.ip());
                (self.counts).called_in_clear(caller, ConnectionResult::Refused);
                tracing::warn!(
                    workload,
                    %source,
                    caller = caller.word(),
                    port,
                    reason = %Reason::PlaintextRefused,
                    "refused plain text to a strict workload"
                );
                self.heed_refused(&workload, *source, *port);
            }
            Event::Held {
                cookie,
                dialled,
                syn,
            } => self.hold(Cookie(*cookie), *dialled, *syn),
            Event::AttachPoint => self.mend_hooks(),
        }
    }

    /// To the workload's worker. Whose workload nobody serves any more has no
    /// listener, and the kernel refuses it when it asks again.
    fn hold(&self, instance: Cookie, dialled: OriginalDst, syn: Syn) {
        let workloads = self.workloads.borrow();
        let home = workloads
            .values()
            .find_map(|enrolled| match &enrolled.placed {
                Placed::Served(workload, home) if workload.netns.cookie() == instance => {
                    Some(*home)
                }
                _ => None,
            });
        if let Some(home) = home {
            let command = Command::Hold {
                instance,
                dialled,
                syn,
            };
            // A worker that has ended ends the process.
            let _ = self.workers[home].commands.send(command);
        }
    }

    /// Returns when no worker carries anything any more.
    pub async fn drained(&self) {
        let waits: Vec<_> = self
            .workers
            .iter()
            .filter_map(|worker| {
                let (done, wait) = oneshot::channel();
                worker
                    .commands
                    .send(Command::Drain(done))
                    .ok()
                    .map(|()| wait)
            })
            .collect();
        for wait in waits {
            // A worker that ended has nothing to drain.
            let _ = wait.await;
        }
    }

    pub fn tell_workers(&self, command: impl Fn() -> Command) {
        for worker in &self.workers {
            // A worker that ended ends the process.
            let _ = worker.commands.send(command());
        }
    }

    /// Attach again what was torn away, such as by the removal of the cgroup.
    fn mend_hooks(&self) {
        if !matches!(*self.phase.borrow(), Phase::Serving) {
            return;
        }
        // Those that were taken off stay off, and readiness says so: somebody
        // wanted that.
        if self.kernel.borrow().is_detached() {
            self.detach_plugin();
        }
        match self.kernel.borrow_mut().repair() {
            Ok(repaired) if repaired.is_empty() => {}
            Ok(repaired) => {
                let hooks: Vec<&str> = repaired.iter().map(|hook| hook.word()).collect();
                let hooks = hooks.join(", ");
                tracing::error!(
                    hooks,
                    "their cgroup was removed and made again: attached again"
                );
            }
            Err(error) => {
                tracing::error!(%error, "hooks are torn away and cannot be attached again");
            }
        }
    }

    /// Put back the pins that somebody removed.
    fn keep_pins(&self) {
        if !matches!(*self.phase.borrow(), Phase::Serving) {
            return;
        }
        let kept = self.kernel.borrow_mut().keep_pins();
        match &kept {
            Ok(0) => {}
            Ok(pins) => tracing::error!(
                pins,
                "pins were removed beside the running daemon: put back; to end enforcement there is `mtls-daemon detach`"
            ),
            Err(error) => {
                let error = error.to_string();
                if self.pins_error.borrow().as_ref() != Some(&error) {
                    tracing::error!(
                        error,
                        "pins were removed and cannot be put back: enforcement would end with this daemon"
                    );
                }
            }
        }
        let error = kept.err().map(|error| error.to_string());
        if self.pins_error.replace(error.clone()) != error {
            self.changes.send_replace(());
        }
    }

    fn name_of(&self, cookie: u64) -> Option<String> {
        let workloads = self.workloads.borrow();
        let found = workloads
            .iter()
            .find(|(_, w)| w.cookie().is_some_and(|c| c.0 == cookie));
        found.map(|(name, _)| name.clone())
    }
}
