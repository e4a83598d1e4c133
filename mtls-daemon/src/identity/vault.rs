//! `vault`: the PKI secrets engine of OpenBao or HashiCorp Vault, which signs
//! certificates for keys that are made here and never leave memory.
//!
//! Peers are verified against the roots in a file of this node, never against
//! what the server says: whoever takes the server over can make certificates
//! with its authority's key, but cannot add an authority.

mod client;
mod csr;
mod explain;
mod session;

use std::sync::Arc;
use std::time::SystemTime;

use http::StatusCode;
use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};
use tokio::sync::watch;

use self::client::{CallError, Client};
use self::session::Session;
use super::bundle::{TrustBundle, TrustBundles};
use super::certificate::Facts;
use super::federation;
use super::key::new_key;
use super::pace::{Pace, Timings};
use super::pem;
use super::source::{Next, Source, SourceError, Standing, Update, Updates};
use super::svid::{Issued, Svid};
use super::watched::{self, Content, Loaded, Watched};
use crate::clock::Clock;
use crate::config;
use crate::spiffe::{SpiffeId, TrustDomain};

/// The source: one login for all workloads that name the same role.
pub struct Vault {
    config: Arc<config::Vault>,
    client: Arc<Client>,
    session: Session,
    bundle: watch::Receiver<Watched<TrustBundle>>,
    clock: Clock,
    timings: Timings,
    seed: u64,
}

impl Vault {
    /// Logs in, and follows the bundle's file from now on.
    pub fn start(
        config: &config::Vault,
        trust_domain: &TrustDomain,
        clock: Clock,
        timings: Timings,
        seed: u64,
    ) -> Self {
        let client = Arc::new(Client::new(config));
        let pace = Pace::new(timings, clock.clone(), seed);
        let load = {
            let trust_domain = trust_domain.clone();
            move |files: &[Content]| load(&trust_domain, files)
        };
        Self {
            session: Session::start(Arc::clone(&client), config, pace),
            client,
            bundle: watched::watch(vec![config.bundle.clone()], timings, load),
            config: Arc::new(config.clone()),
            clock,
            timings,
            seed,
        }
    }
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

impl Source for Vault {
    fn kind(&self) -> &'static str {
        "vault"
    }

    fn updates(&self, workload: &config::Workload) -> Box<dyn Updates> {
        let mut bundle = self.bundle.clone();
        // Its present state is news to this workload.
        bundle.mark_changed();
        Box::new(Signing {
            workload: workload.spiffe_id.clone(),
            config: Arc::clone(&self.config),
            client: Arc::clone(&self.client),
            session: self.session.clone(),
            bundle,
            pace: Pace::new(self.timings, self.clock.clone(), self.seed),
        })
    }
}

/// Has one workload's certificates signed.
struct Signing {
    workload: SpiffeId,
    config: Arc<config::Vault>,
    client: Arc<Client>,
    session: Session,
    bundle: watch::Receiver<Watched<TrustBundle>>,
    pace: Pace,
}

impl Updates for Signing {
    fn next(&mut self, standing: Standing) -> Next<'_> {
        Box::pin(async move {
            tokio::select! {
                biased;
                changed = self.bundle.changed() => match changed {
                    Ok(()) => self.first_bundle().await?,
                    Err(_) => return Err(SourceError::Load("its bundle is no longer watched".into())),
                },
                () = self.pace.wait(&standing) => {
                    let issued = self.sign().await?;
                    return Ok(self.update(Some(issued)));
                }
            }
            // A workload that has nothing yet asks at once, a failing one when
            // its time comes.
            match standing {
                Standing {
                    held: None,
                    failures: 0,
                    ..
                } => {
                    let issued = self.sign().await?;
                    Ok(self.update(Some(issued)))
                }
                _ => Ok(self.update(None)),
            }
        })
    }

    fn renews_at(&self, held: &Svid) -> Option<SystemTime> {
        Some(self.pace.renew_at(held))
    }
}

