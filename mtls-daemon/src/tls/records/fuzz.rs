//! A peer that holds the right keys, and says and does what the input tells.

use rustls::crypto::cipher::{AeadKey, Iv};
use rustls::{ConnectionTrafficSecrets, ContentType};

use super::key::Key;
use super::{HEAD, MAX_FRUITLESS, MAX_PLAINTEXT, MAX_SEALED, Records};
use crate::tls::session::{Schedule, Session};

/// The keys after `changes` of them.
pub(in crate::tls) fn secrets(changes: u8) -> (u64, ConnectionTrafficSecrets) {
    let key = AeadKey::from([changes; 32]);
    let iv = Iv::from([changes; 12]);
    (0, ConnectionTrafficSecrets::Aes256Gcm { key, iv })
}

/// What the peer has put on the wire, and what of it is right.
struct Peer {
    sealing: Key,
    changes: u8,
    wire: Vec<u8>,
    /// Plaintext up to the first thing that is not right.
    said: Vec<u8>,
    right: bool,
    fruitless: u32,
}

/// Opens what the input makes, in the pieces that it makes of it: nothing
/// panics, and what is opened is what was sealed, from its beginning.
pub(in crate::tls) fn run(mut input: &[u8]) {
    let known = || Key::new(secrets(0));
    let (Ok(sealing), Ok(records)) = (known(), Records::new(Session::known())) else {
        unreachable!("the keys fit");
    };
    let mut peer = Peer {
        sealing,
        changes: 0,
        wire: Vec::new(),
        said: Vec::new(),
        right: true,
        fruitless: 0,
    };
    let mut cuts = Vec::new();
    while let [step, len, rest @ ..] = input {
        let (content, rest) = rest.split_at(usize::from(*len).min(rest.len()));
        input = rest;
        cuts.push(1 + usize::from(*step) + usize::from(*len) * 64);
        peer.step(*step, content);
    }
    peer.judge(records, &cuts);
}

impl Peer {
    fn step(&mut self, step: u8, content: &[u8]) {
        match step {
            // Long ones are rare in an input, and of the same kind.
            0..=99 => {
                let mut content = content.repeat(1 + usize::from(step));
                content.truncate(MAX_PLAINTEXT);
                self.said(&content);
                self.seal(ContentType::ApplicationData, &content);
            }
            100..=139 => {
                self.seal(ContentType::Handshake, &[24, 0, 0, 1, step & 1]);
                self.changes = self.changes.wrapping_add(1);
                if let Ok(next) = Key::new(secrets(self.changes)) {
                    self.sealing = next;
                }
            }
            // Anything may come of these.
            140..=199 => {
                self.right = false;
                self.seal(ContentType::from(step - 120), content);
            }
            _ => {
                self.right = false;
                self.wire.extend_from_slice(content);
            }
        }
    }

    fn said(&mut self, content: &[u8]) {
        if self.right {
            self.said.extend_from_slice(content);
        }
    }

    fn seal(&mut self, kind: ContentType, content: &[u8]) {
        let fruitful = kind == ContentType::ApplicationData && !content.is_empty();
        self.fruitless = if fruitful { 0 } else { self.fruitless + 1 };
        self.right &= self.fruitless <= MAX_FRUITLESS;
        let mut sealed = content.to_vec();
        if let Ok((head, tail)) = self.sealing.seal(kind, &mut sealed) {
            for part in [head.as_slice(), &sealed, &tail] {
                self.wire.extend_from_slice(part);
            }
        }
    }

    fn judge(&self, mut records: Records, cuts: &[usize]) {
        let mut wire = self.wire.as_slice();
        let mut plain = vec![0; 2 * (HEAD + MAX_SEALED)];
        let mut heard = Vec::new();
        let mut cuts = cuts.iter().cycle();
        while let (false, Some(cut)) = (wire.is_empty(), cuts.next()) {
            let (mut now, later) = wire.split_at((*cut).min(wire.len()));
            wire = later;
            while !now.is_empty() {
                let opened = match records.open(&mut now, &mut plain) {
                    Ok(opened) => opened,
                    Err(error) => {
                        assert!(!self.right, "nothing was wrong: {error}");
                        return;
                    }
                };
                heard.extend_from_slice(&plain[..opened.plain]);
                let n = heard.len().min(self.said.len());
                assert_eq!(heard[..n], self.said[..n], "not what was sealed");
                if opened.closed {
                    assert!(!self.right, "nobody has said the end");
                    return;
                }
            }
        }
        assert!(!self.right || heard == self.said, "something is missing");
    }
}

impl Session {
    fn known() -> Self {
        let secrets = rustls::ExtractedSecrets {
            tx: secrets(0),
            rx: secrets(0),
        };
        Self {
            secrets,
            schedule: Schedule::Known(0, 0),
            unread: Vec::new(),
        }
    }
}
