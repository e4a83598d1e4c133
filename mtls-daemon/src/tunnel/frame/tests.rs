use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// What the parser found, however it was cut.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Found {
    Data(Head, Vec<u8>, u32),
    Frame(Head, Vec<u8>),
    Unknown(Head),
}

/// Feeds `pieces` one after the other, and joins what was found.
fn parse<'i>(
    mut parser: Parser,
    pieces: impl IntoIterator<Item = &'i [u8]>,
) -> Result<Vec<Found>, Violation> {
    let mut found = vec![];
    let mut data = None;
    for mut piece in pieces {
        while let Some(piece) = parser.next(&mut piece)? {
            match piece {
                Piece::DataHead(head) => data = Some((head, vec![])),
                Piece::Data(bytes) => data.as_mut().unwrap().1.extend_from_slice(bytes),
                Piece::DataEnd(head, padding) => {
                    let (begun, bytes) = data.take().unwrap();
                    assert_eq!(begun, head);
                    found.push(Found::Data(head, bytes, padding));
                }
                Piece::Frame(head, payload) => found.push(Found::Frame(head, payload.to_vec())),
                Piece::Unknown(head) => found.push(Found::Unknown(head)),
            }
        }
        assert!(piece.is_empty(), "everything was taken");
    }
    Ok(found)
}

/// A frame on the wire, and what has to be found of it.
fn any_frame() -> impl Strategy<Value = (Vec<u8>, Found)> {
    let head = (0..12u8, any::<u8>(), any::<u32>());
    (head, vec(any::<u8>(), 0..300), 0..40u8).prop_map(|((kind, flags, stream), body, pad)| {
        let mut payload = vec![];
        let mut padding = 0;
        if kind == kind::DATA && flags & flag::PADDED != 0 {
            payload.push(pad);
            payload.extend_from_slice(&body);
            payload.extend(vec![0; usize::from(pad)]);
            padding = u32::from(pad) + 1;
        } else {
            payload.extend_from_slice(&body);
        }
        let head = Head {
            len: length(&payload),
            kind,
            flags,
            stream: stream & MAX_STREAM,
        };
        let mut wire = head.bytes().to_vec();
        // The reserved bit is nobody's business.
        wire[5] |= (stream >> 24) as u8 & 0x80;
        wire.extend_from_slice(&payload);
        let found = if kind == kind::DATA {
            Found::Data(head, body, padding)
        } else if kind <= kind::CONTINUATION {
            Found::Frame(head, payload)
        } else {
            Found::Unknown(head)
        };
        (wire, found)
    })
}

/// `bytes` in pieces that end at the given places.
fn cut<'b>(bytes: &'b [u8], at: &[prop::sample::Index]) -> Vec<&'b [u8]> {
    let mut at: Vec<usize> = at.iter().map(|at| at.index(bytes.len() + 1)).collect();
    at.extend([0, bytes.len()]);
    at.sort_unstable();
    at.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

proptest! {
    #[test]
    fn frames_are_found_however_they_are_cut(
        frames in vec(any_frame(), 0..12),
        at in vec(any::<prop::sample::Index>(), 0..40),
    ) {
        let (wire, wanted): (Vec<_>, Vec<_>) = frames.into_iter().unzip();
        let mut wire = wire.concat();
        prop_assert_eq!(parse(Parser::of_server(), cut(&wire, &at)).unwrap(), wanted.clone());
        prop_assert_eq!(
            parse(Parser::of_server(), wire.chunks(1)).unwrap(),
            wanted.clone()
        );
        wire.splice(..0, PREFACE.iter().copied());
        prop_assert_eq!(parse(Parser::of_client(), cut(&wire, &at)).unwrap(), wanted);
    }

    #[test]
    fn anything_at_all_is_taken_or_refused(
        bytes in vec(any::<u8>(), 0..2_000),
        at in vec(any::<prop::sample::Index>(), 0..10),
    ) {
        let whole = parse(Parser::of_server(), [&bytes[..]]);
        prop_assert_eq!(parse(Parser::of_server(), cut(&bytes, &at)), whole);
        let _ = parse(Parser::of_client(), cut(&bytes, &at));
    }
}

#[test]
fn what_we_write_is_what_we_read() {
    let mut out = Out::default();
    put_settings(
        &mut out,
        &[(setting::MAX_FRAME_SIZE, OUR_MAX_FRAME), (1, 0)],
    );
    put_settings_ack(&mut out);
    put_ping(&mut out, true, *b"12345678");
    put_goaway(&mut out, 7, code::ENHANCE_YOUR_CALM);
    put_reset(&mut out, 9, code::CANCEL);
    put_window_update(&mut out, 0, 1);
    put_headers(&mut out, 11, true, b"\x88");
    put_end_stream(&mut out, 13);
    let head = |kind, flags, stream, len| Head {
        len,
        kind,
        flags,
        stream,
    };
    assert_eq!(
        parse(Parser::of_server(), [out.filled()]).unwrap(),
        [
            Found::Frame(
                head(kind::SETTINGS, 0, 0, 12),
                vec![0, 5, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0]
            ),
            Found::Frame(head(kind::SETTINGS, 1, 0, 0), vec![]),
            Found::Frame(head(kind::PING, 1, 0, 8), b"12345678".to_vec()),
            Found::Frame(head(kind::GOAWAY, 0, 0, 8), vec![0, 0, 0, 7, 0, 0, 0, 11]),
            Found::Frame(head(kind::RST_STREAM, 0, 9, 4), vec![0, 0, 0, 8]),
            Found::Frame(head(kind::WINDOW_UPDATE, 0, 0, 4), vec![0, 0, 0, 1]),
            Found::Frame(head(kind::HEADERS, 5, 11, 1), vec![0x88]),
            Found::Data(head(kind::DATA, 1, 13, 0), vec![], 0),
        ]
    );
}

#[test]
fn refuses_what_is_too_large_or_padded_too_much() {
    let refused = |bytes: &[u8]| parse(Parser::of_server(), [bytes]).unwrap_err().code;
    assert_eq!(
        refused(&[1, 0, 1, 0, 0, 0, 0, 0, 1]),
        code::FRAME_SIZE_ERROR
    );
    assert_eq!(
        refused(&[0, 0, 0, 0, flag::PADDED, 0, 0, 0, 1]),
        code::FRAME_SIZE_ERROR
    );
    assert_eq!(
        refused(&[0, 0, 2, 0, flag::PADDED, 0, 0, 0, 1, 2, 0]),
        code::PROTOCOL_ERROR
    );
    let preface = parse(Parser::of_client(), [&b"PRI * HTTP/1"[..]]);
    assert_eq!(preface.unwrap_err().code, code::PROTOCOL_ERROR);
}