impl Signing {
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

    async fn sign(&mut self) -> Result<Issued, SourceError> {
        // Nothing could be taken without it.
        self.first_bundle().await?;
        let config = Arc::clone(&self.config);
        let token = self.session.token().await.map_err(SourceError::Load)?;
        let key = new_key()?;
        let csr = csr::request(&self.workload, &*key)
            .ok_or_else(|| SourceError::Issue("a request could not be signed".into()))?;
        let body = json!({
            "csr": csr,
            // For roles that do not take the names out of the request.
            "uri_sans": self.workload.as_str(),
            "ttl": format!("{}s", config.svid_ttl.as_secs()),
            "format": "pem",
        });
        let path = format!("{}/sign/{}", config.mount, config.role);
        match self.client.post(&path, Some(&token), &body).await {
            Ok(answer) => Ok(Issued {
                chain: chain(&answer).map_err(|what| {
                    SourceError::Issue(format!("{}: its answer {what}", config.address))
                })?,
                key,
            }),
            Err(error) => {
                if matches!(&error, CallError::Refused { status, .. } if *status == StatusCode::FORBIDDEN)
                {
                    self.session.refused();
                }
                let why = explain::sign(&error, &config, &self.workload);
                Err(SourceError::Load(why))
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

/// The leaf and what stands between it and its root, which peers have.
fn chain(answer: &Value) -> Result<Vec<CertificateDer<'static>>, String> {
    let data = &answer["data"];
    let leaf = data["certificate"].as_str().ok_or("holds no certificate")?;
    let above: Vec<&str> = match &data["ca_chain"] {
        Value::Array(chain) => chain.iter().filter_map(Value::as_str).collect(),
        _ => data["issuing_ca"].as_str().into_iter().collect(),
    };
    let read = |text: &str| {
        pem::certificates(text.as_bytes()).map_err(|e| format!("has a certificate of no use: {e}"))
    };
    let mut chain = read(leaf)?;
    for text in above {
        for certificate in read(text)? {
            let is_root = Facts::of(&certificate).is_some_and(|facts| facts.self_issued);
            if !is_root && !chain.contains(&certificate) {
                chain.push(certificate);
            }
        }
    }
    Ok(chain)
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

    use super::*;

    fn authority(name: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        let name = rcgen::DnValue::Utf8String(name.to_owned());
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
    }

    #[test]
    fn a_chain_is_the_leaf_and_what_is_below_the_root() {
        let new = || KeyPair::generate().unwrap();
        let root = CertifiedIssuer::self_signed(authority("root"), new()).unwrap();
        let middle = CertifiedIssuer::signed_by(authority("middle"), new(), &root).unwrap();
        let leaf = CertificateParams::default()
            .signed_by(&new(), &middle)
            .unwrap();
        let answer = json!({"data": {
            "certificate": leaf.pem(),
            "issuing_ca": middle.pem(),
            "ca_chain": [middle.pem(), root.pem()],
        }});
        let found = chain(&answer).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!(found[0], *leaf.der());
        assert_eq!(found[1], *middle.der());
        // Older servers name the issuer alone.
        let answer = json!({"data": {"certificate": leaf.pem(), "issuing_ca": middle.pem()}});
        assert_eq!(chain(&answer).unwrap(), found);
        let answer = json!({"data": {"certificate": leaf.pem(), "issuing_ca": root.pem()}});
        assert_eq!(chain(&answer).unwrap(), found[..1]);
    }

    #[test]
    fn an_answer_without_a_certificate_is_told() {
        for (answer, why) in [
            (json!({}), "holds no certificate"),
            (
                json!({"data": {"certificate": "no"}}),
                "has a certificate of no use",
            ),
        ] {
            let told = chain(&answer).unwrap_err();
            assert!(told.starts_with(why), "{told}");
        }
    }
}
