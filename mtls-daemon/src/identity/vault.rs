//! `vault`: the PKI secrets engine of OpenBao or HashiCorp Vault, which signs
//! certificates for keys that are made here and never leave memory.

mod client;
mod explain;
mod session;

use std::sync::Arc;

use http::StatusCode;
use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};
use tokio::sync::watch;

use self::client::{CallError, Client};
use self::session::Session;
use super::bundle::TrustBundle;
use super::csr;
use super::key::new_key;
use super::pace::{Pace, Timings};
use super::signing::{self, Signed, Signer, Signing};
use super::source::{Source, SourceError, Updates};
use super::svid::Issued;
use super::watched::Watched;
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
        Self {
            session: Session::start(Arc::clone(&client), config, pace),
            client,
            bundle: signing::follow(&config.bundle, trust_domain, timings),
            config: Arc::new(config.clone()),
            clock,
            timings,
            seed,
        }
    }
}

impl Source for Vault {
    fn kind(&self) -> &'static str {
        "vault"
    }

    fn updates(&self, workload: &config::Workload) -> Box<dyn Updates> {
        let asking = Asking {
            workload: workload.spiffe_id.clone(),
            config: Arc::clone(&self.config),
            client: Arc::clone(&self.client),
            session: self.session.clone(),
        };
        let pace = Pace::new(self.timings, self.clock.clone(), self.seed);
        Box::new(Signing::new(asking, &self.bundle, pace))
    }
}

/// Has one workload's certificates signed.
struct Asking {
    workload: SpiffeId,
    config: Arc<config::Vault>,
    client: Arc<Client>,
    session: Session,
}

impl Signer for Asking {
    async fn sign(&mut self) -> Result<Signed, SourceError> {
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
            Ok(answer) => {
                let chain = chain(&answer).map_err(|what| {
                    SourceError::Issue(format!("{}: its answer {what}", config.address))
                })?;
                Ok(Signed {
                    issued: Issued { chain, key },
                    complaint: None,
                })
            }
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
}

/// The leaf and what stands between it and its root, which peers have.
fn chain(answer: &Value) -> Result<Vec<CertificateDer<'static>>, String> {
    let data = &answer["data"];
    let leaf = data["certificate"].as_str().ok_or("holds no certificate")?;
    let above: Vec<&str> = match &data["ca_chain"] {
        Value::Array(chain) => chain.iter().filter_map(Value::as_str).collect(),
        _ => data["issuing_ca"].as_str().into_iter().collect(),
    };
    signing::chain([leaf].into_iter().chain(above))
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
