//! Where the TLS library asks about a peer's certificate. The judgement
//! itself is [`crate::identity::verify_peer`]; what it found is left for the handshake, since
//! the library hands on nothing but an error that becomes an alert.

use std::cell::RefCell;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::verify_tls13_signature;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError,
    PeerIncompatible, SignatureScheme,
};
use std::sync::Arc;

use super::failure::Presented;
use super::{Judging, provider};
use crate::identity::{PeerFault, PeerSvid, Presenter, TrustBundles};
use crate::spiffe::SpiffeId;

/// What a verifier found out in the handshake that runs around it.
#[derive(Debug)]
pub(super) enum Finding {
    Proved(PeerSvid),
    Refused {
        fault: PeerFault,
        presented: Presented,
    },
}

impl Finding {
    pub(super) fn refused(fault: PeerFault, leaf: &CertificateDer<'_>) -> Self {
        let presented = Presented::of(leaf);
        Self::Refused { fault, presented }
    }
}

tokio::task_local! {
    /// Set around each handshake, so that its own verifier finds it.
    pub(super) static FINDING: RefCell<Option<Finding>>;
}

/// Takes one peer, the expected one: for the end that opens the tunnel.
#[derive(Debug)]
pub(super) struct ThePeer {
    expected: SpiffeId,
    bundles: TrustBundles,
    judging: Judging,
}

/// Takes every peer of a known trust domain: for the end that is dialled.
#[derive(Debug)]
pub(super) struct AnyPeer {
    bundles: TrustBundles,
    judging: Judging,
}

impl ThePeer {
    pub(super) fn new(expected: SpiffeId, bundles: TrustBundles, judging: Judging) -> Self {
        Self {
            expected,
            bundles,
            judging,
        }
    }

    pub(super) fn judge(&self, chain: &[CertificateDer<'_>]) -> Result<PeerSvid, PeerFault> {
        let presenter = Presenter::Server;
        let peer = self.judging.judge(chain, presenter, &self.bundles)?;
        if peer.id != self.expected {
            return Err(PeerFault::UnexpectedIdentity {
                expected: self.expected.clone(),
                got: peer.id,
            });
        }
        Ok(peer)
    }
}

impl AnyPeer {
    pub(super) fn new(bundles: TrustBundles, judging: Judging) -> Self {
        Self { bundles, judging }
    }

    pub(super) fn judge(&self, chain: &[CertificateDer<'_>]) -> Result<PeerSvid, PeerFault> {
        let presenter = Presenter::Client;
        self.judging.judge(chain, presenter, &self.bundles)
    }
}

fn whole<'a>(leaf: &CertificateDer<'a>, rest: &[CertificateDer<'a>]) -> Vec<CertificateDer<'a>> {
    let mut chain = Vec::with_capacity(1 + rest.len());
    chain.push(leaf.clone());
    chain.extend_from_slice(rest);
    chain
}

/// Leaves the finding for the handshake and tells the library what alert to
/// send.
fn noted(judged: Result<PeerSvid, PeerFault>, leaf: &CertificateDer<'_>) -> Result<(), Error> {
    let (finding, answer) = match judged {
        Ok(peer) => (Finding::Proved(peer), Ok(())),
        Err(fault) => {
            let answer = Err(Error::InvalidCertificate(alert_for(&fault)));
            (Finding::refused(fault, leaf), answer)
        }
    };
    // Without a handshake around it (nobody to read it) the answer stands.
    let _ = FINDING.try_with(|slot| slot.replace(Some(finding)));
    answer
}

/// The error whose alert tells the peer's operator most, and nothing about
/// what would have been accepted.
fn alert_for(fault: &PeerFault) -> CertificateError {
    match fault {
        PeerFault::Expired(_) => CertificateError::Expired,
        PeerFault::NotYetValid(_) => CertificateError::NotValidYet,
        PeerFault::UnknownIssuer(_) | PeerFault::NoBundle(_) => CertificateError::UnknownIssuer,
        PeerFault::Revoked(_) => CertificateError::Revoked,
        PeerFault::RevocationUnknown(..) => CertificateError::UnknownRevocationStatus,
        PeerFault::ExtendedKeyUsage(_) => CertificateError::InvalidPurpose,
        PeerFault::San(_) | PeerFault::UnexpectedIdentity { .. } => {
            CertificateError::NotValidForName
        }
        PeerFault::NoCertificate
        | PeerFault::LeafIsAuthority
        | PeerFault::KeyUsage
        | PeerFault::ChainTooLong(_)
        | PeerFault::Chain(_) => CertificateError::Other(OtherError(Arc::new(fault.clone()))),
    }
}

impl ServerCertVerifier for ThePeer {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        // An address, which certificates of workloads do not carry.
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        // The verifier's own clock is the one that this was read from.
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        noted(self.judge(&whole(leaf, intermediates)), leaf)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &provider().signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

impl ClientCertVerifier for AnyPeer {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Our peers have one certificate, and nobody else needs the list.
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        noted(self.judge(&whole(leaf, intermediates)), leaf)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::SupportedVersionsExtensionRequired.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &provider().signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
