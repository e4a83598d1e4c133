//! Authorities that sign what they are asked for: when to ask, and the roots
//! of peers, which come from a file of this node and never from the answers.
//! Whoever takes such an authority over can make certificates with its key,
//! but cannot add another.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::pki_types::CertificateDer;
use tokio::sync::watch;

use super::bundle::{TrustBundle, TrustBundles};
use super::certificate::Facts;
use super::federation;
use super::pace::{Pace, Timings};
use super::pem;
use super::source::{Next, SourceError, Standing, Update, Updates};
use super::svid::{Issued, Svid};
use super::watched::{self, Content, Loaded, Watched};
use crate::spiffe::TrustDomain;

/// One workload's way to certificates.
pub(super) trait Signer: Send {
    fn sign(&mut self) -> impl Future<Output = Result<Signed, SourceError>> + Send;
}

pub(super) struct Signed {
    pub(super) issued: Issued,
    /// What is wrong although it was signed.
    pub(super) complaint: Option<String>,
}

/// One workload's updates: the bundle as it changes, and certificates in time.
pub(super) struct Signing<S> {
    signer: S,
    bundle: watch::Receiver<Watched<TrustBundle>>,
    pace: Pace,
}

/// The roots in a file, from now on.
pub(super) fn follow(
    bundle: &Path,
    trust_domain: &TrustDomain,
    timings: Timings,
) -> watch::Receiver<Watched<TrustBundle>> {
    let trust_domain = trust_domain.clone();
    watched::watch(
        vec![bundle.to_owned()],
        timings,
        move |files: &[Content]| load(&trust_domain, files),
    )
}

fn load(trust_domain: &TrustDomain, files: &[Content]) -> Loaded<TrustBundle> {
    match files
        .first()
        .map(|file| federation::load(file, trust_domain))
    {
        Some(Ok(bundle)) => Loaded {
            good: Some(bundle),
            complaint: None,
        },
        Some(Err(complaint)) => Loaded::complaining(complaint),
        None => Loaded::complaining("no file is named".into()),
    }
}

impl<S: Signer> Signing<S> {
    pub(super) fn new(
        signer: S,
        bundle: &watch::Receiver<Watched<TrustBundle>>,
        pace: Pace,
    ) -> Self {
        let mut bundle = bundle.clone();
        // Its present state is news to this workload.
        bundle.mark_changed();
        Self {
            signer,
            bundle,
            pace,
        }
    }

    async fn sign(&mut self) -> Result<Update, SourceError> {
        // Nothing could be taken without it.
        self.first_bundle().await?;
        let Signed { issued, complaint } = self.signer.sign().await?;
        let update = self.update(Some(issued));
        Ok(Update {
            complaint: complaint.or(update.complaint),
            ..update
        })
    }

    /// Waits until the file was looked at, and holds roots.
    async fn first_bundle(&mut self) -> Result<(), SourceError> {
        loop {
            {
                let state = self.bundle.borrow_and_update();
                match (&state.good, &state.complaint) {
                    (Some(_), _) => return Ok(()),
                    (None, Some(complaint)) => return Err(SourceError::Load(complaint.clone())),
                    (None, None) => {}
                }
            }
            if self.bundle.changed().await.is_err() {
                return Err(SourceError::Load("its bundle is no longer watched".into()));
            }
        }
    }

    fn update(&self, issued: Option<Issued>) -> Update {
        let state = self.bundle.borrow();
        Update {
            issued,
            bundles: (state.good.as_ref())
                .map(|bundle| TrustBundles::from_iter([Arc::clone(bundle)])),
            complaint: state.complaint.clone(),
        }
    }
}

impl<S: Signer> Updates for Signing<S> {
    fn next(&mut self, standing: Standing) -> Next<'_> {
        Box::pin(async move {
            tokio::select! {
                biased;
                changed = self.bundle.changed() => match changed {
                    Ok(()) => self.first_bundle().await?,
                    Err(_) => return Err(SourceError::Load("its bundle is no longer watched".into())),
                },
                () = self.pace.wait(&standing) => return self.sign().await,
            }
            // A workload that has nothing yet asks at once, a failing one when
            // its time comes.
            match standing {
                Standing {
                    held: None,
                    failures: 0,
                    ..
                } => self.sign().await,
                _ => Ok(self.update(None)),
            }
        })
    }

    fn renews_at(&self, held: &Svid) -> Option<SystemTime> {
        Some(self.pace.renew_at(held))
    }
}

/// What is below the root, which peers have: the certificates of some PEM
/// texts, leaf first.
pub(super) fn chain<'t>(
    texts: impl IntoIterator<Item = &'t str>,
) -> Result<Vec<CertificateDer<'static>>, String> {
    let mut chain: Vec<CertificateDer<'static>> = Vec::new();
    for text in texts {
        let read = pem::certificates(text.as_bytes());
        for certificate in read.map_err(|e| format!("has a certificate of no use: {e}"))? {
            let is_root = Facts::of(&certificate).is_some_and(|facts| facts.self_issued);
            let is_leaf = chain.is_empty();
            if is_leaf || (!is_root && !chain.contains(&certificate)) {
                chain.push(certificate);
            }
        }
    }
    Ok(chain)
}
