//! Peers that break the protocol or go past a limit: each ends in the right
//! error code, and a fault on one stream costs nobody else.

use std::time::Duration;

use mtls_daemon::tunnel::{CarryEnd, Settings, TunnelEnd, code};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::raw::*;
use crate::support::*;

/// Bytes after a proper greeting, and the code of the GOAWAY.
async fn breaks(bytes: &[u8], code: u32) {
    let mut served = served().await.greeted().await;
    served.raw.send(bytes).await;
    served.ends_with(code).await;
}

#[test]
fn a_wrong_start() {
    story(async {
        let mut served_ = served().await;
        served_.raw.send(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
        served_.ends_with(code::PROTOCOL_ERROR).await;
        for first in [
            request_frame(1),
            frame(PING, 0, 0, &[0; 8]),
            frame(DATA, 0, 1, b"x"),
            frame(SETTINGS, ACK, 0, &[]),
            frame(0x77, 0, 0, b"x"),
        ] {
            let mut served = served().await;
            served.raw.send(PREFACE).await;
            served.raw.send(&first).await;
            served.ends_with(code::PROTOCOL_ERROR).await;
        }
    });
}

#[test]
fn frames_of_a_wrong_size() {
    story(async {
        let too_large = [&[1, 0, 1][..], &[DATA, 0, 0, 0, 0, 1]].concat();
        for bytes in [
            too_large,
            frame(SETTINGS, 0, 0, &[0; 5]),
            frame(SETTINGS, ACK, 0, &[0; 6]),
            frame(PING, 0, 0, &[0; 7]),
            frame(GOAWAY, 0, 0, &[0; 7]),
            frame(WINDOW_UPDATE, 0, 0, &[0; 3]),
            frame(PRIORITY, 0, 1, &[0; 4]),
            [request_frame(1), frame(RST_STREAM, 0, 1, &[0; 5])].concat(),
            frame(DATA, PADDED, 1, &[]),
            frame(HEADERS, END_HEADERS | PADDED, 1, &[]),
            frame(HEADERS, END_HEADERS | 0x20, 1, &[0; 4]),
        ] {
            breaks(&bytes, code::FRAME_SIZE_ERROR).await;
        }
    });
}

#[test]
fn frames_where_they_may_not_be() {
    story(async {
        for bytes in [
            frame(DATA, 0, 0, b"x"),
            frame(DATA, 0, 1, b"x"),
            frame(DATA, 0, 2, b"x"),
            frame(HEADERS, END_HEADERS, 0, CONNECT),
            frame(HEADERS, END_HEADERS, 2, CONNECT),
            frame(SETTINGS, 0, 1, &[]),
            frame(PING, 0, 1, &[0; 8]),
            frame(GOAWAY, 0, 1, &[0; 8]),
            frame(PRIORITY, 0, 0, &[0; 5]),
            frame(RST_STREAM, 0, 0, &[0; 4]),
            frame(RST_STREAM, 0, 1, &[0; 4]),
            frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]),
            frame(WINDOW_UPDATE, 0, 0, &[0; 4]),
            frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2]),
            frame(CONTINUATION, END_HEADERS, 1, CONNECT),
            // A header block with something in between.
            [frame(HEADERS, 0, 1, CONNECT), frame(PING, 0, 0, &[0; 8])].concat(),
            [frame(HEADERS, 0, 1, CONNECT), frame(DATA, 0, 1, b"x")].concat(),
            [frame(HEADERS, 0, 1, CONNECT), frame(0x77, 0, 0, b"x")].concat(),
            [
                frame(HEADERS, 0, 1, CONNECT),
                frame(CONTINUATION, END_HEADERS, 3, &[]),
            ]
            .concat(),
            // Padding that is longer than its frame.
            [request_frame(1), frame(DATA, PADDED, 1, &[5, 0, 0, 0, 0])].concat(),
            frame(HEADERS, END_HEADERS | PADDED, 1, &[9, 0x88]),
            // Settings out of range.
            frame(SETTINGS, 0, 0, &[0, 2, 0, 0, 0, 2]),
            frame(SETTINGS, 0, 0, &[0, 5, 0, 0, 0x3f, 0xff]),
            frame(SETTINGS, 0, 0, &[0, 5, 1, 0, 0, 0]),
        ] {
            breaks(&bytes, code::PROTOCOL_ERROR).await;
        }
    });
}

