//! `disk-ca`: the authority's certificate and key lie on this node, and
//! workloads' certificates are made in memory. Needs no other service; but
//! whoever takes over the node can make any identity of its trust domain.

mod authority;
mod inspect;
mod leaf;

use std::sync::Arc;
use std::time::SystemTime;

pub use authority::Authority;
pub use inspect::{AuthorityFault, AuthorityFaults};
use rustls::pki_types::CertificateDer;
use tokio::sync::watch;

use super::bundle::{TrustBundle, TrustBundles};
use super::certificate::Facts;
use super::federation;
use super::pace::{Pace, Timings};
use super::pem;
use super::source::{Next, Source, SourceError, Standing, Update, Updates};
use super::svid::Svid;
use super::watched::{self, Content, Loaded, Watched};
use crate::clock::Clock;
use crate::config;
use crate::spiffe::{SpiffeId, TrustDomain};

/// The source: one for all workloads that name the same files.
pub struct DiskCa {
    files: watch::Receiver<Watched<Files>>,
    clock: Clock,
    timings: Timings,
    seed: u64,
}

/// What was made of the files. The bundle counts even if the authority cannot
/// issue: a root that was taken out of it must not stay trusted for that.
#[derive(Clone)]
pub struct Files {
    pub bundle: Arc<TrustBundle>,
    pub authority: Option<Arc<Authority>>,
}

impl DiskCa {
    /// Follows the authority's files from now on.
    pub fn start(
        config: &config::DiskCa,
        trust_domain: &TrustDomain,
        clock: Clock,
        timings: Timings,
        seed: u64,
    ) -> Self {
        tracing::warn!(
            %trust_domain,
            key = %config.key.display(),
            "disk-ca: the authority's key lies on this node; whoever takes over the node can make any identity of the trust domain"
        );
        let load = {
            let (config, trust_domain, clock) =
                (config.clone(), trust_domain.clone(), clock.clone());
            move |files: &[Content]| load(&config, &trust_domain, files, clock.now())
        };
        Self {
            files: watched::watch(paths(config), timings, load),
            clock,
            timings,
            seed,
        }
    }
}

fn paths(config: &config::DiskCa) -> Vec<std::path::PathBuf> {
    let mut paths = vec![config.certificate.clone(), config.key.clone()];
    paths.extend(config.bundle.clone());
    paths
}

/// Reads the files that `config` names, once.
pub fn read(config: &config::DiskCa, trust_domain: &TrustDomain, now: SystemTime) -> Loaded<Files> {
    let files: Vec<Content> = paths(config)
        .iter()
        .map(|path| Content::read(path))
        .collect();
    load(config, trust_domain, &files, now)
}

/// `files`: certificate, key and, if there is one, the bundle. Complains of
/// everything at once.
fn load(
    config: &config::DiskCa,
    trust_domain: &TrustDomain,
    files: &[Content],
    now: SystemTime,
) -> Loaded<Files> {
    let [certificate, key, bundle @ ..] = files else {
        return Loaded::complaining("certificate and key are needed".into());
    };
    let mut complaints = Vec::new();
    let chain = noted(certificate.parse(pem::certificates), &mut complaints);
    let signer = noted(key.parse(pem::private_key), &mut complaints);
    let bundle = match (bundle.first(), &chain) {
        (Some(file), _) => Some(federation::load(file, trust_domain)),
        (None, Some(chain)) => Some(root_of_itself(certificate, chain, trust_domain)),
        (None, None) => None,
    };
    let bundle = bundle
        .and_then(|bundle| noted(bundle, &mut complaints))
        .map(Arc::new);
    warn_of_open_key(key);
    let mut authority = None;
    if let (Some(chain), Some(signer), Some(bundle)) = (chain, signer, &bundle) {
        match Authority::new(chain, signer, bundle, config.svid_ttl, now) {
            Ok(made) => authority = Some(Arc::new(made)),
            Err(faults) => {
                complaints.push(format!("{}: {faults}", certificate.path.display()));
            }
        }
    }
    Loaded {
        good: bundle.map(|bundle| Files { bundle, authority }),
        complaint: (!complaints.is_empty()).then(|| complaints.join("; ")),
    }
}

