//! Peers on the other side of the tunnel that break the protocol: servers,
//! broken records, endings that are none.

use crate::raw::*;
use crate::support::*;
use mtls_daemon::tunnel::{CarryEnd, ConnectError, Settings, TunnelEnd, code};
use std::io::ErrorKind;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[test]
fn servers_that_break_the_protocol() {
    story(async {
        for (bytes, code) in [
            (frame(DATA, 0, 3, b"x"), code::PROTOCOL_ERROR),
            (frame(HEADERS, END_HEADERS, 3, OK), code::PROTOCOL_ERROR),
            (frame(HEADERS, END_HEADERS, 2, OK), code::PROTOCOL_ERROR),
            (
                frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2]),
                code::PROTOCOL_ERROR,
            ),
            (
                frame(SETTINGS, 0, 0, &[0, 2, 0, 0, 0, 1]),
                code::PROTOCOL_ERROR,
            ),
            (
                frame(HEADERS, END_HEADERS, 1, b"\x80"),
                code::COMPRESSION_ERROR,
            ),
        ] {
            let mut client = client().await;
            let opening = client.tunnel.open(&request()).unwrap();
            client.raw.wait_for(HEADERS).await;
            client.raw.send(&bytes).await;
            assert_eq!(client.raw.goaway().await, code);
            let lost = opening.answer().await.map(|_| ()).unwrap_err();
            assert!(
                matches!(lost, ConnectError::Lost(TunnelEnd::Violation(v)) if v.code == code),
                "{lost:?}"
            );
            assert_eq!(client.turning.stats().tunnel_violations.get(), 1);
        }
    });
}

#[test]
fn answers_that_break_the_protocol_end_their_stream() {
    story(async {
        let mut client = client().await;
        let mut stream = 1;
        for (bytes, code) in [
            // Data before the answer, no status, one that is no number, two.
            (frame(DATA, 0, 0, b"early"), code::PROTOCOL_ERROR),
            (
                frame(HEADERS, END_HEADERS, 0, b"\x00\x01a\x01b"),
                code::PROTOCOL_ERROR,
            ),
            (
                frame(HEADERS, END_HEADERS, 0, b"\x08\x03abc"),
                code::PROTOCOL_ERROR,
            ),
            (
                frame(HEADERS, END_HEADERS, 0, b"\x88\x88"),
                code::PROTOCOL_ERROR,
            ),
            (
                frame(HEADERS, END_HEADERS | END_STREAM, 0, b"\x08\x03103"),
                code::CANCEL,
            ),
        ] {
            let opening = client.tunnel.open(&request()).unwrap();
            let mut bytes = bytes;
            bytes[5..9].copy_from_slice(&u32::to_be_bytes(stream));
            client.raw.send(&bytes).await;
            assert_eq!(client.raw.reset_of(stream).await, code);
            assert!(opening.answer().await.is_err());
            stream += 2;
        }
        // A provisional answer is none.
        let opening = client.tunnel.open(&request()).unwrap();
        let early = frame(HEADERS, END_HEADERS, stream, b"\x08\x03103");
        client.raw.send(&early).await;
        let ok = frame(HEADERS, END_HEADERS, stream, OK);
        client.raw.send(&ok).await;
        let stream = opening.answer().await.unwrap();
        drop(stream);
        client.raw.is_answered().await;
    });
}

#[test]
fn what_was_accepted_is_not_asked_again() {
    story(async {
        let mut client = client().await;
        for (stream, code) in [(1, code::CANCEL), (3, code::REFUSED_STREAM)] {
            let opening = client.tunnel.open(&request()).unwrap();
            client.raw.wait_for(HEADERS).await;
            // In one write: both are known before anybody can ask.
            let ok = frame(HEADERS, END_HEADERS, stream, OK);
            let reset = frame(RST_STREAM, 0, stream, &code.to_be_bytes());
            client.raw.send(&[ok, reset].concat()).await;
            let stream = opening.answer().await.expect("it was accepted");
            let (mut app, near_app) = app().await;
            let end = stream.carry(near_app).await.end;
            assert!(matches!(end, CarryEnd::ResetByPeer(it) if it == code));
            assert_eq!(read_error(&mut app).await, ErrorKind::ConnectionReset);
        }
    });
}