#[test]
fn windows_past_their_limit() {
    story(async {
        let most = [0x7f, 0xff, 0xff, 0xff];
        breaks(&frame(WINDOW_UPDATE, 0, 0, &most), code::FLOW_CONTROL_ERROR).await;
        breaks(
            &frame(SETTINGS, 0, 0, &[0, 4, 0x80, 0, 0, 0]),
            code::FLOW_CONTROL_ERROR,
        )
        .await;
        // An initial window that lifts an open stream's past the limit.
        let widened = [
            request_frame(1),
            frame(WINDOW_UPDATE, 0, 1, &[0x7f, 0, 0, 0]),
            frame(SETTINGS, 0, 0, &[0, 4, 0x7f, 0, 0, 0]),
        ];
        breaks(&widened.concat(), code::FLOW_CONTROL_ERROR).await;
        // On a stream, only the stream ends.
        let mut served = served().await.greeted().await;
        for (stream, increment, code) in [
            (1, most, code::FLOW_CONTROL_ERROR),
            (3, [0; 4], code::PROTOCOL_ERROR),
        ] {
            served.raw.send(&request_frame(stream)).await;
            let asked = served.incoming.next().await.unwrap();
            served
                .raw
                .send(&frame(WINDOW_UPDATE, 0, stream, &increment))
                .await;
            assert_eq!(served.raw.reset_of(stream).await, code);
            asked.reset().await;
        }
        served.raw.is_answered().await;
        assert_eq!(served.turning.stats().stream_violations.get(), 2);
    });
}

#[test]
fn more_data_than_the_windows_allow() {
    story(async {
        // Past the stream's: nobody takes its bytes, so nothing is given back.
        let mut served = served().await.greeted().await;
        served.raw.send(&request_frame(1)).await;
        let asked = served.incoming.next().await.unwrap();
        for _ in 0..4 {
            served.raw.send(&frame(DATA, 0, 1, &[7; 16_384])).await;
        }
        served.raw.is_answered().await;
        served.raw.send(&frame(DATA, 0, 1, &[7])).await;
        assert_eq!(served.raw.reset_of(1).await, code::FLOW_CONTROL_ERROR);
        asked.reset().await;
        served.raw.is_answered().await;
        // Past the connection's: only what is in flight at once can be.
        let settings = Settings {
            connection_window: 65_535,
            ..Settings::default()
        };
        let mut served = served_with(settings).await.greeted().await;
        let mut burst = request_frame(1);
        // On a stream that is gone: it counts on the connection all the same.
        burst.extend(frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]));
        burst.extend(frame(DATA, 0, 1, &[7; 60_000]));
        served.raw.send(&burst).await;
        let update = served.raw.wait_for(WINDOW_UPDATE).await;
        assert_eq!((update.stream, update.number(0)), (0, 60_000));
        assert_eq!(served.turning.stats().late_data.get(), 1);
        served.raw.is_answered().await;
        served.raw.send(&frame(DATA, 0, 1, &[7; 65_536])).await;
        served.ends_with(code::FLOW_CONTROL_ERROR).await;
    });
}

