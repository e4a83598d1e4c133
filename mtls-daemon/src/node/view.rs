//! The node as operators see it.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

use crate::admin::strict::StrictReadiness;
use crate::admin::view::{
    CertificateStatus, Certificates, ClusterStatus, ConfigStatus, Connection, ConnectionDirection,
    EnrolRefusal, EnrolRequest, LocalFuture, NodeStatus, NodeView, PolicyStatus,
    RevocationListStatus, RevocationStatus, RootStatus, Stage, SvidStatus, TrustBundleStatus,
    WorkloadState, WorkloadStatus,
};
use crate::config::{Config, Mode, Place, Workload};
use crate::flow::Snapshot;
use crate::identity::{Revocation, Svid, TrustBundle};
use crate::kernel::{self, Kernel};
use crate::kubernetes;
use crate::locate::locate;
use crate::metrics::{Direction, HookCount, HookState, KernelFigures, MapUsage};
use crate::netns::Netns;
use crate::policy::{Explanation, NoAnswer, Question};
use crate::reason::Reason;
use crate::spiffe::TrustDomain;

use super::enrolled::Enrolled;
use super::place::is_global;
use super::{Node, Plugin};

impl NodeView for Node {
    fn status(&self) -> NodeStatus {
        let config = self.config.borrow();
        let workloads = self.workloads.borrow();
        let cluster = self.cluster.borrow();
        NodeStatus {
            node: config.node.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started: self.origin.started,
            config: ConfigStatus {
                path: self.origin.path.clone(),
                loaded: self.origin.loaded.get(),
                reload_error: self.reload_error(),
                restart_needed: self.origin.restart_needed.borrow().clone(),
            },
            phase: self.phase.borrow().clone(),
            workloads: workloads
                .values()
                .map(|enrolled| self.workload_status(enrolled))
                .chain(cluster.iter().flat_map(|it| unfit_statuses(it)))
                .collect(),
            displaced: self.displaced(&workloads),
            trust_bundles: self.trust_bundles(workloads.values()),
            revocation: self.revocation_statuses(),
            cluster: cluster.as_deref().map(cluster_status),
            pins_error: self.pins_error.borrow().clone(),
            plugin_error: self.plugin.borrow().as_ref().and_then(Plugin::trouble),
            peers: config.peers.len(),
            services: self.facts.borrow().directory.services(),
        }
    }

    fn certificates(&self) -> Certificates {
        let workloads = self.workloads.borrow();
        let mut roots = BTreeMap::new();
        for enrolled in workloads.values() {
            for bundle in enrolled.identity.borrow().bundles.iter() {
                roots.insert(bundle.trust_domain().clone(), Arc::clone(bundle));
            }
        }
        Certificates {
            certificates: (workloads.values())
                .filter(|enrolled| enrolled.mode != Mode::Off)
                .map(certificate)
                .collect(),
            roots: roots
                .values()
                .flat_map(|bundle| root_statuses(bundle))
                .collect(),
            revocation: self.revocation_statuses(),
        }
    }

    fn hooks(&self) -> Vec<HookState> {
        hook_states(&self.kernel.borrow())
    }

    fn kernel(&self) -> KernelFigures {
        let kernel = self.kernel.borrow();
        let counts = kernel.counters().unwrap_or_else(|error| {
            tracing::warn!(%error, "reading the hooks' counters");
            Vec::new()
        });
        let counts = counts.into_iter().map(|(hook, outcome, count)| HookCount {
            hook,
            outcome,
            count,
        });
        let maps = kernel.map_usage().into_iter().map(|usage| MapUsage {
            map: usage.name,
            entries: usage.entries,
            capacity: usage.capacity,
        });
        KernelFigures {
            counts: counts.collect(),
            maps: maps.collect(),
            hooks: hook_states(&kernel),
            pins_restored: kernel.pins_restored(),
            veth_gates: kernel
                .veth_gates()
                .into_iter()
                .map(|(state, workloads)| (state.word(), workloads))
                .collect(),
        }
    }

    fn connections(&self) -> LocalFuture<'_, Vec<Connection>> {
        Box::pin(async {
            let mut all = Vec::new();
            for (worker, handle) in self.workers.iter().enumerate() {
                let snapshots = handle.connections().await;
                all.extend(
                    snapshots
                        .iter()
                        .map(|snapshot| connection(worker, snapshot)),
                );
            }
            all
        })
    }

    fn strict_readiness(&self) -> Vec<StrictReadiness> {
        self.readiness_for_strict()
    }

    fn policy_test(&self, question: &Question) -> Result<Explanation, NoAnswer> {
        let cluster = self.cluster.borrow();
        let workloads = self.workloads.borrow();
        let pods = cluster.iter().flat_map(|snapshot| &snapshot.workloads);
        let pods: Vec<Workload> = pods
            .map(|pod| Workload {
                addresses: (workloads.get(&pod.name)).map_or_else(Vec::new, Enrolled::addresses),
                ..pod.clone()
            })
            .collect();
        let facts = Arc::clone(&self.facts.borrow());
        question.ask(&facts.modes, &facts.rules, &self.config.borrow(), &pods)
    }

    fn enrol(&self, request: EnrolRequest) -> LocalFuture<'_, Result<String, EnrolRefusal>> {
        Box::pin(async move { self.enrol_now(request) })
    }

    fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }
}