#[test]
fn a_goaway_spares_the_streams_that_were_seen() {
    story(async {
        let mut client = client().await;
        let first = client.tunnel.open(&request()).unwrap();
        let second = client.tunnel.open(&request()).unwrap();
        client
            .raw
            .send(&frame(GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0]))
            .await;
        let unseen = second.answer().await.map(|_| ()).unwrap_err();
        assert!(matches!(unseen, ConnectError::GoingAway), "{unseen:?}");
        client.raw.send(&frame(HEADERS, END_HEADERS, 1, OK)).await;
        let stream = first.answer().await.unwrap();
        let (mut app, near_app) = app().await;
        let carry = stream.carry(near_app);
        // Then the connection is cut off: not an orderly end for anybody.
        client.raw.send(&frame(DATA, 0, 1, b"a part")).await;
        let mut got = [0; 6];
        app.read_exact(&mut got).await.unwrap();
        drop(client.raw);
        let end = carry.await.end;
        assert!(
            matches!(
                end,
                CarryEnd::TunnelLost(TunnelEnd::Truncated | TunnelEnd::Io(_))
            ),
            "{end:?}"
        );
        assert_eq!(read_error(&mut app).await, ErrorKind::ConnectionReset);
    });
}

#[test]
fn a_goaway_with_an_error_names_the_error() {
    story(async {
        let mut client = client().await;
        let first = client.tunnel.open(&request()).unwrap();
        client
            .raw
            .send(&frame(GOAWAY, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 11]))
            .await;
        assert!(first.answer().await.is_err());
        let end = client.tunnel.closed().await;
        assert!(matches!(end, TunnelEnd::PeerError(11)), "{end:?}");
        assert!(end.to_string().contains("ENHANCE_YOUR_CALM"));
    });
}

#[test]
fn a_forged_record_is_no_clean_end() {
    story(async {
        let turning = new_loop(Settings::default());
        let (tunnel, far) = client_of(&turning).await;
        let opening = tunnel.open(&request()).unwrap();
        let (mut far, _tls) = far.into_inner();
        // A record of application data that nobody has sealed.
        let mut forged = vec![23, 3, 3, 0, 32];
        forged.extend([0; 32]);
        far.write_all(&forged).await.unwrap();
        let end = tunnel.closed().await;
        assert!(matches!(end, TunnelEnd::Tls(_)), "{end:?}");
        let lost = opening.answer().await.map(|_| ()).unwrap_err();
        assert!(matches!(lost, ConnectError::Lost(TunnelEnd::Tls(_))));
    });
}

#[test]
fn a_small_header_table_of_the_peer_is_acknowledged() {
    story(async {
        let mut served = served().await;
        served.raw.send(PREFACE).await;
        let no_table = frame(SETTINGS, 0, 0, &[0, 1, 0, 0, 0, 0]);
        served.raw.send(&no_table).await;
        for (stream, block) in [(1, &b"\x20\x88"[..]), (3, b"\x88")] {
            served.raw.send(&request_frame(stream)).await;
            let _stream = served.incoming.next().await.unwrap().accept();
            let answer = served.raw.wait_for(HEADERS).await;
            assert_eq!(answer.payload, block, "said once, first of all");
        }
    });
}

#[test]
fn a_silent_client_is_given_up() {
    story(async {
        let settings = Settings {
            ping_after: Duration::from_millis(50),
            ping_timeout: Duration::from_millis(50),
            ..Settings::default()
        };
        // Not even a preface.
        let served = served_with(settings).await;
        let end = served.tunnel.closed().await;
        assert!(matches!(end, TunnelEnd::Unresponsive), "{end:?}");
    });
}
