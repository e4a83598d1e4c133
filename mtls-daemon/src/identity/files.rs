//! `files`: a certificate, a key and a bundle that something else writes,
//! such as cert-manager, a Kubernetes Secret, or a person with openssl.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::pki_types::CertificateDer;
use rustls::sign::{CertifiedKey, SigningKey};
use tokio::sync::watch;

use super::bundle::{TrustBundle, TrustBundles};
use super::federation;
use super::pace::Timings;
use super::pem;
use super::source::{Next, Source, SourceError, Standing, Update, Updates};
use super::svid::{Issued, SvidFaults, check_pair};
use super::watched::{self, Content, Loaded, Watched};
use crate::clock::Clock;
use crate::config;
use crate::spiffe::{SpiffeId, TrustDomain};

/// The source: the files hold one identity, so that it serves one workload.
pub struct Files {
    config: config::Files,
    trust_domain: TrustDomain,
    clock: Clock,
    timings: Timings,
}

/// What was made of the files. The bundle counts even if the certificate does
/// not: a root that was taken out of it must not stay trusted for that.
pub struct Read {
    pub bundle: Arc<TrustBundle>,
    pub pair: Option<Pair>,
}

/// A certificate chain and the key that belongs to its leaf.
pub struct Pair {
    chain: Vec<CertificateDer<'static>>,
    key: Arc<dyn SigningKey>,
}

impl Files {
    pub fn new(
        config: &config::Files,
        trust_domain: &TrustDomain,
        clock: Clock,
        timings: Timings,
    ) -> Self {
        Self {
            config: config.clone(),
            trust_domain: trust_domain.clone(),
            clock,
            timings,
        }
    }
}

impl Source for Files {
    fn kind(&self) -> &'static str {
        "files"
    }

    fn updates(&self, workload: &config::Workload) -> Box<dyn Updates> {
        let (trust_domain, clock, workload) = (
            self.trust_domain.clone(),
            self.clock.clone(),
            workload.spiffe_id.clone(),
        );
        let load = move |files: &[Content]| load(&trust_domain, &workload, files, clock.now());
        Box::new(Following {
            files: watched::watch(paths(&self.config), self.timings, load),
        })
    }
}

fn paths(config: &config::Files) -> Vec<PathBuf> {
    vec![
        config.certificate.clone(),
        config.key.clone(),
        config.bundle.clone(),
    ]
}

/// Reads the files that `config` names, once.
pub fn read(
    config: &config::Files,
    trust_domain: &TrustDomain,
    workload: &SpiffeId,
    now: SystemTime,
) -> Loaded<Read> {
    let files: Vec<Content> = paths(config)
        .iter()
        .map(|path| Content::read(path))
        .collect();
    load(trust_domain, workload, &files, now)
}

/// `files`: certificate, key, bundle. Complains of everything at once.
fn load(
    trust_domain: &TrustDomain,
    workload: &SpiffeId,
    files: &[Content],
    now: SystemTime,
) -> Loaded<Read> {
    let [certificate, key, bundle] = files else {
        return Loaded::complaining("certificate, key and bundle are needed".into());
    };
    let mut complaints = Vec::new();
    let bundle = federation::load(bundle, trust_domain)
        .map_err(|e| complaints.push(e))
        .ok();
    let chain = certificate
        .parse(pem::certificates)
        .map_err(|e| complaints.push(e))
        .ok();
    let key = key
        .parse(pem::private_key)
        .map_err(|e| complaints.push(e))
        .ok();
    let pair = chain.zip(key).and_then(|(chain, key)| {
        Pair::new(chain, key, workload, now)
            .map_err(|e| complaints.push(format!("{}: {e}", certificate.path.display())))
            .ok()
    });
    Loaded {
        good: bundle.map(|bundle| Read {
            bundle: Arc::new(bundle),
            pair,
        }),
        complaint: (!complaints.is_empty()).then(|| complaints.join("; ")),
    }
}

impl Pair {
    /// Checks what belongs together here, so that files which are being
    /// replaced one after the other show as such. Whether peers would accept
    /// the chain is judged when the workload takes it.
    fn new(
        chain: Vec<CertificateDer<'static>>,
        key: Arc<dyn SigningKey>,
        workload: &SpiffeId,
        now: SystemTime,
    ) -> Result<Self, SvidFaults> {
        let pair = CertifiedKey::new(chain, key);
        check_pair(&pair, workload, now)?;
        Ok(Self {
            chain: pair.cert,
            key: pair.key,
        })
    }

    fn issued(&self) -> Issued {
        Issued {
            chain: self.chain.clone(),
            key: Arc::clone(&self.key),
        }
    }
}

/// Hands on what the files hold, when it changes.
struct Following {
    files: watch::Receiver<Watched<Read>>,
}

impl Updates for Following {
    fn next(&mut self, _standing: Standing) -> Next<'_> {
        Box::pin(async move {
            if self.files.changed().await.is_err() {
                return Err(SourceError::Load("the files are no longer watched".into()));
            }
            let (read, complaint) = {
                let state = self.files.borrow_and_update();
                (state.good.clone(), state.complaint.clone())
            };
            match (read, complaint) {
                (None, Some(complaint)) => Err(SourceError::Load(complaint)),
                (read, complaint) => Ok(Update {
                    issued: read
                        .as_ref()
                        .and_then(|read| Some(read.pair.as_ref()?.issued())),
                    bundles: read.map(|read| TrustBundles::from_iter([Arc::clone(&read.bundle)])),
                    complaint,
                }),
            }
        })
    }
}
