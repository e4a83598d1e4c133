//! A renewed certificate, proved on a connection that is open: the chain, and
//! a signature by its key over the chain and over a secret that only the two
//! ends of this one TLS connection can derive (as RFC 9261 does it). Nobody
//! can carry it to another connection, and no proof of another one fits here.

use std::fmt;

use rustls::SignatureScheme;
use rustls::crypto::tls13::OutputLengthError;
use rustls::pki_types::CertificateDer;
use rustls::sign::CertifiedKey;
use thiserror::Error;
use webpki::EndEntityCert;

use super::exporter::Exporter;
use super::{Judging, provider};
use crate::identity::{PeerFault, PeerSvid, Presenter, TrustBundles};
use crate::reason::Reason;
use crate::spiffe::SpiffeId;

/// Ties proofs to one TLS connection: a secret for each end.
#[derive(Clone)]
pub struct Binding {
    client: [u8; SECRET],
    server: [u8; SECRET],
}

const SECRET: usize = 32;

/// A peer's proof that does not count.
#[derive(Debug, Error)]
pub enum ProofFault {
    #[error("the peer's proof of a renewed certificate cannot be read")]
    Malformed,
    #[error("{0}")]
    Peer(#[from] PeerFault),
    #[error("the peer does not hold the key of its renewed certificate")]
    Signature,
}

impl ProofFault {
    pub fn reason(&self) -> Reason {
        match self {
            Self::Malformed | Self::Signature => Reason::BadChain,
            Self::Peer(fault) => fault.reason(),
        }
    }
}

/// So many certificates are looked at in a chain; `verify_peer` has its own
/// limit below this one.
const MOST: usize = 16;
/// Begins each proof; another form would be another number.
const FORM: u8 = 1;

impl Binding {
    /// After the handshake.
    pub(super) fn of(exporter: &Exporter) -> Result<Self, OutputLengthError> {
        Ok(Self {
            client: exporter.export(b"EXPORTER-mtls-daemon renewed client")?,
            server: exporter.export(b"EXPORTER-mtls-daemon renewed server")?,
        })
    }

    /// Of no connection, for the fuzzer.
    #[cfg(fuzzing)]
    pub fn known() -> Self {
        Self {
            client: [1; SECRET],
            server: [2; SECRET],
        }
    }

    /// What the end `presenter` signs.
    fn message(&self, presenter: Presenter, chain: &[u8]) -> Vec<u8> {
        let (secret, label) = match presenter {
            Presenter::Client => (&self.client, b"client"),
            Presenter::Server => (&self.server, b"server"),
        };
        // Unlike anything that is signed in a handshake, which has 64 spaces
        // and another label (RFC 8446, 4.4.3).
        let mut message = vec![b' '; 64];
        message.extend_from_slice(b"mtls-daemon, renewed certificate, ");
        message.extend_from_slice(label);
        message.push(0);
        message.extend_from_slice(secret);
        message.extend_from_slice(chain);
        message
    }
}

/// The proof that this end, `presenter`, holds `key`.
pub fn prove(
    key: &CertifiedKey,
    presenter: Presenter,
    binding: &Binding,
) -> Result<Vec<u8>, rustls::Error> {
    let mut chain = Vec::new();
    put_length(&mut chain, 1, key.cert.len())?;
    for certificate in &key.cert {
        put_length(&mut chain, 3, certificate.len())?;
        chain.extend_from_slice(certificate);
    }
    let mut schemes = provider()
        .signature_verification_algorithms
        .supported_schemes();
    schemes.retain(|scheme| is_of_tls13(*scheme));
    let signer = key.key.choose_scheme(&schemes);
    let signer = signer.ok_or_else(|| broken("no signature scheme fits the key"))?;
    let signature = signer.sign(&binding.message(presenter, &chain))?;
    let mut proof = vec![FORM];
    proof.extend_from_slice(&chain);
    proof.extend_from_slice(&u16::from(signer.scheme()).to_be_bytes());
    put_length(&mut proof, 2, signature.len())?;
    proof.extend_from_slice(&signature);
    Ok(proof)
}

/// What the other end, `presenter`, proved: that it is still `expected`, with
/// this chain.
pub fn check(
    proof: &[u8],
    presenter: Presenter,
    binding: &Binding,
    expected: &SpiffeId,
    bundles: &TrustBundles,
    judging: &Judging,
) -> Result<(PeerSvid, Vec<CertificateDer<'static>>), ProofFault> {
    let parsed = parse(proof).ok_or(ProofFault::Malformed)?;
    let peer = judging.judge(&parsed.chain, presenter, bundles)?;
    if peer.id != *expected {
        let expected = expected.clone();
        let got = peer.id;
        return Err(PeerFault::UnexpectedIdentity { expected, got }.into());
    }
    let leaf = parsed.chain.first().ok_or(ProofFault::Malformed)?;
    let leaf = EndEntityCert::try_from(leaf).map_err(|_unreadable| ProofFault::Malformed)?;
    let message = binding.message(presenter, parsed.signed);
    let algorithms = provider().signature_verification_algorithms.mapping;
    let fits = algorithms
        .iter()
        .filter(|(scheme, _)| *scheme == parsed.scheme && is_of_tls13(*scheme))
        .flat_map(|(_, algorithms)| algorithms.iter())
        .any(|algorithm| {
            leaf.verify_signature(*algorithm, &message, parsed.signature)
                .is_ok()
        });
    if !fits {
        return Err(ProofFault::Signature);
    }
    Ok((peer, parsed.chain))
}

struct Parsed<'a> {
    chain: Vec<CertificateDer<'static>>,
    /// The chain as it was sent.
    signed: &'a [u8],
    scheme: SignatureScheme,
    signature: &'a [u8],
}

