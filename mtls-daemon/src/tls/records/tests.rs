//! Our records against our own and against the TLS library's, and against
//! peers that hold the right keys and do wrong with them.

use std::io::{Read as _, Write as _};

use proptest::collection::vec;
use proptest::prelude::*;
use rustls::ServerConnection;

use super::*;
use crate::tls::session::tests::{SUITES, ours, with_library};

const ROOM: usize = 4 * (HEAD + MAX_SEALED);

/// One end of ours and its socket.
struct End {
    socket: TcpStream,
    records: Records,
}

impl End {
    fn new((socket, session): (TcpStream, Session)) -> Self {
        let records = Records::new(session).unwrap();
        Self { socket, records }
    }

    fn say(&mut self, bytes: &[u8]) {
        let left = self.records.send(&mut bytes.to_vec(), false, &self.socket);
        assert_eq!(left.unwrap(), 0, "a socket that blocks takes everything");
    }

    /// Whatever this end's key seals, right or wrong.
    fn forge(&mut self, kind: ContentType, content: &[u8]) -> Vec<u8> {
        let mut sealed = content.to_vec();
        let (head, tail) = self.records.sealing.seal(kind, &mut sealed).unwrap();
        [head.as_slice(), &sealed, &tail].concat()
    }

    /// The next `n` bytes of plaintext.
    fn hear(&mut self, n: usize) -> Vec<u8> {
        let mut heard = Vec::new();
        let (mut wire, mut plain) = (vec![0; 7_000], vec![0; ROOM]);
        let mut came = 0;
        loop {
            let mut rest = &wire[..came];
            loop {
                let opened = self.records.open(&mut rest, &mut plain).unwrap();
                heard.extend_from_slice(&plain[..opened.plain]);
                if rest.is_empty() {
                    break;
                }
            }
            if heard.len() >= n {
                return heard;
            }
            came = self.socket.read(&mut wire).unwrap();
            assert!(came > 0, "the end came early");
        }
    }

    /// What this end makes of `wire`.
    fn judge(&mut self, wire: &[u8]) -> Result<Opened, Error> {
        self.records.open(&mut &*wire, &mut [0; ROOM])
    }
}

/// Both ends ours: the client's and the server's.
fn pair() -> (End, End) {
    let (near, far) = ours(SUITES[0]);
    (End::new(near), End::new(far))
}

fn library() -> (End, (TcpStream, ServerConnection)) {
    let (near, far) = with_library(SUITES[1]);
    (End::new(near), far)
}

fn pattern(n: usize) -> Vec<u8> {
    (0..=250).cycle().take(n).collect()
}

#[test]
fn the_library_and_we_understand_each_other() {
    let text = pattern(100_000);
    for suite in SUITES {
        let (near, (mut socket, mut tls)) = with_library(suite);
        let mut near = End::new(near);
        near.say(&text);
        let mut got = vec![0; text.len()];
        let mut stream = rustls::Stream::new(&mut tls, &mut socket);
        stream.read_exact(&mut got).unwrap();
        assert!(got == text, "{suite:?}");
        stream.write_all(&text).unwrap();
        assert!(near.hear(text.len()) == text, "{suite:?}");
        near.records.send(&mut [], true, &near.socket).unwrap();
        let mut stream = rustls::Stream::new(&mut tls, &mut socket);
        assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0, "no close_notify");
    }
}

/// Every key is changed before it has sealed as much as it may, at either end.
#[test]
fn keys_are_changed_before_they_are_used_up() {
    let (mut near, mut far) = pair();
    // Behind the server's tickets.
    far.say(&[0]);
    near.hear(1);
    for end in [&mut near, &mut far] {
        end.records.sealing.age(RECORDS_PER_KEY - 50);
        end.records.opening.age(RECORDS_PER_KEY - 50);
    }
    for round in 0..100 {
        near.say(&[1; 10]);
        assert_eq!(far.hear(10), [1; 10], "round {round}");
        far.say(&[2; 10]);
        assert_eq!(near.hear(10), [2; 10], "round {round}");
        for end in [&near, &far] {
            assert!(end.records.sealing.used() <= RECORDS_PER_KEY);
        }
    }
    assert!(near.records.sealing.used() < 100, "the old key is in use");
    assert!(far.records.sealing.used() < 100, "the old key is in use");
}