impl Node {
    fn workload_status(&self, enrolled: &Enrolled) -> WorkloadStatus {
        let identity = enrolled.identity.borrow();
        WorkloadStatus {
            name: enrolled.wanted.name.clone(),
            identity: enrolled.wanted.spiffe_id.clone(),
            place: enrolled.wanted.place.clone(),
            mode: enrolled.mode,
            because: self.because(enrolled),
            since: enrolled.since,
            state: match self.is_leaving() {
                false => enrolled.state(),
                true => WorkloadState::NotEnrolled {
                    reason: Reason::WorkloadRemoved,
                    detail: "all is detached, for the daemon is being uninstalled".to_owned(),
                },
            },
            svid: identity.svid.as_deref().map(svid_status),
            renewal_error: identity.failure.as_ref().map(ToString::to_string),
            netns_cookie: enrolled.cookie().map(|cookie| cookie.0),
            addresses: enrolled.wanted.addresses.clone(),
            connections: enrolled.connections(),
        }
    }

    /// By whose word a workload has its mode.
    fn because(&self, enrolled: &Enrolled) -> String {
        let wanted = &enrolled.wanted;
        if wanted.mode.is_some_and(|mode| mode != enrolled.mode) {
            return "node.floor".to_owned();
        }
        match &wanted.place {
            Place::Pod(uid) => self
                .cluster
                .borrow()
                .as_ref()
                .map_or_else(String::new, |it| it.decided(uid).to_owned()),
            _ => self.config.borrow().said_by(wanted).to_owned(),
        }
    }

    fn trust_bundles<'a>(
        &self,
        workloads: impl Iterator<Item = &'a Enrolled>,
    ) -> Vec<TrustBundleStatus> {
        let mut federation = self.identities.federation();
        let mut newest = BTreeMap::new();
        for enrolled in workloads {
            for bundle in enrolled.identity.borrow().bundles.iter() {
                let status = TrustBundleStatus {
                    trust_domain: bundle.trust_domain().clone(),
                    roots: bundle.roots().len(),
                    generation: bundle.generation(),
                    error: federation.failures.get(bundle.trust_domain()).cloned(),
                };
                newest.insert(bundle.trust_domain().clone(), status);
            }
        }
        // What was never read shows too.
        federation
            .failures
            .retain(|name, _| !newest.contains_key(name));
        let missing = federation
            .failures
            .into_iter()
            .map(|(trust_domain, error)| TrustBundleStatus {
                trust_domain,
                roots: 0,
                generation: 0,
                error: Some(error),
            });
        newest.into_values().chain(missing).collect()
    }

    fn revocation_statuses(&self) -> Vec<RevocationStatus> {
        let all = self.identities.revocations().get();
        all.iter()
            .map(|(trust_domain, revocation)| revocation_status(trust_domain, revocation))
            .collect()
    }

    fn enrol_now(&self, request: EnrolRequest) -> Result<String, EnrolRefusal> {
        let config = Arc::clone(&self.config.borrow());
        let known = config
            .workloads
            .iter()
            .find(|workload| match &request.name {
                Some(name) => workload.name == *name,
                None => workload.place == request.place,
            });
        if let Some(workload) = known {
            if workload.place != request.place {
                let what = format!("{} is configured at another place", workload.name);
                return Err(EnrolRefusal {
                    reason: Reason::NotConfigured,
                    detail: what,
                });
            }
            self.reconcile();
            return Ok(workload.name.clone());
        }
        let added = self.add(&config, request)?;
        let name = added.name.clone();
        let mut with = Config::clone(&config);
        with.workloads.push(added.clone());
        self.origin.added.borrow_mut().push(added);
        self.install(with).map_err(|error| {
            self.origin.added.borrow_mut().pop();
            EnrolRefusal {
                reason: Reason::AttachFailed,
                detail: error.to_string(),
            }
        })?;
        Ok(name)
    }

    /// A workload that the file does not name, until the next start.
    fn add(&self, config: &Config, request: EnrolRequest) -> Result<Workload, EnrolRefusal> {
        let refuse = |reason, detail: String| EnrolRefusal { reason, detail };
        let Some(spiffe_id) = request.spiffe_id else {
            let what = "no [[workload]] is at this place: add one, or give --spiffe-id";
            return Err(refuse(Reason::NotConfigured, what.to_owned()));
        };
        let addresses = if request.addresses.is_empty() {
            let located = locate(&request.place, &self.cgroup2)
                .map_err(|error| refuse(Reason::PlaceNotFound, error.to_string()))?;
            let assigned = Netns::open(&located.netns).and_then(|netns| kernel::addresses(&netns));
            let assigned = assigned.map_err(|error| {
                refuse(
                    Reason::PlaceNotFound,
                    format!("{}: {error}", located.netns.display()),
                )
            })?;
            assigned.into_iter().filter(is_global).collect()
        } else {
            request.addresses
        };
        let name = request
            .name
            .unwrap_or_else(|| spiffe_id.path().trim_start_matches('/').replace('/', "-"));
        if config
            .workloads
            .iter()
            .any(|workload| workload.name == name)
        {
            return Err(refuse(
                Reason::NamespaceTaken,
                format!("a workload is named {name} already"),
            ));
        }
        Ok(Workload {
            name,
            spiffe_id,
            place: request.place,
            addresses,
            mode: None,
            connect: None,
            source: None,
            excluded: Vec::new(),
            excluded_outbound_ports: Vec::new(),
            excluded_inbound_ports: Vec::new(),
            port_modes: Vec::new(),
            probe_ports: Vec::new(),
        })
    }
}

