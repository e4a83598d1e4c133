//! Secrets that only the two ends of one connection can derive (RFC 8446,
//! 7.5). The TLS library derives none on an unbuffered connection, but tells
//! the one they all come from, as it would to a key log: it is kept for the
//! length of the handshake, and no other secret is asked for.

use std::cell::RefCell;

use rustls::crypto::tls13::{HkdfExpander, OkmBlock, OutputLengthError};
use rustls::{CommonState, KeyLog, Tls13CipherSuite};

const LABEL: &str = "EXPORTER_SECRET";

tokio::task_local! {
    /// Set around each handshake, so that its own [`Keeper`] finds it.
    pub(super) static EXPORTER: RefCell<Option<OkmBlock>>;
}

/// Where the TLS library leaves the secret.
#[derive(Debug)]
pub(super) struct Keeper;

impl KeyLog for Keeper {
    fn will_log(&self, label: &str) -> bool {
        label == LABEL
    }

    fn log(&self, label: &str, _client_random: &[u8], secret: &[u8]) {
        if label == LABEL {
            // Outside of a handshake of ours there is nobody to keep it for.
            let _ = EXPORTER.try_with(|kept| kept.replace(Some(OkmBlock::new(secret))));
        }
    }
}

/// Derives the secrets of one connection.
pub(super) struct Exporter {
    suite: &'static Tls13CipherSuite,
    secret: OkmBlock,
}

impl Exporter {
    /// Of a connection after its handshake, and what was kept during that.
    pub(super) fn new(tls: &CommonState, kept: Option<OkmBlock>) -> Option<Self> {
        let suite = tls.negotiated_cipher_suite()?.tls13()?;
        let secret = kept?;
        Some(Self { suite, secret })
    }

    /// The secret called `label`, with no context.
    pub(super) fn export<const N: usize>(
        &self,
        label: &[u8],
    ) -> Result<[u8; N], OutputLengthError> {
        let nothing = self.suite.common.hash_provider.hash(&[]);
        let expander = |secret| self.suite.hkdf_provider.expander_for_okm(secret);
        let of_all = expander(&self.secret);
        let mut of_label = [0; OkmBlock::MAX_LEN];
        let of_label = &mut of_label[..of_all.hash_len()];
        expand_label(&*of_all, label, nothing.as_ref(), of_label)?;
        let mut secret = [0; N];
        let of_label = expander(&OkmBlock::new(of_label));
        expand_label(&*of_label, b"exporter", nothing.as_ref(), &mut secret)?;
        Ok(secret)
    }
}

/// HKDF-Expand-Label (RFC 8446, 7.1).
fn expand_label(
    expander: &dyn HkdfExpander,
    label: &[u8],
    context: &[u8],
    secret: &mut [u8],
) -> Result<(), OutputLengthError> {
    const PREFIX: &[u8] = b"tls13 ";
    let len = |n: usize| u8::try_from(n).map_err(|_too_long| OutputLengthError);
    let wanted = u16::try_from(secret.len()).map_err(|_too_long| OutputLengthError)?;
    let wanted = wanted.to_be_bytes();
    let info = [
        wanted.as_slice(),
        &[len(PREFIX.len() + label.len())?],
        PREFIX,
        label,
        &[len(context.len())?],
        context,
    ];
    expander.expand_slice(&info, secret)
}
