//! Certificate revocation lists: what is known of certificates that were
//! withdrawn before their end.
//!
//! Where lists are configured for a trust domain, a certificate of it counts
//! only if a current list of its issuer says nothing against it. A list that
//! is missing, stale, unreadable or signed by somebody else refuses as well,
//! unless the operator chose otherwise; what is refused, and what was let in
//! without an answer, is told apart and counted.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::pki_types::CertificateRevocationListDer;
use rustls::pki_types::pem::PemObject;
use thiserror::Error;
use webpki::{
    CertRevocationList, ExpirationPolicy, OwnedCertRevocationList, RevocationCheckDepth,
    RevocationOptions, RevocationOptionsBuilder, UnknownStatusPolicy,
};
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

use super::certificate::system_time;
use crate::config::{CrlDepth, CrlPolicy};
use crate::spiffe::TrustDomain;

/// The lists of all trust domains that have some, at one moment.
#[derive(Clone, Debug, Default)]
pub struct Revocations(BTreeMap<TrustDomain, Arc<Revocation>>);

/// The lists of one trust domain, and how they are used.
pub struct Revocation {
    policy: CrlPolicy,
    depth: CrlDepth,
    lists: Arc<Lists>,
    /// Why there is no list to ask.
    fault: Option<String>,
    /// What is wrong although the lists can be asked.
    complaint: Option<String>,
}

/// Lists that could be read.
#[derive(Default)]
pub struct Lists {
    lists: Vec<Arc<CertRevocationList<'static>>>,
    described: Vec<ListFacts>,
}

/// What is known of a list beside its entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListFacts {
    pub issuer: String,
    pub this_update: SystemTime,
    pub next_update: SystemTime,
    /// Certificates that it withdraws.
    pub entries: usize,
}

/// Why a text is no revocation list.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ListError {
    #[error("it is damaged: {0}")]
    Damaged(String),
    #[error("it holds no revocation list (-----BEGIN X509 CRL-----, or DER)")]
    None,
    #[error("revocation list {0} in it cannot be used: {1}")]
    Unusable(usize, String),
    #[error(
        "revocation list {0} in it ({1}) does not say when the next one comes (nextUpdate), so that nobody could tell when it is stale"
    )]
    Endless(usize, String),
}

impl Revocations {
    /// Of a node without any lists.
    pub fn none() -> &'static Self {
        static NONE: Revocations = Revocations(BTreeMap::new());
        &NONE
    }

    pub fn get(&self, trust_domain: &TrustDomain) -> Option<&Arc<Revocation>> {
        self.0.get(trust_domain)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&TrustDomain, &Arc<Revocation>)> {
        self.0.iter()
    }

    pub fn put(&mut self, trust_domain: TrustDomain, revocation: Revocation) {
        self.0.insert(trust_domain, Arc::new(revocation));
    }

    pub fn retain(&mut self, mut wanted: impl FnMut(&TrustDomain) -> bool) {
        self.0.retain(|trust_domain, _| wanted(trust_domain));
    }
}

impl Revocation {
    pub fn new(policy: CrlPolicy, depth: CrlDepth, lists: Arc<Lists>) -> Self {
        Self {
            policy,
            depth,
            lists,
            fault: None,
            complaint: None,
        }
    }

    /// The same, and something is wrong with where the lists come from.
    pub fn complaining(self, complaint: Option<String>) -> Self {
        Self { complaint, ..self }
    }

    /// Nothing can be asked: under `hard` every certificate of the trust
    /// domain is refused.
    pub fn at_fault(policy: CrlPolicy, depth: CrlDepth, fault: String) -> Self {
        Self {
            policy,
            depth,
            lists: Arc::default(),
            fault: Some(fault),
            complaint: None,
        }
    }

    pub fn policy(&self) -> CrlPolicy {
        self.policy
    }

    pub fn depth(&self) -> CrlDepth {
        self.depth
    }

    pub fn lists(&self) -> &[ListFacts] {
        &self.lists.described
    }

    pub fn fault(&self) -> Option<&str> {
        self.fault.as_deref()
    }

    pub fn complaint(&self) -> Option<&str> {
        self.complaint.as_deref()
    }

