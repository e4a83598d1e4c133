//! Why a handshake failed, in the words that operators read.

use std::time::{Duration, SystemTime};
use std::{fmt, io};

use rustls::pki_types::CertificateDer;
use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible};
use thiserror::Error;

use crate::identity::PeerFault;
use crate::identity::certificate::{Facts, shown};
use crate::reason::Reason;
use crate::spiffe::Claimed;

/// A handshake that came to nothing.
#[derive(Debug)]
pub struct HandshakeError {
    pub fault: HandshakeFault,
    /// What the refused peer showed: for the log, never for a label.
    pub presented: Option<Presented>,
    pub took: Duration,
}

/// A certificate that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Presented {
    pub claimed: Claimed,
    /// Serial number and dates, if it could be read so far.
    pub rest: Option<(String, SystemTime, SystemTime)>,
}

impl Presented {
    /// A serial number has twenty bytes at most (RFC 5280, 4.1.2.2).
    const SERIAL: usize = 40;

    pub(super) fn of(leaf: &CertificateDer<'_>) -> Self {
        let rest = Facts::of(leaf).map(|facts| {
            let serial = facts.serial.chars().take(Self::SERIAL).collect();
            (serial, facts.not_before, facts.not_after)
        });
        Self {
            claimed: Claimed::by_certificate(leaf),
            rest,
        }
    }
}

impl fmt::Display for Presented {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "it claimed to be {}", self.claimed)?;
        match &self.rest {
            Some((serial, from, until)) => write!(
                f,
                ", with certificate {serial} of {} to {}",
                shown(*from),
                shown(*until)
            ),
            None => Ok(()),
        }
    }
}

/// What happened, told by whose fault it is.
#[derive(Debug, Error)]
pub enum HandshakeFault {
    #[error("{0}")]
    Peer(#[from] PeerFault),
    #[error("the peer ended the handshake with the alert {}: its log says why", alert_name(*.0))]
    Alert(AlertDescription),
    #[error("TLS: {0}")]
    Tls(Error),
    #[error("the peer speaks TLS but did not agree on HTTP/2 (ALPN h2) inside it")]
    Protocol,
    #[error("the handshake was not done within {0:?}")]
    Timeout(Duration),
    #[error("the peer closed the connection during the handshake")]
    Eof,
    #[error("the connection broke during the handshake: {0}")]
    Io(io::Error),
    #[error("{0}")]
    Internal(&'static str),
}

impl HandshakeError {
    pub fn reason(&self) -> Reason {
        match &self.fault {
            HandshakeFault::Peer(fault) => fault.reason(),
            HandshakeFault::Alert(alert) => reason_of(&Error::AlertReceived(*alert)),
            HandshakeFault::Tls(error) => reason_of(error),
            HandshakeFault::Protocol => Reason::NoCommonProtocol,
            HandshakeFault::Timeout(_) => Reason::Timeout,
            HandshakeFault::Eof => Reason::Eof,
            HandshakeFault::Io(_) => Reason::Io,
            HandshakeFault::Internal(_) => Reason::Internal,
        }
    }
}

impl HandshakeFault {
    pub(super) fn of_io(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Eof,
            _ => Self::Io(error),
        }
    }

    pub(super) fn of_tls(error: Error) -> Self {
        match error {
            Error::AlertReceived(alert) => Self::Alert(alert),
            error => Self::Tls(error),
        }
    }

    /// Whether an alert went out that the peer should get to read.
    pub(super) fn was_told(&self) -> bool {
        matches!(self, Self::Peer(_) | Self::Tls(_) | Self::Protocol)
    }
}

/// The reason behind an error of the TLS library, wherever it turns up. In
/// TLS 1.3 the end that dialled is done before the other has judged its
/// certificate: what it then reads first may be the alert of a refusal.
pub fn reason_of(error: &Error) -> Reason {
    match error {
        Error::AlertReceived(AlertDescription::ProtocolVersion) => Reason::NoCommonVersion,
        Error::AlertReceived(AlertDescription::NoApplicationProtocol)
        | Error::NoApplicationProtocol => Reason::NoCommonProtocol,
        Error::AlertReceived(_) => Reason::AlertFromPeer,
        Error::InvalidCertificate(error) => reason_of_certificate(error),
        Error::NoCertificatesPresented => Reason::NoCert,
        Error::PeerIncompatible(what) => match what {
            PeerIncompatible::SupportedVersionsExtensionRequired
            | PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
            | PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled => Reason::NoCommonVersion,
            PeerIncompatible::NoKxGroupsInCommon
            | PeerIncompatible::NamedGroupsExtensionRequired
            | PeerIncompatible::KeyShareExtensionRequired => Reason::NoCommonGroup,
            PeerIncompatible::NoSignatureSchemesInCommon
            | PeerIncompatible::NoCertificateRequestSignatureSchemesInCommon => Reason::BadChain,
            _ => Reason::NotTls,
        },
        // Nothing but a chain of certificates comes near the library's limits.
        Error::InvalidMessage(
            InvalidMessage::CertificatePayloadTooLarge | InvalidMessage::HandshakePayloadTooLarge,
        ) => Reason::BadChain,
        Error::InvalidMessage(_)
        | Error::InappropriateMessage { .. }
        | Error::InappropriateHandshakeMessage { .. }
        | Error::PeerMisbehaved(_)
        | Error::PeerSentOversizedRecord
        | Error::DecryptError => Reason::NotTls,
        _ => Reason::Internal,
    }
}

/// For certificate errors of the library itself: those of the verifier come
/// with their own [`PeerFault`].
fn reason_of_certificate(error: &CertificateError) -> Reason {
    use CertificateError as E;
    match error {
        E::Expired | E::ExpiredContext { .. } => Reason::Expired,
        E::NotValidYet | E::NotValidYetContext { .. } => Reason::NotYetValid,
        E::UnknownIssuer => Reason::UnknownIssuer,
        E::Revoked => Reason::Revoked,
        E::InvalidPurpose | E::InvalidPurposeContext { .. } => Reason::BadEku,
        E::NotValidForName | E::NotValidForNameContext { .. } => Reason::BadSan,
        // Also a peer that does not hold the key of its certificate.
        _ => Reason::BadChain,
    }
}

fn alert_name(alert: AlertDescription) -> String {
    // The library writes the standard's names in CamelCase.
    let mut name = String::new();
    for c in format!("{alert:?}").chars() {
        if c.is_ascii_uppercase()
            && !name.is_empty()
            && !name.ends_with(|p: char| p == '_' || p.is_ascii_uppercase())
        {
            name.push('_');
        }
        name.push(c);
    }
    name.to_ascii_lowercase()
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fault.fmt(f)?;
        if let Some(presented) = &self.presented {
            write!(f, " ({presented})")?;
        }
        Ok(())
    }
}

impl std::error::Error for HandshakeError {}