#[test]
fn padding_counts_on_the_windows_and_reaches_nobody() {
    story(async {
        let mut served = served().await.greeted().await;
        served.raw.send(&request_frame(1)).await;
        let asked = served.incoming.next().await.unwrap();
        let (mut server, far_app) = app().await;
        let carry = asked.accept().carry(far_app);
        let mut padded = vec![100];
        padded.extend([b'x'; 10]);
        padded.extend([0; 100]);
        for _ in 0..1_000 {
            served.raw.send(&frame(DATA, PADDED, 1, &padded)).await;
        }
        served.raw.send(&frame(DATA, END_STREAM, 1, &[])).await;
        let mut got = vec![];
        server.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, [b'x'; 10_000]);
        assert_eq!(carry.handle().bytes(), Some((0, 10_000)));
        // 111,000 bytes went through windows of 65,536.
        let mut given = 0;
        while given < 111_000 - 32_768 {
            let update = served.raw.wait_for(WINDOW_UPDATE).await;
            given += if update.stream == 1 {
                update.number(0)
            } else {
                0
            };
        }
    });
}

#[test]
fn data_before_the_200_waits_within_the_window() {
    story(async {
        let mut served = served().await.greeted().await;
        let mut early = request_frame(1);
        early.extend(frame(DATA, END_STREAM, 1, &pattern(60_000, 1)));
        served.raw.send(&early).await;
        let asked = served.incoming.next().await.unwrap();
        served.raw.is_answered().await;
        let (mut server, far_app) = app().await;
        let carry = asked.accept().carry(far_app);
        let mut got = vec![];
        server.read_to_end(&mut got).await.unwrap();
        assert!(got == pattern(60_000, 1));
        drop(server);
        assert!(matches!(carry.await.end, CarryEnd::Done));
        assert_eq!(served.raw.wait_for(HEADERS).await.payload, OK);
        assert_eq!(served.raw.wait_for(DATA).await.flags, END_STREAM);
    });
}

#[test]
fn frames_for_a_stream_that_its_peer_has_ended() {
    story(async {
        let mut served = served().await.greeted().await;
        served
            .raw
            .send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, CONNECT))
            .await;
        let asked = served.incoming.next().await.unwrap();
        let (mut server, far_app) = app().await;
        let carry = asked.accept().carry(far_app);
        assert_eq!(server.read(&mut [0]).await.unwrap(), 0);
        served.raw.send(&frame(DATA, 0, 1, b"late")).await;
        assert_eq!(served.raw.reset_of(1).await, code::STREAM_CLOSED);
        assert!(matches!(carry.await.end, CarryEnd::ResetByPeer(_)));
        // To an application that has seen the end of one half, a reset is told
        // when it writes.
        while server.write_all(b"x").await.is_ok() {
            tokio::task::yield_now().await;
        }
        // Trailers, which a CONNECT does not have.
        served.raw.send(&request_frame(3)).await;
        let asked = served.incoming.next().await.unwrap();
        served
            .raw
            .send(&frame(HEADERS, END_HEADERS | END_STREAM, 3, &[]))
            .await;
        assert_eq!(served.raw.reset_of(3).await, code::PROTOCOL_ERROR);
        asked.reset().await;
        served.raw.is_answered().await;
    });
}

#[test]
fn streams_past_the_limit() {
    story(async {
        let settings = Settings {
            max_streams: 3,
            ..Settings::default()
        };
        let mut served = served_with(settings).await.greeted().await;
        for stream in [1, 3, 5, 7] {
            served.raw.send(&request_frame(stream)).await;
        }
        assert_eq!(served.raw.reset_of(7).await, code::REFUSED_STREAM);
        assert_eq!(served.turning.stats().streams_refused.get(), 1);
        // One that ends makes room for one.
        served
            .raw
            .send(&frame(RST_STREAM, 0, 3, &[0, 0, 0, 8]))
            .await;
        served.raw.send(&request_frame(9)).await;
        served.raw.is_answered().await;
        assert_eq!(served.tunnel.flows(), 3);
        // With nobody to take requests, they are refused too.
        drop(served.incoming);
        for stream in [1, 5, 9] {
            assert_eq!(served.raw.reset_of(stream).await, code::REFUSED_STREAM);
        }
        served.raw.send(&request_frame(11)).await;
        assert_eq!(served.raw.reset_of(11).await, code::REFUSED_STREAM);
    });
}

