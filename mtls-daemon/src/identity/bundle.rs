//! Trust bundles: the roots that a trust domain's certificates lead to.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use rustls::pki_types::{CertificateDer, TrustAnchor};
use thiserror::Error;

use super::certificate::Facts;
use crate::spiffe::TrustDomain;

/// The roots of one trust domain. Never changes; a change makes a new one.
pub struct TrustBundle {
    trust_domain: TrustDomain,
    generation: u64,
    /// `anchors[i]` is what chains are built to, `roots[i]` the rest of it.
    anchors: Vec<TrustAnchor<'static>>,
    roots: Vec<Root>,
    digest: [u8; 32],
}

/// What is known of a root beside its name and key.
#[derive(Clone, Debug)]
pub struct Root {
    pub subject: String,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
    pub path_len: Option<u32>,
}

/// Why a list of certificates is no trust bundle.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BundleError {
    #[error("it holds no certificate")]
    Empty,
    #[error("certificate {0} in it cannot be read")]
    Unreadable(usize),
    #[error(
        "certificate {0} in it ({1}) is not an authority (CA:TRUE is missing): a bundle holds the roots, not the workloads' certificates"
    )]
    NotAnAuthority(usize, String),
}

/// All trust bundles that a workload verifies its peers against, by the trust
/// domain of the peer.
#[derive(Clone, Debug, Default)]
pub struct TrustBundles(BTreeMap<TrustDomain, Arc<TrustBundle>>);

/// One source of generations for the whole process: two bundles that differ
/// never share one, whichever workload or trust domain they belong to.
static GENERATION: AtomicU64 = AtomicU64::new(1);

impl TrustBundle {
    pub fn new(
        trust_domain: TrustDomain,
        certificates: &[CertificateDer<'_>],
    ) -> Result<Self, BundleError> {
        if certificates.is_empty() {
            return Err(BundleError::Empty);
        }
        let mut ders: Vec<&CertificateDer<'_>> = certificates.iter().collect();
        let mut anchors = Vec::with_capacity(ders.len());
        let mut roots = Vec::with_capacity(ders.len());
        for (nth, der) in (1..).zip(&ders) {
            let facts = Facts::of(der).ok_or(BundleError::Unreadable(nth))?;
            if !facts.is_ca {
                return Err(BundleError::NotAnAuthority(nth, facts.subject));
            }
            let anchor =
                webpki::anchor_from_trusted_cert(der).or(Err(BundleError::Unreadable(nth)))?;
            anchors.push(anchor.to_owned());
            roots.push(Root {
                subject: facts.subject,
                not_before: facts.not_before,
                not_after: facts.not_after,
                path_len: facts.path_len,
            });
        }
        ders.sort_by(|a, b| a.as_ref().cmp(b.as_ref()));
        ders.dedup();
        Ok(Self {
            trust_domain,
            generation: GENERATION.fetch_add(1, Ordering::Relaxed),
            anchors,
            roots,
            digest: digest(&ders),
        })
    }

    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Grows with each change of the roots.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    pub fn roots(&self) -> &[Root] {
        &self.roots
    }

    /// Whether both hold the same roots for the same trust domain, in
    /// whatever order.
    pub fn same_roots(&self, other: &Self) -> bool {
        self.trust_domain == other.trust_domain && self.digest == other.digest
    }

    pub(super) fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.anchors
    }

    /// The root behind one of [`Self::anchors`]. Found by place, not by name
    /// and key: a root that was issued again with its old key has both twice.
    pub(super) fn root_of(&self, anchor: &TrustAnchor<'_>) -> Option<&Root> {
        let nth = self.anchors.iter().position(|a| std::ptr::eq(a, anchor))?;
        self.roots.get(nth)
    }
}

fn digest(ders: &[&CertificateDer<'_>]) -> [u8; 32] {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    for der in ders {
        context.update(&der.len().to_be_bytes());
        context.update(der);
    }
    let mut digest = [0; 32];
    digest.copy_from_slice(context.finish().as_ref());
    digest
}

impl TrustBundles {
    pub fn get(&self, trust_domain: &TrustDomain) -> Option<&Arc<TrustBundle>> {
        self.0.get(trust_domain)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<TrustBundle>> {
        self.0.values()
    }

    /// Takes `bundle` in, in place of the one of its trust domain. The same
    /// roots again keep their generation; says whether anything changed.
    pub fn put(&mut self, bundle: Arc<TrustBundle>) -> bool {
        let held = self.0.get(bundle.trust_domain());
        if held.is_some_and(|held| held.same_roots(&bundle)) {
            return false;
        }
        self.0.insert(bundle.trust_domain().clone(), bundle);
        true
    }

    /// `next`, but with the bundles of `self` where the roots are the same:
    /// they keep their generation.
    pub fn succeeded_by(&self, next: Self) -> Self {
        let kept = next.0.into_iter().map(|(trust_domain, bundle)| {
            let held = self.0.get(&trust_domain);
            let same = held.filter(|held| held.same_roots(&bundle)).cloned();
            (trust_domain, same.unwrap_or(bundle))
        });
        Self(kept.collect())
    }

    /// Whether both hold the same generations.
    pub fn same_as(&self, other: &Self) -> bool {
        let generations = |bundles: &Self| -> Vec<u64> {
            bundles.iter().map(|bundle| bundle.generation()).collect()
        };
        generations(self) == generations(other)
    }

    /// Keeps only the bundles that `wanted` says yes to.
    pub fn retain(&mut self, mut wanted: impl FnMut(&TrustBundle) -> bool) {
        self.0.retain(|_, bundle| wanted(bundle));
    }
}

impl FromIterator<Arc<TrustBundle>> for TrustBundles {
    fn from_iter<I: IntoIterator<Item = Arc<TrustBundle>>>(bundles: I) -> Self {
        let mut all = Self::default();
        for bundle in bundles {
            all.put(bundle);
        }
        all
    }
}

impl fmt::Debug for TrustBundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrustBundle")
            .field("trust_domain", &self.trust_domain)
            .field("generation", &self.generation)
            .field("roots", &self.roots)
            .finish_non_exhaustive()
    }
}