fn parse(proof: &[u8]) -> Option<Parsed<'_>> {
    let (&form, chain) = proof.split_first()?;
    let (&count, mut rest) = chain.split_first()?;
    if form != FORM || usize::from(count) > MOST {
        return None;
    }
    let mut certificates = Vec::with_capacity(usize::from(count));
    for _ in 0..count {
        let der = take(&mut rest, 3)?;
        certificates.push(CertificateDer::from(der.to_vec()));
    }
    let signed = chain.get(..chain.len() - rest.len())?;
    let (scheme, mut rest) = rest.split_first_chunk::<2>()?;
    let signature = take(&mut rest, 2)?;
    rest.is_empty().then_some(Parsed {
        chain: certificates,
        signed,
        scheme: SignatureScheme::from(u16::from_be_bytes(*scheme)),
        signature,
    })
}

/// A field behind its length of so many bytes.
fn take<'a>(rest: &mut &'a [u8], width: usize) -> Option<&'a [u8]> {
    let (length, after) = rest.split_at_checked(width)?;
    let length = length
        .iter()
        .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
    let (field, after) = after.split_at_checked(length)?;
    *rest = after;
    Some(field)
}

fn put_length(out: &mut Vec<u8>, width: usize, length: usize) -> Result<(), rustls::Error> {
    let bytes = length.to_be_bytes();
    let (unused, used) = bytes.split_at(bytes.len() - width);
    if unused.iter().any(|byte| *byte != 0) {
        return Err(broken("a chain that is too long to be proved"));
    }
    out.extend_from_slice(used);
    Ok(())
}

/// Those that TLS 1.3 signs handshakes with; the library verifies older ones
/// in certificates.
fn is_of_tls13(scheme: SignatureScheme) -> bool {
    use SignatureScheme as S;
    matches!(
        scheme,
        S::ECDSA_NISTP256_SHA256
            | S::ECDSA_NISTP384_SHA384
            | S::ECDSA_NISTP521_SHA512
            | S::ED25519
            | S::RSA_PSS_SHA256
            | S::RSA_PSS_SHA384
            | S::RSA_PSS_SHA512
    )
}

fn broken(what: &str) -> rustls::Error {
    rustls::Error::General(what.to_owned())
}

/// Never shows the secrets.
impl fmt::Debug for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Binding")
    }
}