/// The nth part of a flood.
type Maker = fn(u32) -> Vec<u8>;

#[test]
fn floods_are_ended() {
    story(async {
        let rapid_reset: Maker = |n| {
            let stream = 2 * n + 1;
            let mut bytes = request_frame(stream);
            bytes.extend(frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]));
            bytes
        };
        let past_the_limit: Maker = |n| request_frame(2 * n + 1);
        let bad_request: Maker = |n| frame(HEADERS, END_HEADERS, 2 * n + 1, b"\x82");
        let ping: Maker = |_| frame(PING, 0, 0, &[0; 8]);
        let settings: Maker = |_| frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 1]);
        let empty_data: Maker = |n| {
            if n == 0 {
                request_frame(1)
            } else {
                frame(DATA, 0, 1, &[])
            }
        };
        let unknown: Maker = |_| frame(0x77, 0, 0, &[]);
        let priority: Maker = |_| frame(PRIORITY, 0, 1, &[0; 5]);
        let goaway: Maker = |_| frame(GOAWAY, 0, 0, &[0; 8]);
        let kinds: [(&str, Maker); 9] = [
            ("rapid reset", rapid_reset),
            ("past the limit", past_the_limit),
            ("bad requests", bad_request),
            ("PING", ping),
            ("SETTINGS", settings),
            ("empty DATA", empty_data),
            ("unknown frames", unknown),
            ("PRIORITY", priority),
            ("GOAWAY", goaway),
        ];
        for (name, make) in kinds {
            let settings = Settings {
                max_streams: 10,
                ..Settings::default()
            };
            let mut served = served_with(settings).await.greeted().await;
            // A flow of its own keeps the tunnel from draining at a GOAWAY.
            if name == "GOAWAY" {
                served.raw.send(&request_frame(1)).await;
            }
            let flood: Vec<u8> = (0..5_000).flat_map(make).collect();
            served.raw.flood(&flood, 1).await;
            let turning = served.turning.clone();
            let end = served.tunnel.closed().await;
            assert!(
                matches!(end, TunnelEnd::Violation(v) if v.code == code::ENHANCE_YOUR_CALM),
                "{name}: {end:?}"
            );
            assert_eq!(turning.stats().floods.get(), 1, "{name}");
            assert_eq!(served.tunnel.flows(), 0, "{name}");
        }
    });
}

#[test]
fn header_blocks_without_end() {
    story(async {
        // Many small pieces.
        let mut pieces = frame(HEADERS, 0, 1, CONNECT);
        for _ in 0..20 {
            pieces.extend(frame(CONTINUATION, 0, 1, &[]));
        }
        breaks(&pieces, code::ENHANCE_YOUR_CALM).await;
        // A few large ones.
        let mut pieces = frame(HEADERS, 0, 1, CONNECT);
        for _ in 0..3 {
            pieces.extend(frame(CONTINUATION, 0, 1, &[0; 30_000]));
        }
        breaks(&pieces, code::ENHANCE_YOUR_CALM).await;
        // One frame that cannot be decoded.
        for bad in [
            &b"\xff"[..],
            b"\x00",
            b"\xbf",
            b"\x80",
            b"\x02\x85\xff\xff\xff\xff\xff",
        ] {
            breaks(
                &frame(HEADERS, END_HEADERS, 1, bad),
                code::COMPRESSION_ERROR,
            )
            .await;
        }
        // A list that is too long costs its stream only: 80 KB in a block of
        // 1 KB, by way of the table that exists until our SETTINGS are known.
        let mut served = served().await;
        let mut bomb = CONNECT.to_vec();
        bomb.extend(b"\x40\x01x\x7f\xa1\x1e");
        bomb.extend([b'y'; 4_000]);
        bomb.extend([0xbe; 20]);
        served.raw.send(PREFACE).await;
        served.raw.send(&frame(SETTINGS, 0, 0, &[])).await;
        served
            .raw
            .send(&frame(HEADERS, END_HEADERS, 1, &bomb))
            .await;
        let answer = served.raw.wait_for(HEADERS).await;
        assert_eq!(
            (answer.flags, &answer.payload[..]),
            (5, &b"\x08\x03431"[..])
        );
        assert_eq!(served.raw.reset_of(1).await, code::NO_ERROR);
        // The table that it left is as the peer thinks it is.
        let mut with_table = CONNECT.to_vec();
        with_table.push(0xbe);
        served
            .raw
            .send(&frame(HEADERS, END_HEADERS, 3, &with_table))
            .await;
        served.incoming.next().await.unwrap();
        // And gone once the peer has acknowledged our SETTINGS.
        served.raw.send(&frame(SETTINGS, ACK, 0, &[])).await;
        served
            .raw
            .send(&frame(HEADERS, END_HEADERS, 5, &with_table))
            .await;
        served.ends_with(code::COMPRESSION_ERROR).await;
    });
}