fn noted<T>(result: Result<T, String>, complaints: &mut Vec<String>) -> Option<T> {
    result.map_err(|complaint| complaints.push(complaint)).ok()
}

/// Without a bundle of its own, the authority is the root.
fn root_of_itself(
    file: &Content,
    chain: &[CertificateDer<'static>],
    trust_domain: &TrustDomain,
) -> Result<TrustBundle, String> {
    let roots = &chain[..1];
    if let Some(facts) = roots.first().and_then(|root| Facts::of(root))
        && !facts.self_issued
    {
        return Err(format!(
            "{}: {} is an intermediate authority: name the file with its root as `bundle`",
            file.path.display(),
            facts.subject
        ));
    }
    file.parse(|_| TrustBundle::new(trust_domain.clone(), roots))
}

fn warn_of_open_key(key: &Content) {
    if key.mode & 0o007 != 0 {
        tracing::warn!(
            key = %key.path.display(),
            "disk-ca: every user of this node can read the authority's key: chmod 600 it"
        );
    }
}

impl Source for DiskCa {
    fn kind(&self) -> &'static str {
        "disk-ca"
    }

    fn updates(&self, workload: &config::Workload) -> Box<dyn Updates> {
        let mut files = self.files.clone();
        // Their present state is news to this workload.
        files.mark_changed();
        Box::new(Minting {
            workload: workload.spiffe_id.clone(),
            files,
            authority: None,
            pace: Pace::new(self.timings, self.clock.clone(), self.seed),
            clock: self.clock.clone(),
        })
    }
}

/// Makes one workload's certificates.
struct Minting {
    workload: SpiffeId,
    files: watch::Receiver<Watched<Files>>,
    /// The last one that could issue. It goes on while its files are at fault,
    /// as long as the bundle accepts what it makes.
    authority: Option<Arc<Authority>>,
    pace: Pace,
    clock: Clock,
}

impl Updates for Minting {
    fn next(&mut self, standing: Standing) -> Next<'_> {
        Box::pin(async move {
            loop {
                let may_wait = standing.held.is_some() || standing.failures > 0;
                tokio::select! {
                    changed = self.files.changed() => if changed.is_err() {
                        return Err(SourceError::Load("its files are no longer watched".into()));
                    },
                    () = self.pace.wait(&standing), if may_wait => {}
                }
                let (files, complaint) = {
                    let state = self.files.borrow_and_update();
                    (state.good.clone(), state.complaint.clone())
                };
                match (files, complaint) {
                    (Some(files), complaint) => return self.mint(&files, complaint),
                    (None, Some(complaint)) => return Err(SourceError::Load(complaint)),
                    // The first look is still under way.
                    (None, None) => {}
                }
            }
        })
    }

    fn renews_at(&self, held: &Svid) -> Option<SystemTime> {
        Some(self.pace.renew_at(held))
    }
}

impl Minting {
    fn mint(&mut self, files: &Files, complaint: Option<String>) -> Result<Update, SourceError> {
        if files.authority.is_some() {
            self.authority.clone_from(&files.authority);
        }
        let issued = match &self.authority {
            Some(authority) => authority.issue(&self.workload, self.clock.now()),
            None => Err(SourceError::Load(
                complaint
                    .clone()
                    .unwrap_or_else(|| "there is no authority".into()),
            )),
        };
        let (issued, complaint) = match issued {
            Ok(issued) => (Some(issued), complaint),
            Err(error) => (None, Some(error.to_string())),
        };
        Ok(Update {
            issued,
            bundles: Some(TrustBundles::from_iter([Arc::clone(&files.bundle)])),
            complaint,
        })
    }
}
