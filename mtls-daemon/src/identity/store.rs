//! Every workload's identity, kept fresh: one task a workload listens to its
//! source, checks what comes, and publishes it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use thiserror::Error;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::bundle::TrustBundles;
use super::cert_manager::CertManager;
use super::crls::{Crls, NewestRevocations};
use super::disk_ca::DiskCa;
use super::federation::{self, Federation};
use super::files::Files;
use super::keeper::Keeper;
use super::pace::Timings;
use super::secrets::Secrets;
use super::source::Source;
use super::spire::Spire;
use super::svid::Svid;
use super::vault::Vault;
use crate::clock::Clock;
use crate::config;
use crate::spiffe::{SpiffeId, TrustDomain};

/// What a workload can show and whom it can verify, at this moment.
#[derive(Clone, Debug)]
pub struct WorkloadIdentity {
    pub id: SpiffeId,
    /// The source's name in the configuration.
    pub source: &'static str,
    /// `None`: nothing valid is at hand, and the workload's connections are
    /// refused.
    pub svid: Option<Arc<Svid>>,
    pub bundles: TrustBundles,
    /// What is wrong, until it is not. With an SVID at hand the workload goes
    /// on meanwhile.
    pub failure: Option<String>,
    /// When the source will be asked for the next certificate; `None`: it
    /// sends by itself.
    pub next_renewal: Option<SystemTime>,
    /// Certificates taken, and attempts that brought none, since the start.
    pub renewals: Renewals,
    /// Grows with each change of the SVID or the bundles.
    pub generation: u64,
}