/// And the library follows, thirty times in a row.
#[test]
fn the_library_follows_our_changes_of_keys() {
    let (mut near, (mut socket, mut tls)) = library();
    near.records.records_per_key = 2 * BATCH as u64 + 10;
    let text = pattern(3_000_000);
    let writing = std::thread::spawn(move || {
        for piece in text.chunks(2_000) {
            near.say(piece);
        }
        near
    });
    let mut got = vec![0; 3_000_000];
    let mut stream = rustls::Stream::new(&mut tls, &mut socket);
    stream.read_exact(&mut got).unwrap();
    assert!(got == pattern(3_000_000));
    let near = writing.join().unwrap();
    assert!(near.records.sealing.used() <= near.records.records_per_key);
}

#[test]
fn we_follow_the_librarys_changes_of_keys() {
    let (mut near, (mut socket, mut tls)) = library();
    for round in 0..50 {
        tls.refresh_traffic_keys().unwrap();
        let mut stream = rustls::Stream::new(&mut tls, &mut socket);
        stream.write_all(b"after the change").unwrap();
        assert_eq!(near.hear(16), b"after the change", "round {round}");
        // The library wants ours changed too.
        near.say(b"too");
        let mut got = [0; 3];
        stream.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"too", "round {round}");
        assert!(near.records.sealing.used() <= 2, "round {round}");
    }
}

/// What the socket does not take waits, in order, and is given back after.
#[test]
fn nothing_is_lost_when_the_socket_is_full() {
    let (mut near, mut far) = pair();
    near.socket.set_nonblocking(true).unwrap();
    let mut said = 0;
    let mut waits = 0;
    // More than two of them: the kernel may make room between any two.
    while waits <= 400_000 {
        let mut text = pattern(200_000);
        waits = near.records.send(&mut text, false, &near.socket).unwrap();
        said += 200_000;
    }
    near.socket.set_nonblocking(false).unwrap();
    let reading = std::thread::spawn(move || far.hear(said));
    assert_eq!(near.records.send(&mut [], false, &near.socket).unwrap(), 0);
    assert_eq!(near.records.unsent.capacity(), 0);
    let heard = reading.join().unwrap();
    assert!(heard == pattern(200_000).repeat(said / 200_000));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Whatever pieces the network makes of the records.
    #[test]
    fn records_come_in_any_pieces(
        says in vec(1_usize..40_000, 1..8),
        cuts in vec(1_usize..30_000, 1..12),
    ) {
        let (mut near, mut far) = pair();
        let said = pattern(says.iter().sum());
        let mut wire = Vec::new();
        let mut rest = said.as_slice();
        for n in says {
            let (now, later) = rest.split_at(n);
            rest = later;
            for piece in now.chunks(MAX_PLAINTEXT) {
                wire.extend(near.forge(ContentType::ApplicationData, piece));
            }
        }
        let mut plain = vec![0; ROOM];
        let mut heard = Vec::new();
        let mut wire = wire.as_slice();
        for cut in cuts.into_iter().cycle() {
            let (now, later) = wire.split_at(cut.min(wire.len()));
            let mut now = now;
            while !now.is_empty() {
                let opened = far.records.open(&mut now, &mut plain).unwrap();
                heard.extend_from_slice(&plain[..opened.plain]);
            }
            wire = later;
            if wire.is_empty() {
                break;
            }
        }
        prop_assert!(heard == said);
        prop_assert_eq!(far.records.unread.capacity(), 0);
    }
}

proptest! {
    /// The fuzzer's own peer, on inputs that nobody has searched for.
    #[test]
    fn a_peer_at_random(input in vec(any::<u8>(), 0..600)) {
        fuzz::run(&input);
    }
}