    /// How often [`Self::asking`] has something to offer: issuers that were
    /// made anew under their old name have lists that only their own
    /// certificates can be judged by.
    pub(super) fn choices(&self) -> usize {
        let lists = &self.lists.lists;
        let of_issuer = |issuer| lists.iter().filter(|list| list.issuer() == issuer).count();
        let counts = lists.iter().map(|list| of_issuer(list.issuer()));
        counts.max().unwrap_or(0)
    }

    /// One list for each issuer, the `nth` where it has several; strictly or
    /// for what it is worth.
    pub(super) fn asking<R>(
        &self,
        nth: usize,
        strictly: bool,
        judge: impl FnOnce(RevocationOptions<'_>) -> R,
    ) -> Option<R> {
        let mut chosen: Vec<&CertRevocationList<'_>> = Vec::new();
        let mut seen: Vec<(&[u8], usize)> = Vec::new();
        for list in &self.lists.lists {
            match seen.iter_mut().find(|(issuer, _)| *issuer == list.issuer()) {
                None => {
                    seen.push((list.issuer(), 1));
                    chosen.push(list);
                }
                Some((issuer, count)) => {
                    *count += 1;
                    if *count == nth + 1
                        && let Some(held) = chosen.iter_mut().find(|held| held.issuer() == *issuer)
                    {
                        *held = list;
                    }
                }
            }
        }
        let depth = match self.depth {
            CrlDepth::Leaf => RevocationCheckDepth::EndEntity,
            CrlDepth::Chain => RevocationCheckDepth::Chain,
        };
        let (unknown, stale) = if strictly {
            (UnknownStatusPolicy::Deny, ExpirationPolicy::Enforce)
        } else {
            (UnknownStatusPolicy::Allow, ExpirationPolicy::Ignore)
        };
        let options = RevocationOptionsBuilder::new(&chosen).ok()?;
        let options = options
            .with_depth(depth)
            .with_status_policy(unknown)
            .with_expiration_policy(stale);
        Some(judge(options.build()))
    }
}

impl Lists {
    pub(super) fn joined<'a>(parts: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut all = Self::default();
        for part in parts {
            all.lists.extend(part.lists.iter().cloned());
            all.described.extend_from_slice(&part.described);
        }
        all
    }

    /// Takes in the lists of a file, PEM or DER.
    pub fn add(&mut self, text: &[u8]) -> Result<(), ListError> {
        let ders = ders(text)?;
        for (nth, der) in (1..).zip(&ders) {
            let (list, facts) = read(nth, der)?;
            self.lists.push(Arc::new(list));
            self.described.push(facts);
        }
        Ok(())
    }
}

fn ders(text: &[u8]) -> Result<Vec<CertificateRevocationListDer<'static>>, ListError> {
    // DER begins with a SEQUENCE, which no text does.
    if text.first() == Some(&0x30) {
        return Ok(vec![text.to_vec().into()]);
    }
    let ders: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(text).collect();
    let ders = ders.map_err(|error| ListError::Damaged(error.to_string()))?;
    if ders.is_empty() {
        return Err(ListError::None);
    }
    Ok(ders)
}

fn read(
    nth: usize,
    der: &CertificateRevocationListDer<'_>,
) -> Result<(CertRevocationList<'static>, ListFacts), ListError> {
    let unusable = |what: &dyn fmt::Display| ListError::Unusable(nth, what.to_string());
    let (_, parsed) = CertificateRevocationList::from_der(der).map_err(|error| unusable(&error))?;
    let issuer = parsed.issuer().to_string();
    let next_update = parsed
        .next_update()
        .ok_or_else(|| ListError::Endless(nth, issuer.clone()))?;
    let facts = ListFacts {
        issuer,
        this_update: system_time(parsed.last_update()),
        next_update: system_time(next_update),
        entries: parsed.iter_revoked_certificates().count(),
    };
    let list = OwnedCertRevocationList::from_der(der).map_err(|error| unusable(&error))?;
    Ok((list.into(), facts))
}

impl fmt::Debug for Revocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Revocation")
            .field("policy", &self.policy)
            .field("depth", &self.depth)
            .field("lists", &self.lists.described)
            .field("fault", &self.fault)
            .finish()
    }
}