impl WorkloadIdentity {
    /// Of a workload that is left alone: nobody is asked for a certificate.
    pub fn unasked(id: SpiffeId) -> Self {
        Self {
            id,
            source: "none",
            svid: None,
            bundles: TrustBundles::default(),
            failure: None,
            next_renewal: None,
            renewals: Renewals::default(),
            generation: 0,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Renewals {
    pub succeeded: u64,
    pub failed: u64,
}

/// A workload was enrolled that nothing issues certificates for.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("workload {0}: neither it nor the node names a source of certificates")]
pub struct NoSource(String);

/// Keeps the identities of this node's workloads. Lives on the control
/// thread; receivers go anywhere.
pub struct IdentityStore {
    clock: Clock,
    timings: Timings,
    /// Tells this process from others in all that is spread by chance.
    seed: u64,
    state: Mutex<State>,
}

struct State {
    config: config::Identity,
    federation: watch::Sender<watch::Receiver<Federation>>,
    crls: Crls,
    sources: Vec<Shared>,
    workloads: HashMap<String, Kept>,
}

struct Shared {
    config: config::Source,
    trust_domain: TrustDomain,
    source: Arc<dyn Source>,
}

struct Kept {
    id: SpiffeId,
    source: config::Source,
    identity: watch::Receiver<WorkloadIdentity>,
    task: AbortHandle,
}

impl IdentityStore {
    /// Call it within the control thread's runtime: it starts tasks there.
    pub fn new(config: config::Identity, clock: Clock, timings: Timings) -> Self {
        let federation = federation::follow(&others(&config), Federation::default(), timings);
        let seed = seed();
        let crls = Crls::follow(&config.crls, clock.clone(), timings, seed);
        Self {
            clock,
            timings,
            seed,
            state: Mutex::new(State {
                config,
                federation: watch::Sender::new(federation),
                crls,
                sources: Vec::new(),
                workloads: HashMap::new(),
            }),
        }
    }

    /// Gets a workload its identity, and keeps it fresh until it is
    /// withdrawn. Called again with the same identity and source it changes
    /// nothing.
    pub fn enrol(
        &self,
        workload: &config::Workload,
    ) -> Result<watch::Receiver<WorkloadIdentity>, NoSource> {
        let mut state = self.state();
        let source = workload
            .source
            .clone()
            .or_else(|| state.config.source.clone())
            .ok_or_else(|| NoSource(workload.name.clone()))?;
        if let Some(kept) = state.workloads.get(&workload.name)
            && kept.id == workload.spiffe_id
            && kept.source == source
        {
            return Ok(kept.identity.clone());
        }
        let shared = self.shared_source(&mut state, &source, &workload.spiffe_id);
        let workload = &config::Workload {
            source: Some(source.clone()),
            ..workload.clone()
        };
        let keeper = Keeper::new(
            workload,
            &*shared,
            state.federation.subscribe(),
            state.crls.newest(),
            self.clock.clone(),
            self.timings,
        );
        let identity = keeper.subscribe();
        let task = tokio::spawn(keeper.run()).abort_handle();
        let kept = Kept {
            id: workload.spiffe_id.clone(),
            source,
            identity: identity.clone(),
            task,
        };
        state.workloads.insert(workload.name.clone(), kept);
        state.drop_unused_sources();
        Ok(identity)
    }

    /// Forgets a workload and its keys. Receivers see their sender go.
    pub fn withdraw(&self, workload: &str) {
        let mut state = self.state();
        state.workloads.remove(workload);
        state.drop_unused_sources();
    }

    pub fn subscribe(&self, workload: &str) -> Option<watch::Receiver<WorkloadIdentity>> {
        let state = self.state();
        state
            .workloads
            .get(workload)
            .map(|kept| kept.identity.clone())
    }

    /// Takes over what may change while running: the federated bundles at
    /// once, the sources when the workloads are enrolled again.
    pub fn reload(&self, config: &config::Identity) {
        let mut state = self.state();
        if others(&state.config) != others(config) {
            let before = state.federation.borrow().borrow().clone();
            let federation = federation::follow(&others(config), before, self.timings);
            state.federation.send_replace(federation);
        }
        state.crls.change(&config.crls);
        state.config = config.clone();
    }

    /// The bundles of other trust domains, and what is wrong with them.
    pub fn federation(&self) -> Federation {
        self.state().federation.borrow().borrow().clone()
    }

    /// What is known of withdrawn certificates, from now on.
    pub fn revocations(&self) -> NewestRevocations {
        self.state().crls.newest()
    }

    /// One source serves all workloads of a trust domain that name the same.
    fn shared_source(
        &self,
        state: &mut State,
        wanted: &config::Source,
        workload: &SpiffeId,
    ) -> Arc<dyn Source> {
        let trust_domain = workload.trust_domain();
        let known = state.sources.iter().find(|known| {
            known.config.same_authority(wanted) && known.trust_domain == trust_domain
        });
        if let Some(known) = known {
            return Arc::clone(&known.source);
        }
        let (clock, timings) = (self.clock.clone(), self.timings);
        let source: Arc<dyn Source> = match wanted {
            config::Source::DiskCa(config) => Arc::new(DiskCa::start(
                config,
                &trust_domain,
                clock,
                timings,
                self.seed,
            )),
            config::Source::Files(config) => {
                Arc::new(Files::new(config, &trust_domain, clock, timings))
            }
            config::Source::Spire(config, _) => Arc::new(Spire::start(
                config,
                &trust_domain,
                clock,
                timings,
                self.seed,
            )),
            config::Source::Vault(config) => Arc::new(Vault::start(
                config,
                &trust_domain,
                clock,
                timings,
                self.seed,
            )),
            config::Source::CertManager(config, _) => Arc::new(CertManager::start(
                config,
                &trust_domain,
                clock,
                timings,
                self.seed,
            )),
            config::Source::Secrets(config, _) => Arc::new(Secrets::start(
                config,
                &trust_domain,
                clock,
                timings,
                self.seed,
            )),
        };
        state.sources.push(Shared {
            config: wanted.clone(),
            trust_domain,
            source: Arc::clone(&source),
        });
        source
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn drop_unused_sources(&mut self) {
        let workloads = &self.workloads;
        self.sources.retain(|shared| {
            workloads.values().any(|kept| {
                kept.source.same_authority(&shared.config)
                    && kept.id.trust_domain() == shared.trust_domain
            })
        });
    }
}

/// The bundles that a workload of another trust domain needs: the federated
/// ones, and that of the node's own trust domain, as its source has it.
fn others(config: &config::Identity) -> Vec<config::FederatedBundle> {
    let home = match &config.source {
        Some(config::Source::DiskCa(ca)) => Some(ca.bundle.as_ref().unwrap_or(&ca.certificate)),
        Some(config::Source::Files(files)) => Some(&files.bundle),
        Some(config::Source::Vault(vault)) => Some(&vault.bundle),
        Some(config::Source::CertManager(asked, _)) => Some(&asked.bundle),
        Some(config::Source::Secrets(read, _)) => Some(&read.bundle),
        // Its own agent vouches for it, and names no file.
        Some(config::Source::Spire(..)) | None => None,
    };
    let home = home.map(|bundle| config::FederatedBundle {
        trust_domain: config.trust_domain.clone(),
        bundle: bundle.clone(),
    });
    config.federated.iter().cloned().chain(home).collect()
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn seed() -> u64 {
    use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
    let mut bytes = [0; 8];
    // Without random bytes renewals are less spread out, and no key can be
    // made anyway.
    let _ = SystemRandom::new().fill(&mut bytes);
    u64::from_ne_bytes(bytes)
}
