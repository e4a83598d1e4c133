//! A node's identity store over a folder of files, in virtual time.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use mtls_daemon::clock::{Clock, Hand};
use mtls_daemon::config::{
    Crl, DiskCa, FederatedBundle, Files, ForeignPastExpiry, Identity, Place, Source, Workload,
};
use mtls_daemon::identity::{IdentityStore, Timings, WorkloadIdentity};
use tokio::sync::watch;

use crate::folder::Folder;
use crate::pki::{Ca, Leaf, id, trust_domain};

pub(crate) struct Node {
    pub(crate) folder: Folder,
    pub(crate) store: IdentityStore,
    pub(crate) clock: Clock,
    pub(crate) hand: Hand,
    pub(crate) config: Identity,
}

impl Node {
    /// With a disk-ca in `folder` (see [`write_ca`]) as the node's source.
    pub(crate) fn with_disk_ca(folder: Folder, svid_ttl: Duration) -> Self {
        let source = disk_ca_in(&folder, svid_ttl);
        Self::new(folder, Some(source), Vec::new())
    }

    pub(crate) fn new(
        folder: Folder,
        source: Option<Source>,
        federated: Vec<FederatedBundle>,
    ) -> Self {
        Self::configured(folder, source, federated, Vec::new())
    }

    pub(crate) fn with_crls(folder: Folder, source: Source, crls: Vec<Crl>) -> Self {
        Self::configured(folder, Some(source), Vec::new(), crls)
    }

    fn configured(
        folder: Folder,
        source: Option<Source>,
        federated: Vec<FederatedBundle>,
        crls: Vec<Crl>,
    ) -> Self {
        let config = Identity {
            trust_domain: trust_domain("example.org"),
            source,
            clock_skew: Duration::ZERO,
            foreign_past_expiry: ForeignPastExpiry::Cut,
            federated,
            crls,
        };
        let (clock, hand) = Clock::settable(SystemTime::now());
        let store = IdentityStore::new(config.clone(), clock.clone(), Timings::default());
        Self {
            folder,
            store,
            clock,
            hand,
            config,
        }
    }

    pub(crate) fn enrol(&self, name: &str, spiffe_id: &str) -> Watched {
        self.enrol_from(name, spiffe_id, None)
    }

    pub(crate) fn enrol_from(
        &self,
        name: &str,
        spiffe_id: &str,
        source: Option<Source>,
    ) -> Watched {
        Watched(
            self.store
                .enrol(&workload(name, spiffe_id, source))
                .unwrap(),
        )
    }
}

pub(crate) fn workload(name: &str, spiffe_id: &str, source: Option<Source>) -> Workload {
    Workload {
        name: name.to_owned(),
        spiffe_id: id(spiffe_id),
        place: Place::Netns(PathBuf::from("/nowhere")),
        addresses: Vec::new(),
        mode: None,
        connect: None,
        source,
        excluded: Vec::new(),
        excluded_outbound_ports: Vec::new(),
        excluded_inbound_ports: Vec::new(),
        port_modes: Vec::new(),
        probe_ports: Vec::new(),
    }
}

pub(crate) fn write_ca(folder: &Folder, ca: &Ca, roots: &[&Ca]) {
    folder.write("ca.crt", &ca.pem);
    folder.write("ca.key", &ca.key_pem);
    write_bundle(folder, roots);
}

pub(crate) fn write_bundle(folder: &Folder, roots: &[&Ca]) {
    let roots: String = roots.iter().map(|root| root.pem.as_str()).collect();
    folder.write("bundle.pem", roots);
}

pub(crate) fn disk_ca_in(folder: &Folder, svid_ttl: Duration) -> Source {
    Source::DiskCa(DiskCa {
        certificate: folder.file("ca.crt"),
        key: folder.file("ca.key"),
        bundle: Some(folder.file("bundle.pem")),
        svid_ttl,
    })
}

/// The names that a Kubernetes Secret of type tls has.
pub(crate) fn write_files(folder: &Folder, leaf: &Leaf, root: &Ca) {
    folder.write("tls.crt", leaf.chain_pem());
    folder.write("tls.key", leaf.key_pem());
    folder.write("ca.crt", &root.pem);
}

pub(crate) fn files_in(folder: &Folder) -> Source {
    Source::Files(Files {
        certificate: folder.file("tls.crt"),
        key: folder.file("tls.key"),
        bundle: folder.file("ca.crt"),
    })
}

pub(crate) fn federated(domain: &str, bundle: PathBuf) -> FederatedBundle {
    FederatedBundle {
        trust_domain: trust_domain(domain),
        bundle,
    }
}

pub(crate) struct Watched(pub(crate) watch::Receiver<WorkloadIdentity>);

impl Watched {
    /// Waits, an hour of virtual time at most.
    pub(crate) async fn until(
        &mut self,
        what: &str,
        wanted: impl FnMut(&WorkloadIdentity) -> bool,
    ) -> WorkloadIdentity {
        let waiting = async { self.0.wait_for(wanted).await.unwrap().clone() };
        let found = tokio::time::timeout(Duration::from_secs(3600), waiting).await;
        found.unwrap_or_else(|_| panic!("waited in vain: {what}; it is {:?}", self.now()))
    }

    pub(crate) async fn ready(&mut self) -> WorkloadIdentity {
        self.until("ready", |state| state.svid.is_some()).await
    }

    /// A certificate with another serial number than in `before`.
    pub(crate) async fn renewed(&mut self, before: &WorkloadIdentity) -> WorkloadIdentity {
        let serial = before.svid.as_ref().map(|svid| svid.serial().to_owned());
        self.until("renewed", |state| {
            state
                .svid
                .as_ref()
                .is_some_and(|svid| Some(svid.serial()) != serial.as_deref())
        })
        .await
    }

    pub(crate) async fn failing(&mut self) -> String {
        let state = self.until("failing", |state| state.failure.is_some()).await;
        state.failure.unwrap()
    }

    pub(crate) fn now(&self) -> WorkloadIdentity {
        self.0.borrow().clone()
    }
}

/// The generation of a trust domain's bundle.
pub(crate) fn generation(state: &WorkloadIdentity, domain: &str) -> Option<u64> {
    Some(state.bundles.get(&trust_domain(domain))?.generation())
}
