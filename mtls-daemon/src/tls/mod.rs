//! Mutual TLS between daemons: version 1.3 only, both ends verified against
//! the trust bundle of the other's own trust domain, HTTP/2 inside.
//!
//! Sessions are resumed, which saves both ends a signature and its check. The
//! TLS library takes a resumed peer's certificate chain from the ticket without
//! asking the verifier, so tickets are kept to one certificate, one set of
//! bundles and one state of the revocation lists ([`tickets`]), and a resumed
//! peer is judged again before anybody hears of it.
//!
//! A tunnel outlives the certificates that it was opened with: either end
//! proves its renewed one on the open connection ([`proof`]).
//!
//! No server name: peers are addresses and SPIFFE IDs.

mod exporter;
mod failure;
mod handshake;
pub mod proof;
mod records;
mod session;
mod tickets;
mod verifier;

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

pub use failure::{HandshakeError, HandshakeFault, Presented, reason_of};
pub use handshake::{Facts, Handshaken, accept, connect};
pub use records::{Opened, Records};
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider, kx_group};
use rustls::pki_types::CertificateDer;
use rustls::server::NoServerSessionStorage;
use rustls::sign::SingleCertAndKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};
pub use session::Session;
use tickets::Tickets;
use verifier::{AnyPeer, ThePeer};

use crate::clock::Clock;
use crate::identity::{
    NewestRevocations, PeerFault, PeerSvid, Presenter, Svid, Terms, TrustBundles, verify_peer,
};
use crate::spiffe::SpiffeId;

/// The one application protocol, exactly.
const ALPN: &[u8] = b"h2";

/// Addresses of one peer that a session is remembered for.
const SESSIONS: usize = 16;

/// Everything cryptographic, named one by one: a change of the library's
/// defaults changes nothing here. The hybrid group comes first; the classical
/// ones are for peers that lack it.
static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups: vec![
            kx_group::X25519MLKEM768,
            kx_group::X25519,
            kx_group::SECP256R1,
            kx_group::SECP384R1,
        ],
        ..default_provider()
    })
});

/// How peers' certificates are judged, beside the bundles.
#[derive(Clone, Debug)]
pub struct Judging {
    pub clock: Clock,
    /// Tolerated difference between clocks.
    pub skew: Duration,
    pub revocations: NewestRevocations,
}

impl Judging {
    /// Judges a chain, now.
    pub fn judge(
        &self,
        chain: &[CertificateDer<'_>],
        presenter: Presenter,
        bundles: &TrustBundles,
    ) -> Result<PeerSvid, PeerFault> {
        let terms = Terms {
            bundles,
            revocations: &self.revocations.get(),
            now: self.clock.now(),
            skew: self.skew,
        };
        verify_peer(chain, presenter, &terms)
    }
}

/// A workload's TLS settings for one SVID and one set of bundles. A newer
/// SVID or bundle makes a new one; an old one serves the handshakes that it
/// began. One a worker: it is not shared between threads.
pub struct WorkloadTls {
    svid: Arc<Svid>,
    bundles: TrustBundles,
    judging: Judging,
    server: Arc<ServerSettings>,
    /// By the identity expected of the peer. The directory bounds it: no
    /// peer can add to it.
    clients: RefCell<HashMap<SpiffeId, Arc<ClientSettings>>>,
}

/// For the end that is dialled.
#[derive(Debug)]
pub struct ServerSettings {
    config: Arc<ServerConfig>,
    verifier: Arc<AnyPeer>,
}

/// For the end that opens the tunnel.
#[derive(Debug)]
pub struct ClientSettings {
    config: Arc<ClientConfig>,
    verifier: Arc<ThePeer>,
}

impl WorkloadTls {
    pub fn new(
        svid: Arc<Svid>,
        bundles: TrustBundles,
        judging: Judging,
    ) -> Result<Self, rustls::Error> {
        Ok(Self {
            server: server_config(&svid, &bundles, &judging)?,
            svid,
            bundles,
            judging,
            clients: RefCell::default(),
        })
    }

    /// For tunnels that peers open to the workload.
    pub fn server(&self) -> &Arc<ServerSettings> {
        &self.server
    }

    /// For tunnels to a peer that must prove exactly `expected`.
    pub fn client(&self, expected: &SpiffeId) -> Result<Arc<ClientSettings>, rustls::Error> {
        if let Some(config) = self.clients.borrow().get(expected) {
            return Ok(Arc::clone(config));
        }
        let config = client_config(&self.svid, &self.bundles, expected, &self.judging)?;
        self.clients
            .borrow_mut()
            .insert(expected.clone(), Arc::clone(&config));
        Ok(config)
    }

    pub fn bundles(&self) -> &TrustBundles {
        &self.bundles
    }

    pub fn svid(&self) -> &Arc<Svid> {
        &self.svid
    }
}

/// Settings for a tunnel to a peer that must prove exactly `expected`,
/// against the bundle of its own trust domain.
pub fn client_config(
    svid: &Svid,
    bundles: &TrustBundles,
    expected: &SpiffeId,
    judging: &Judging,
) -> Result<Arc<ClientSettings>, rustls::Error> {
    let verifier = Arc::new(ThePeer::new(
        expected.clone(),
        bundles.clone(),
        judging.clone(),
    ));
    let mut config =
        ClientConfig::builder_with_details(Arc::clone(&PROVIDER), Arc::new(judging.clock.clone()))
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::<ThePeer>::clone(&verifier))
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(svid.key()))));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.enable_sni = false;
    config.enable_early_data = false;
    config.resumption = Resumption::in_memory_sessions(SESSIONS);
    config.enable_secret_extraction = true;
    config.key_log = Arc::new(exporter::Keeper);
    let config = Arc::new(config);
    Ok(Arc::new(ClientSettings { config, verifier }))
}

/// Settings for tunnels from any peer that proves an identity of a trust
/// domain that is known here; whether that identity may come in is policy.
pub fn server_config(
    svid: &Svid,
    bundles: &TrustBundles,
    judging: &Judging,
) -> Result<Arc<ServerSettings>, rustls::Error> {
    let verifier = Arc::new(AnyPeer::new(bundles.clone(), judging.clone()));
    let mut config =
        ServerConfig::builder_with_details(Arc::clone(&PROVIDER), Arc::new(judging.clock.clone()))
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(Arc::<AnyPeer>::clone(&verifier))
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(svid.key()))));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.max_early_data_size = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = Arc::new(Tickets::new(judging.revocations.clone()));
    config.send_tls13_tickets = 1;
    config.enable_secret_extraction = true;
    config.key_log = Arc::new(exporter::Keeper);
    let config = Arc::new(config);
    Ok(Arc::new(ServerSettings { config, verifier }))
}

/// For the fuzzer.
#[cfg(fuzzing)]
pub fn fuzz_records(input: &[u8]) {
    records::fuzz::run(input);
}

fn provider() -> &'static CryptoProvider {
    &PROVIDER
}
