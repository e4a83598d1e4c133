//! Bundles of other trust domains, from the files that the configuration
//! names.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;

use super::bundle::{TrustBundle, TrustBundles};
use super::pace::Timings;
use super::pem;
use super::watched::{self, Content, Loaded, Watched};
use crate::config::FederatedBundle;
use crate::spiffe::TrustDomain;

/// The other trust domains, at this moment.
#[derive(Clone, Debug, Default)]
pub struct Federation {
    pub bundles: TrustBundles,
    /// What is wrong with a bundle, by its trust domain. The last usable
    /// state of the bundle, if there was one, stays in `bundles`.
    pub failures: BTreeMap<TrustDomain, String>,
}

/// Follows the bundles of `config` for as long as anyone listens. Begins with
/// what was known of them `before`, so that a change of one is no gap for the
/// others.
pub(super) fn follow(
    config: &[FederatedBundle],
    mut before: Federation,
    timings: Timings,
) -> watch::Receiver<Federation> {
    let wanted = |name: &TrustDomain| config.iter().any(|one| one.trust_domain == *name);
    before
        .bundles
        .retain(|bundle| wanted(bundle.trust_domain()));
    before.failures.retain(|name, _| wanted(name));
    let (sender, receiver) = watch::channel(before);
    for federated in config {
        let bundle = follow_one(federated, timings);
        tokio::spawn(merge(
            federated.trust_domain.clone(),
            bundle,
            sender.clone(),
        ));
    }
    receiver
}

fn follow_one(
    federated: &FederatedBundle,
    timings: Timings,
) -> watch::Receiver<Watched<TrustBundle>> {
    let trust_domain = federated.trust_domain.clone();
    let paths: Vec<PathBuf> = vec![federated.bundle.clone()];
    watched::watch(paths, timings, move |files: &[Content]| {
        match files.first().map(|file| load(file, &trust_domain)) {
            Some(Ok(bundle)) => Loaded {
                good: Some(bundle),
                complaint: None,
            },
            Some(Err(complaint)) => Loaded::complaining(complaint),
            None => Loaded::complaining("no file is named".into()),
        }
    })
}

/// A bundle out of one PEM file.
pub(super) fn load(file: &Content, trust_domain: &TrustDomain) -> Result<TrustBundle, String> {
    let roots = file.parse(pem::certificates)?;
    file.parse(|_| TrustBundle::new(trust_domain.clone(), &roots))
}

async fn merge(
    trust_domain: TrustDomain,
    mut bundle: watch::Receiver<Watched<TrustBundle>>,
    federation: watch::Sender<Federation>,
) {
    loop {
        tokio::select! {
            changed = bundle.changed() => if changed.is_err() { return },
            () = federation.closed() => return,
        }
        let (good, complaint) = {
            let state = bundle.borrow_and_update();
            (state.good.clone(), state.complaint.clone())
        };
        if let Some(complaint) = &complaint {
            tracing::error!(%trust_domain, "federated bundle: {complaint}");
        }
        federation.send_if_modified(|state| {
            let replaced = good.is_some_and(|good| state.bundles.put(Arc::clone(&good)));
            let before = match complaint {
                Some(complaint) => state.failures.insert(trust_domain.clone(), complaint),
                None => state.failures.remove(&trust_domain),
            };
            replaced || before.as_ref() != state.failures.get(&trust_domain)
        });
    }
}