/// What a peer with the right keys may not do, and what it is told.
#[test]
fn a_peer_that_misbehaves_is_told_so() {
    use ContentType as Kind;
    let ticket: &[u8] = &[4, 0, 0, 0];
    let key_update: &[u8] = &[24, 0, 0, 1, 0];
    type Forging<'f> = &'f dyn Fn(&mut End) -> Vec<u8>;
    let cases: [(&str, Forging<'_>, AlertDescription); 14] = [
        (
            "a flipped bit",
            &|end| {
                let mut record = end.forge(Kind::ApplicationData, b"text");
                record[7] ^= 1;
                record
            },
            AlertDescription::BadRecordMac,
        ),
        (
            "a record twice",
            &|end| end.forge(Kind::ApplicationData, b"text").repeat(2),
            AlertDescription::BadRecordMac,
        ),
        (
            "a record left out",
            &|end| {
                end.forge(Kind::ApplicationData, b"text");
                end.forge(Kind::ApplicationData, b"text")
            },
            AlertDescription::BadRecordMac,
        ),
        (
            "another length in the head",
            &|end| {
                let mut record = end.forge(Kind::ApplicationData, b"text");
                record[4] -= 1;
                record
            },
            AlertDescription::BadRecordMac,
        ),
        (
            "nothing inside but the tag",
            &|_| [[23, 3, 3, 0, 16].as_slice(), &[0; 16]].concat(),
            AlertDescription::BadRecordMac,
        ),
        (
            "more than a record holds",
            &|end| end.forge(Kind::ApplicationData, &vec![1; MAX_PLAINTEXT + 1]),
            AlertDescription::RecordOverflow,
        ),
        (
            "a length beyond all limits",
            &|_| vec![23, 3, 3, 0x41, 1],
            AlertDescription::RecordOverflow,
        ),
        (
            "an alert in clear",
            &|_| vec![21, 3, 3, 0, 2, 1, 0],
            AlertDescription::UnexpectedMessage,
        ),
        (
            "no TLS at all",
            &|_| b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            AlertDescription::DecodeError,
        ),
        (
            "only zeros inside",
            &|end| end.forge(Kind::from(0), &[0; 50]),
            AlertDescription::UnexpectedMessage,
        ),
        (
            "a client's ticket",
            &|end| end.forge(Kind::Handshake, ticket),
            AlertDescription::UnexpectedMessage,
        ),
        (
            "bytes behind a change of keys",
            &|end| end.forge(Kind::Handshake, &[key_update, key_update].concat()),
            AlertDescription::UnexpectedMessage,
        ),
        (
            "data in the middle of a message",
            &|end| {
                let half = end.forge(Kind::Handshake, &key_update[..3]);
                [half, end.forge(Kind::ApplicationData, b"text")].concat()
            },
            AlertDescription::UnexpectedMessage,
        ),
        (
            "empty records without end",
            &|end| {
                (0..=MAX_FRUITLESS)
                    .flat_map(|_| end.forge(Kind::ApplicationData, b""))
                    .collect()
            },
            AlertDescription::UnexpectedMessage,
        ),
    ];
    for (what, forging, told) in cases {
        let (mut near, mut far) = pair();
        let wire = forging(&mut near);
        let error = far.judge(&wire).expect_err(what);
        assert_eq!(far.records.farewell, told, "{what}: {error:?}");
        far.records.send(&mut [], true, &far.socket).unwrap();
        drop(far.socket);
        let mut said = Vec::new();
        near.socket.read_to_end(&mut said).unwrap();
        assert_eq!(near.judge(&said), Err(Error::AlertReceived(told)), "{what}");
    }
}

/// What is unusual, and right.
#[test]
fn a_peer_may_pad_and_split_and_end() {
    let (mut near, mut far) = pair();
    let padded = [b"text".as_slice(), &[23], &[0; 300]].concat();
    let wire = near.forge(ContentType::from(0), &padded);
    let opened = |plain, closed| Ok(Opened { plain, closed });
    assert_eq!(far.judge(&wire), opened(4, false));

    // A change of keys in five records, with an alert of no meaning before it.
    let mut wire = near.forge(ContentType::Alert, &[1, 90]);
    for byte in [24, 0, 0, 1, 0] {
        wire.extend(near.forge(ContentType::Handshake, &[byte]));
    }
    near.records.sealing = Key::new(near.records.schedule.next_sealing().unwrap()).unwrap();
    wire.extend(near.forge(ContentType::ApplicationData, b"under the new key"));
    assert_eq!(far.judge(&wire), opened(17, false));

    let wire = near.forge(ContentType::Alert, &[1, 0]);
    assert_eq!(far.judge(&wire), opened(0, true));
}
