//! What an authority must be, and a plain sentence for each way in which one
//! is not.

use std::fmt;
use std::time::SystemTime;

use rustls::pki_types::CertificateDer;
use thiserror::Error;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::super::bundle::TrustBundle;
use super::super::certificate::{Facts, shown};
use super::super::source::SourceError;
use super::super::verify::PeerFault;
use crate::spiffe::TrustDomain;

/// Why an authority cannot issue, one sentence each.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AuthorityFault {
    #[error(
        "certificate {nth} ({subject}) is not that of an authority: basicConstraints lacks CA:TRUE"
    )]
    NotAnAuthority { nth: usize, subject: String },
    #[error(
        "certificate {nth} ({subject}) may not sign certificates: its keyUsage lacks keyCertSign"
    )]
    KeyUsage { nth: usize, subject: String },
    #[error(
        "certificate {nth} ({subject}) limits what it issues to other uses: its extendedKeyUsage lacks serverAuth or clientAuth"
    )]
    ExtendedKeyUsage { nth: usize, subject: String },
    #[error(
        "certificate {nth} ({subject}) allows {allowed} authorities below it (pathlen), and {below} stand there"
    )]
    PathLen {
        nth: usize,
        subject: String,
        allowed: u32,
        below: usize,
    },
    #[error("certificate {nth} ({subject}) ended at {}", shown(*not_after))]
    Expired {
        nth: usize,
        subject: String,
        not_after: SystemTime,
    },
    #[error("certificate {nth} ({subject}) begins at {}, later than now: compare the clocks", shown(*not_before))]
    NotYetValid {
        nth: usize,
        subject: String,
        not_before: SystemTime,
    },
    #[error("certificate {nth} cannot be read")]
    Unreadable { nth: usize },
    #[error(
        "certificate {nth} ({subject}) was not issued by the one after it: order them from the authority upwards"
    )]
    Order { nth: usize, subject: String },
    #[error("the private key does not belong to the first certificate ({subject})")]
    OtherKey { subject: String },
    #[error(
        "its name constraints do not allow spiffe:// names of {0}; constraints on URIs are not supported, so that any of them refuses"
    )]
    NameConstraints(TrustDomain),
    #[error("a certificate made with it does not verify: {0}")]
    Trial(PeerFault),
    #[error("a certificate cannot be made with it: {0}")]
    Issue(SourceError),
    #[error("its private key is of a kind that cannot sign certificates")]
    KeyKind,
}

/// All of them, at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorityFaults(pub Vec<AuthorityFault>);

impl AuthorityFault {
    pub(super) fn of_trial(fault: PeerFault, bundle: &TrustBundle) -> Self {
        match fault {
            PeerFault::Chain(webpki::Error::NameConstraintViolation) => {
                Self::NameConstraints(bundle.trust_domain().clone())
            }
            other => Self::Trial(other),
        }
    }
}

/// A self-signed certificate at the end of a chain is of no use to anyone:
/// who trusts it has it. Alone, it is the authority itself.
pub(super) fn without_root(
    mut chain: Vec<CertificateDer<'static>>,
) -> Vec<CertificateDer<'static>> {
    while chain.len() > 1
        && chain
            .last()
            .and_then(|der| Facts::of(der))
            .is_some_and(|facts| facts.self_issued)
    {
        chain.pop();
    }
    chain
}

/// Looks at each certificate by itself and at its place in the chain.
pub(super) fn look_through(
    chain: &[CertificateDer<'_>],
    now: SystemTime,
    faults: &mut Vec<AuthorityFault>,
) -> Vec<Facts> {
    let mut links = Vec::with_capacity(chain.len());
    for (nth, der) in (1..).zip(chain) {
        let Some(facts) = Facts::of(der) else {
            faults.push(AuthorityFault::Unreadable { nth });
            continue;
        };
        look_at(nth, &facts, now, faults);
        links.push(facts);
    }
    for (nth, pair) in (1..).zip(chain.windows(2)) {
        if !issued_by(&pair[0], &pair[1]) {
            let subject = Facts::of(&pair[0])
                .map(|facts| facts.subject)
                .unwrap_or_default();
            faults.push(AuthorityFault::Order { nth, subject });
        }
    }
    links
}

fn look_at(nth: usize, facts: &Facts, now: SystemTime, faults: &mut Vec<AuthorityFault>) {
    let subject = || facts.subject.clone();
    if !facts.is_ca {
        faults.push(AuthorityFault::NotAnAuthority {
            nth,
            subject: subject(),
        });
    }
    if facts.key_usage.is_some_and(|usage| !usage.key_cert_sign) {
        faults.push(AuthorityFault::KeyUsage {
            nth,
            subject: subject(),
        });
    }
    if facts
        .extended_key_usage
        .is_some_and(|usage| !(usage.server_auth && usage.client_auth))
    {
        faults.push(AuthorityFault::ExtendedKeyUsage {
            nth,
            subject: subject(),
        });
    }
    let below = nth - 1;
    if let Some(allowed) = facts.path_len.filter(|allowed| below > *allowed as usize) {
        faults.push(AuthorityFault::PathLen {
            nth,
            subject: subject(),
            allowed,
            below,
        });
    }
    if now > facts.not_after {
        let not_after = facts.not_after;
        faults.push(AuthorityFault::Expired {
            nth,
            subject: subject(),
            not_after,
        });
    }
    if now < facts.not_before {
        let not_before = facts.not_before;
        faults.push(AuthorityFault::NotYetValid {
            nth,
            subject: subject(),
            not_before,
        });
    }
}

/// By name; the trial verifies the signatures.
fn issued_by(below: &CertificateDer<'_>, above: &CertificateDer<'_>) -> bool {
    let (Ok((_, below)), Ok((_, above))) = (
        X509Certificate::from_der(below),
        X509Certificate::from_der(above),
    ) else {
        return false;
    };
    below.issuer().as_raw() == above.subject().as_raw()
}

impl fmt::Display for AuthorityFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (nth, fault) in self.0.iter().enumerate() {
            if nth > 0 {
                f.write_str("; ")?;
            }
            fault.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for AuthorityFaults {}
