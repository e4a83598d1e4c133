//! One direction's key, and how often it was used.

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305};
use aws_lc_rs::aead::{LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use rustls::{ConnectionTrafficSecrets, ContentType, Error, PeerMisbehaved};

/// A record's type, the old version and the length of the rest.
pub(super) const HEAD: usize = 5;
/// The type inside, and the tag: the same for every cipher here.
pub(super) const TAIL: usize = 1 + TAG;
const TAG: usize = 16;

/// Seals or opens one record after the other.
pub(super) struct Key {
    key: LessSafeKey,
    iv: [u8; NONCE_LEN],
    /// The next record's number.
    next: u64,
}

impl Key {
    pub(super) fn new((next, secrets): (u64, ConnectionTrafficSecrets)) -> Result<Self, Error> {
        let (algorithm, key, iv) = match &secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
            _ => return Err(Error::General("a cipher that is not known here".to_owned())),
        };
        let unfit = || Error::General("a key of the wrong length".to_owned());
        let key = UnboundKey::new(algorithm, key.as_ref()).map_err(|_unfit| unfit())?;
        Ok(Self {
            key: LessSafeKey::new(key),
            iv: iv.as_ref().try_into().map_err(|_unfit| unfit())?,
            next,
        })
    }

    /// How many records it has sealed or opened.
    pub(super) fn used(&self) -> u64 {
        self.next
    }

    #[cfg(test)]
    pub(super) fn age(&mut self, records: u64) {
        self.next += records;
    }

    /// Seals `plain` in its place; the record's head and tail go around it.
    pub(super) fn seal(
        &mut self,
        kind: ContentType,
        plain: &mut [u8],
    ) -> Result<([u8; HEAD], [u8; TAIL]), Error> {
        let len = u16::try_from(plain.len() + TAIL).map_err(|_too_long| Error::EncryptError)?;
        let [high, low] = len.to_be_bytes();
        let head = [ContentType::ApplicationData.into(), 3, 3, high, low];
        let mut tail = [0; TAIL];
        let nonce = self.nonce();
        self.key
            .seal_in_place_scatter(nonce, Aad::from(head), plain, &[kind.into()], &mut tail)
            .map_err(|_unspecified| Error::EncryptError)?;
        Ok((head, tail))
    }

    /// Opens a whole record to the front of `room`, which is as long as the
    /// record at least. Returns what is inside and how long it is.
    pub(super) fn open(
        &mut self,
        record: &[u8],
        room: &mut [u8],
    ) -> Result<(ContentType, usize), Error> {
        let (head, sealed) = record.split_at(HEAD);
        if head[0] != u8::from(ContentType::ApplicationData) {
            return Err(Error::InappropriateMessage {
                expect_types: vec![ContentType::ApplicationData],
                got_type: head[0].into(),
            });
        }
        let (sealed, tag) = sealed
            .split_at_checked(sealed.len().saturating_sub(TAG))
            .filter(|(sealed, _)| !sealed.is_empty())
            .ok_or(Error::DecryptError)?;
        let inner = &mut room[..sealed.len()];
        let nonce = self.nonce();
        self.key
            .open_separate_gather(nonce, Aad::from(head), sealed, tag, inner)
            .map_err(|_unspecified| Error::DecryptError)?;
        // Behind the type there may be zeros, to hide the length.
        let len = inner.iter().rposition(|byte| *byte != 0);
        let len = len.ok_or(PeerMisbehaved::IllegalTlsInnerPlaintext)?;
        Ok((inner[len].into(), len))
    }

    /// The next record's nonce, which no other record gets under this key: its
    /// number, over the end of what the key came with (RFC 8446, 5.3).
    fn nonce(&mut self) -> Nonce {
        let mut nonce = self.iv;
        if let Some(end) = nonce.last_chunk_mut() {
            *end = (u64::from_be_bytes(*end) ^ self.next).to_be_bytes();
        }
        self.next += 1;
        Nonce::assume_unique_for_key(nonce)
    }
}