fn unfit_statuses(snapshot: &kubernetes::Snapshot) -> impl Iterator<Item = WorkloadStatus> {
    let unfit = snapshot.unfit.iter();
    unfit.map(|unfit| unfit_status(unfit, snapshot.decided(&unfit.local_uid)))
}

fn unfit_status(unfit: &kubernetes::Unfit, because: &str) -> WorkloadStatus {
    let kubernetes::PodRef {
        namespace, name, ..
    } = &unfit.pod;
    WorkloadStatus {
        name: format!("{namespace}/{name}"),
        identity: unfit.identity.clone(),
        place: Place::Pod(unfit.local_uid.clone()),
        mode: unfit.mode,
        because: because.to_owned(),
        since: None,
        state: WorkloadState::NotEnrolled {
            reason: Reason::CannotEnrol,
            detail: unfit.why.clone(),
        },
        svid: None,
        renewal_error: None,
        netns_cookie: None,
        addresses: Vec::new(),
        connections: 0,
    }
}

fn cluster_status(snapshot: &kubernetes::Snapshot) -> ClusterStatus {
    ClusterStatus {
        known: snapshot.is_whole,
        pods: snapshot.workloads.len(),
        policies: snapshot.policies.notes.iter().map(policy_status).collect(),
        error: snapshot.trouble.clone(),
    }
}

fn policy_status(note: &kubernetes::Note) -> PolicyStatus {
    PolicyStatus {
        kind: note.kind,
        name: note.name.clone(),
        standing: note.standing,
        complaints: note.complaints.clone(),
    }
}

pub(super) fn hook_states(kernel: &Kernel) -> Vec<HookState> {
    let attached = kernel.attached().into_iter();
    attached
        .map(|(hook, attached)| HookState { hook, attached })
        .collect()
}

fn certificate(enrolled: &Enrolled) -> CertificateStatus {
    let identity = enrolled.identity.borrow();
    CertificateStatus {
        workload: enrolled.wanted.name.clone(),
        identity: identity.id.clone(),
        source: identity.source.to_owned(),
        svid: identity.svid.as_deref().map(svid_status),
        next_renewal: identity.next_renewal,
        renewals_succeeded: identity.renewals.succeeded,
        renewals_failed: identity.renewals.failed,
        error: identity.failure.clone(),
    }
}

fn svid_status(svid: &Svid) -> SvidStatus {
    SvidStatus {
        not_before: svid.not_before(),
        not_after: svid.not_after(),
        serial: svid.serial().to_owned(),
        issuer: svid.issuer().to_owned(),
    }
}

fn root_statuses(bundle: &TrustBundle) -> impl Iterator<Item = RootStatus> {
    bundle.roots().iter().map(|root| RootStatus {
        trust_domain: bundle.trust_domain().clone(),
        subject: root.subject.clone(),
        not_before: root.not_before,
        not_after: root.not_after,
    })
}

fn revocation_status(trust_domain: &TrustDomain, revocation: &Revocation) -> RevocationStatus {
    let lists = revocation.lists().iter().map(|list| RevocationListStatus {
        issuer: list.issuer.clone(),
        this_update: list.this_update,
        next_update: list.next_update,
        entries: list.entries,
    });
    RevocationStatus {
        trust_domain: trust_domain.clone(),
        policy: revocation.policy().to_string(),
        depth: revocation.depth().to_string(),
        error: revocation
            .fault()
            .or_else(|| revocation.complaint())
            .map(str::to_owned),
        lists: lists.collect(),
    }
}

fn connection(worker: usize, snapshot: &Snapshot) -> Connection {
    let flow = &snapshot.flow;
    Connection {
        id: flow.id,
        direction: match flow.direction {
            Direction::Outbound => ConnectionDirection::Outbound,
            Direction::Inbound => ConnectionDirection::Inbound,
        },
        stage: Stage::Open,
        workload: flow.workload.name.to_string(),
        source: flow.source().cloned(),
        destination: flow.destination().cloned(),
        client: flow.client.map(|client| client.0),
        original_dst: Some(flow.original_dst.0),
        peer: flow.tunnel.map(|tunnel| tunnel.0),
        to_server: snapshot.bytes.to_server,
        to_client: snapshot.bytes.to_client,
        age: snapshot.age(),
        worker,
    }
}