#[test]
fn heads_that_are_not_for_us() {
    story(async {
        let mut served = served().await.greeted().await;
        // GET, a name for an authority: HTTP, but not what we take.
        for (stream, head) in [
            (1, &b"\x82\x84\x87\x01\x0d10.0.2.7:5432"[..]),
            (3, b"\x02\x07CONNECT\x01\x06web:80"),
        ] {
            let get = frame(HEADERS, END_HEADERS, stream, head);
            served.raw.send(&get).await;
            let answer = served.raw.wait_for(HEADERS).await;
            assert_eq!((answer.stream, &answer.payload[..]), (stream, &b"\x8c"[..]));
            assert_eq!(served.raw.reset_of(stream).await, code::NO_ERROR);
        }
        // Not HTTP/2 at all.
        for (stream, head) in [
            (5, &b"\x01\x0d10.0.2.7:5432"[..]),
            (7, b"\x02\x07CONNECT\x01\x0d10.0.2.7:5432\x84"),
            (9, b"\x02\x07CONNECT\x01\x0d10.0.2.7:5432\x00\x01X\x01y"),
        ] {
            let malformed = frame(HEADERS, END_HEADERS, stream, head);
            served.raw.send(&malformed).await;
            assert_eq!(served.raw.reset_of(stream).await, code::PROTOCOL_ERROR);
        }
        assert_eq!(served.turning.stats().bad_requests.get(), 5);
        served.raw.send(&request_frame(11)).await;
        served.incoming.next().await.unwrap();
    });
}

#[test]
fn a_peer_that_does_not_read_is_still_read() {
    story(async {
        let mut served = served().await.greeted().await;
        let wide = [0x3f, 0, 0, 0];
        for bytes in [
            request_frame(1),
            frame(WINDOW_UPDATE, 0, 0, &wide),
            frame(WINDOW_UPDATE, 0, 1, &wide),
        ] {
            served.raw.send(&bytes).await;
        }
        let asked = served.incoming.next().await.unwrap();
        let (server, far_app) = app().await;
        let carry = asked.accept().carry(far_app);
        let (mut server_read, mut server_write) = server.into_split();
        let writing = tokio::task::spawn_local(async move {
            let _ = server_write.write_all(&vec![0; 64 << 20]).await;
        });
        // Until the tunnel takes no more.
        let mut before = None;
        while before != carry.handle().bytes() {
            before = carry.handle().bytes();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        served
            .raw
            .send(&frame(DATA, 0, 1, &pattern(60_000, 3)))
            .await;
        let mut got = vec![0; 60_000];
        server_read.read_exact(&mut got).await.unwrap();
        assert!(got == pattern(60_000, 3));
        assert!(!writing.is_finished());
        // And once it reads, everything comes.
        let mut data = 0;
        while data < 64 << 20 {
            data += served.raw.wait_for(DATA).await.payload.len();
        }
        writing.await.unwrap();
    });
}
