//! Reading the configuration again: all of the new one, or nothing of it.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use thiserror::Error;
use tokio::sync::watch::{self, Receiver};
use tokio::task::spawn_local;

use crate::config::{self, Config, Mode, Place};
use crate::directory::Cluster;
use crate::facts::Facts;
use crate::identity::{NoSource, Renewals, WorkloadIdentity};
use crate::kernel::KernelError;
use crate::kubernetes::Snapshot;
use crate::log;
use crate::metrics::Outcome;

use super::Node;
use super::enrolled::Enrolled;

/// Why a configuration cannot be put in force.
#[derive(Debug, Error)]
pub enum InstallError {
    #[error("{0}")]
    Kernel(#[from] KernelError),
    #[error("{0}")]
    NoSource(#[from] NoSource),
}

impl Node {
    /// SIGHUP: an error keeps what was, and says where it is.
    pub fn reload(&self) {
        if self.is_leaving() {
            return tracing::warn!("detached: the configuration is not read again");
        }
        let read = config::load(&self.origin.path).map_err(|mistakes| mistakes.to_string());
        match read.and_then(|new| self.apply(new)) {
            Ok(()) => {
                self.metrics.config_reload(Outcome::Ok);
                self.metrics.config_loaded(self.clock.now());
                self.origin.loaded.set(self.clock.now());
                self.origin.reload_error.replace(None);
                self.origin.policies.settled();
                tracing::info!(path = %self.origin.path.display(), "configuration read again");
            }
            Err(error) => {
                self.metrics.config_reload(Outcome::Error);
                tracing::error!(%error, "configuration not read again: nothing has changed");
                self.origin.reload_error.replace(Some(error));
            }
        }
        self.changes.send_replace(());
    }

    fn apply(&self, mut new: Config) -> Result<(), String> {
        self.keep_added(&mut new);
        let old = Arc::clone(&self.config.borrow());
        let waiting = config::changes_that_need_a_restart(&old, &new);
        for key in &waiting {
            tracing::warn!(key, "changed: takes effect at the next start");
        }
        let log = new.log.clone();
        self.install(new).map_err(|error| error.to_string())?;
        self.origin.restart_needed.replace(waiting);
        log::reload(&log).map_err(|error| error.to_string())
    }

    /// Workloads that were enrolled beside the file stay, unless the file now
    /// says something else of their name, place or addresses.
    fn keep_added(&self, new: &mut Config) {
        self.origin.added.borrow_mut().retain(|added| {
            let taken = new.workloads.iter().any(|of_file| {
                of_file.name == added.name
                    || of_file.place == added.place
                    || of_file
                        .addresses
                        .iter()
                        .any(|ip| added.addresses.contains(ip))
            });
            if !taken {
                new.workloads.push(added.clone());
            }
            !taken
        });
    }

    /// Make what the cluster says now the one in force.
    pub fn follow_cluster(&self, snapshot: Arc<Snapshot>) {
        let config = Arc::clone(&self.config.borrow());
        let before = self.cluster.replace(Some(Arc::clone(&snapshot)));
        self.heed_own();
        // What is not in force is refused, and the next news tries again.
        let failed = |error: InstallError| {
            tracing::error!(%error, "what the cluster says could not be put in force");
        };
        match self.newest_facts(&config) {
            Ok(facts) => drop(self.facts.send_replace(facts)),
            Err(error) => failed(error.into()),
        }
        // Endpoints come and go all the time, this node's pods seldom.
        if before.is_none_or(|before| before.workloads != snapshot.workloads) {
            match self.want(&config) {
                Ok(changed) => self.hook_again(|name| changed.contains(name)),
                Err(error) => failed(error.into()),
            }
            self.reconcile();
        }
        self.changes.send_replace(());
    }

    /// Make `config` the one in force: networks, directory, workloads.
    pub fn install(&self, config: Config) -> Result<(), InstallError> {
        let facts = self.newest_facts(&config)?;
        let (unknown, outside) = (config.node.unknown, config.node.outside);
        (self.kernel.borrow_mut()).set_policy(unknown, outside, config.network.udp)?;
        let config = Arc::new(config);
        self.config.replace(Arc::clone(&config));
        self.identities.reload(&config.identity);
        self.facts.send_replace(facts);
        self.want(&config)?;
        // The node's own rules may be others.
        self.hook_again(|_| true);
        self.reconcile();
        Ok(())
    }

    /// What the workers are to know; of the networks in it the hooks know.
    pub(super) fn newest_facts(&self, config: &Config) -> Result<Arc<Facts>, KernelError> {
        let mut kernel = self.kernel.borrow_mut();
        let cluster = match &*self.cluster.borrow() {
            Some(snapshot) if snapshot.is_told => Arc::clone(&snapshot.cluster),
            // Which networks are the mesh's is not certain yet: those that were
            // stay, or what was refused a moment ago would go out in clear.
            Some(snapshot) => {
                let mut cluster = Cluster::clone(&snapshot.cluster);
                cluster.networks.extend(kernel.mesh());
                Arc::new(cluster)
            }
            None => Arc::default(),
        };
        let snapshot = self.cluster.borrow();
        let (pods, policies) = snapshot.as_deref().map_or((&[][..], &[][..]), |it| {
            (it.workloads.as_slice(), it.policies.in_force.as_slice())
        });
        let facts = Facts::new(config, cluster, pods)
            .guarded_by(policies)
            .after(&self.facts.borrow());
        let captured = facts.directory.captured_networks();
        kernel.set_networks(&captured, &config.network.excluded)?;
        Ok(Arc::new(facts))
    }

    /// Tell metrics and watchers of every change of a workload's identity,
    /// until the workload is withdrawn.
    fn follow(&self, workload: &config::Workload, mut identity: Receiver<WorkloadIdentity>) {
        let (name, id) = (workload.name.clone(), workload.spiffe_id.clone());
        let (metrics, changes) = (self.metrics.clone(), self.changes.clone());
        spawn_local(async move {
            let mut counted = Renewals::default();
            loop {
                {
                    let now = identity.borrow_and_update();
                    metrics.certificate(&name, &id, now.svid.as_ref().map(|svid| svid.not_after()));
                    for bundle in now.bundles.iter() {
                        metrics.trust_bundle(bundle.trust_domain(), bundle.roots().len());
                    }
                    for _ in counted.succeeded..now.renewals.succeeded {
                        metrics.renewal(Outcome::Ok);
                    }
                    for _ in counted.failed..now.renewals.failed {
                        metrics.renewal(Outcome::Error);
                    }
                    counted = now.renewals;
                }
                changes.send_replace(());
                if identity.changed().await.is_err() {
                    break;
                }
            }
        });
    }

    /// Withdraw what is no longer wanted, or wanted otherwise. Returns whose
    /// rules changed without that.
    fn want(&self, config: &Config) -> Result<HashSet<String>, NoSource> {
        let cluster = self.cluster.borrow().clone();
        // What the operator wrote goes first; no name in a file has a slash,
        // and every pod's has one.
        let pods = cluster.iter().flat_map(|snapshot| &snapshot.workloads);
        let all = || config.workloads.iter().chain(pods.clone());
        let mut wanted: BTreeMap<&str, &config::Workload> = all()
            .map(|workload| (workload.name.as_str(), workload))
            .collect();
        let mut workloads = self.workloads.borrow_mut();
        let mode_of = |workload| config.mode_of(workload);
        let mut changed = HashSet::new();
        workloads.retain(|name, enrolled| {
            let same = wanted.get(name.as_str()).is_some_and(|new| {
                let rules_aside = with_rules_of(new, &enrolled.wanted);
                let is_off = |mode| mode == Mode::Off;
                rules_aside == **new && is_off(enrolled.mode) == is_off(mode_of(new))
            });
            if same && let Some(new) = wanted.remove(name.as_str()) {
                // The hooks are told of its rules in a moment.
                if enrolled.mode != mode_of(new) || enrolled.wanted != *new {
                    changed.insert(name.clone());
                }
                enrolled.mode = mode_of(new);
                enrolled.wanted = new.clone();
                return true;
            }
            let why = match (all().any(|new| new.name == *name), &enrolled.wanted.place) {
                (true, _) => "what is said of it changed",
                (false, Place::Pod(_)) => "the pod has ended",
                (false, _) => "it is not configured any more",
            };
            // Whatever is enrolled again in a moment is not open till then.
            self.withdraw(enrolled, why);
            self.identities.withdraw(name);
            self.metrics.forget_certificate(name);
            self.metrics.forget_in_clear(name);
            false
        });
        if self.is_leaving() {
            wanted.clear();
        }
        for (name, workload) in wanted {
            let mode = config.mode_of(workload);
            let identity = match mode {
                Mode::Off => {
                    watch::channel(WorkloadIdentity::unasked(workload.spiffe_id.clone())).1
                }
                Mode::Permissive | Mode::Strict => {
                    let identity = self.identities.enrol(workload)?;
                    self.follow(workload, identity.clone());
                    identity
                }
            };
            let enrolled = Enrolled::new(workload.clone(), mode, identity);
            workloads.insert(name.to_owned(), enrolled);
        }
        Ok(changed)
    }
}

/// `workload`, but with the exclusions of `other`, its modes and its connect().
fn with_rules_of(other: &config::Workload, workload: &config::Workload) -> config::Workload {
    config::Workload {
        excluded: other.excluded.clone(),
        excluded_outbound_ports: other.excluded_outbound_ports.clone(),
        excluded_inbound_ports: other.excluded_inbound_ports.clone(),
        mode: other.mode,
        port_modes: other.port_modes.clone(),
        connect: other.connect,
        probe_ports: other.probe_ports.clone(),
        ..workload.clone()
    }
}
