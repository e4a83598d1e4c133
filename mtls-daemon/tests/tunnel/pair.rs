//! Two tunnels of ours against each other.

use std::io::ErrorKind;

use mtls_daemon::reason::Reason;
use mtls_daemon::tunnel::{CarryEnd, ConnectError, Cut, Settings, code};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::spawn_local;

use crate::support::*;

#[test]
fn a_request_and_its_answer() {
    story(async {
        let mut pair = pair().await;
        let (asking, asked) = pair.asked().await;
        assert_eq!(asked.head(), &request());
        let far = asked.accept();
        let near = asking.await.unwrap().unwrap();
        let (mut client, near_app) = app().await;
        let (mut server, far_app) = app().await;
        let (near, far) = (near.carry(near_app), far.carry(far_app));
        ping_pong(&mut client, &mut server).await;
        assert_eq!(near.handle().bytes(), Some((4, 4)));
        assert_eq!(pair.near.flows(), 1);
        drop((client, server));
        let (near, far) = tokio::join!(near, far);
        assert!(matches!(near.end, CarryEnd::Done), "{near:?}");
        assert!(matches!(far.end, CarryEnd::Done), "{far:?}");
        assert_eq!((near.to_peer, near.from_peer), (4, 4));
        assert_eq!(pair.near.flows() + pair.far.flows(), 0);
        assert!(pair.near.idle_since().is_some());
    });
}

#[test]
fn bulk_both_ways_on_many_flows() {
    story(async {
        let mut pair = pair().await;
        let mut tasks = vec![];
        for n in 0..8 {
            let mut flow = pair.flow().await;
            tasks.push(spawn_local(async move {
                let there = pattern(4 << 20, n + 1);
                let back = pattern(4 << 20, n + 100);
                let (mut client_read, mut client_write) = flow.client.split();
                let (mut server_read, mut server_write) = flow.server.split();
                let (mut got_there, mut got_back) = (vec![], vec![]);
                tokio::join!(
                    async {
                        client_write.write_all(&there).await.unwrap();
                        client_write.shutdown().await.unwrap();
                    },
                    async { server_read.read_to_end(&mut got_there).await.unwrap() },
                    async {
                        server_write.write_all(&back).await.unwrap();
                        server_write.shutdown().await.unwrap();
                    },
                    async { client_read.read_to_end(&mut got_back).await.unwrap() },
                );
                assert!(got_there == there && got_back == back);
                let (near, far) = tokio::join!(flow.near, flow.far);
                assert!(matches!(near.end, CarryEnd::Done), "{near:?}");
                assert!(matches!(far.end, CarryEnd::Done), "{far:?}");
                assert_eq!((near.to_peer, near.from_peer), (4 << 20, 4 << 20));
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
    });
}

#[test]
fn either_half_may_end_first() {
    story(async {
        let mut pair = pair().await;
        let mut flow = pair.flow().await;
        let mut got = vec![];
        flow.client.write_all(b"all I say").await.unwrap();
        flow.client.shutdown().await.unwrap();
        flow.server.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"all I say");
        // The other half is still open, and long enough to fill every buffer.
        let back = pattern(8 << 20, 7);
        let (sent, got) = tokio::join!(
            async {
                flow.server.write_all(&back).await.unwrap();
                flow.server.shutdown().await
            },
            async {
                let mut got = vec![];
                flow.client.read_to_end(&mut got).await.unwrap();
                got
            }
        );
        sent.unwrap();
        assert!(got == back);
        assert!(matches!(flow.near.await.end, CarryEnd::Done));
        assert!(matches!(flow.far.await.end, CarryEnd::Done));

        let mut flow = pair.flow().await;
        flow.server.shutdown().await.unwrap();
        assert_eq!(flow.client.read(&mut [0]).await.unwrap(), 0);
        flow.client.write_all(b"late").await.unwrap();
        drop(flow.client);
        let mut got = vec![];
        flow.server.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"late");
        assert!(matches!(flow.near.await.end, CarryEnd::Done));
        assert!(matches!(flow.far.await.end, CarryEnd::Done));
    });
}

#[test]
fn a_reset_of_either_application_reaches_the_other() {
    story(async {
        let mut pair = pair().await;
        let mut flow = pair.flow().await;
        ping_pong(&mut flow.client, &mut flow.server).await;
        reset(flow.client);
        assert_eq!(
            read_error(&mut flow.server).await,
            ErrorKind::ConnectionReset
        );
        assert!(matches!(flow.near.await.end, CarryEnd::ResetByApp));
        assert!(matches!(
            flow.far.await.end,
            CarryEnd::ResetByPeer(code::CANCEL)
        ));

        let mut flow = pair.flow().await;
        ping_pong(&mut flow.client, &mut flow.server).await;
        reset(flow.server);
        assert_eq!(
            read_error(&mut flow.client).await,
            ErrorKind::ConnectionReset
        );
        assert!(matches!(flow.far.await.end, CarryEnd::ResetByApp));
        assert!(matches!(
            flow.near.await.end,
            CarryEnd::ResetByPeer(code::CONNECT_ERROR)
        ));
    });
}

#[test]
fn what_came_before_a_reset_arrives_before_it() {
    story(async {
        let mut pair = pair().await;
        let mut flow = pair.flow().await;
        flow.server
            .write_all(b"an answer, then a reset")
            .await
            .unwrap();
        reset(flow.server);
        let mut got = [0; 23];
        flow.client.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"an answer, then a reset");
        assert_eq!(
            read_error(&mut flow.client).await,
            ErrorKind::ConnectionReset
        );
    });
}

#[test]
fn a_reset_after_a_half_close_is_still_a_reset() {
    story(async {
        let mut pair = pair().await;
        // The client is done and reads; its server's connection then fails.
        let mut flow = pair.flow().await;
        flow.client.shutdown().await.unwrap();
        assert_eq!(flow.server.read(&mut [0]).await.unwrap(), 0);
        flow.server.write_all(b"a part").await.unwrap();
        let mut got = [0; 6];
        flow.client.read_exact(&mut got).await.unwrap();
        reset(flow.server);
        assert_eq!(
            read_error(&mut flow.client).await,
            ErrorKind::ConnectionReset
        );
        // The same with the tunnel failing instead.
        let mut flow = pair.flow().await;
        flow.client.shutdown().await.unwrap();
        assert_eq!(flow.server.read(&mut [0]).await.unwrap(), 0);
        pair.far.abort(Cut(Reason::DrainDeadline));
        assert_eq!(
            read_error(&mut flow.client).await,
            ErrorKind::ConnectionReset
        );
        assert!(
            flow.server.write_all(b"more").await.is_err()
                || read_error(&mut flow.server).await == ErrorKind::ConnectionReset
        );
    });
}

#[test]
fn a_stalled_reader_moves_nobody() {
    story(async {
        let mut pair = pair().await;
        let mut stalled = vec![];
        let bulk = std::rc::Rc::new(pattern(32 << 20, 1));
        for _ in 0..32 {
            let flow = pair.flow().await;
            let (near, far) = (flow.near, flow.far);
            spawn_local(async move { tokio::join!(near, far) });
            let mut server = flow.server;
            // More than every buffer on the way holds.
            let bulk = std::rc::Rc::clone(&bulk);
            spawn_local(async move {
                let _ = server.write_all(&bulk).await;
            });
            stalled.push(flow.client);
        }
        let mut probe = pair.flow().await;
        for _ in 0..200 {
            ping_pong(&mut probe.client, &mut probe.server).await;
        }
        // And bulk still moves.
        let mut got = vec![0; bulk.len()];
        tokio::join!(
            async { probe.client.write_all(&bulk).await.unwrap() },
            async { probe.server.read_exact(&mut got).await.unwrap() },
        );
        assert!(got == *bulk);
        // The stalled ones have lost nothing.
        for mut client in stalled.into_iter().take(4) {
            got.fill(0);
            client.read_exact(&mut got).await.unwrap();
            assert!(got == *bulk);
        }
    });
}

#[test]
fn windows_bound_what_a_stalled_application_costs() {
    story(async {
        let settings = Settings {
            tunnel_growth: 0,
            ..Settings::default()
        };
        let mut pair = pair_with(settings.clone(), settings).await;
        let mut flow = pair.flow().await;
        let bulk = pattern(8 << 20, 3);
        let mut got = vec![0; bulk.len()];
        tokio::join!(
            async { flow.server.write_all(&bulk).await.unwrap() },
            async { flow.client.read_exact(&mut got).await.unwrap() },
        );
        assert!(got == bulk);
        assert!(pair.near_loop.stats().growth_denied.get() > 0);
        assert_eq!(pair.far_loop.stats().growth_denied.get(), 0);
    });
}

#[test]
fn answers_other_than_200() {
    story(async {
        let mut pair = pair().await;
        for status in [401, 503, 400] {
            let (asking, asked) = pair.asked().await;
            asked.refuse(status);
            let refused = asking.await.unwrap().map(|_| ()).unwrap_err();
            assert!(
                matches!(refused, ConnectError::Refused { status: s } if s == status),
                "{refused:?}"
            );
        }
        let (asking, asked) = pair.asked().await;
        drop(asked);
        let reset = asking.await.unwrap().map(|_| ()).unwrap_err();
        assert!(
            matches!(reset, ConnectError::Reset(code::CANCEL)),
            "{reset:?}"
        );
        assert_eq!(pair.near.flows() + pair.far.flows(), 0);
    });
}

#[test]
fn a_request_that_nobody_waits_for_says_so() {
    story(async {
        let mut pair = pair().await;
        let (asking, asked) = pair.asked().await;
        asking.abort();
        asked.reset().await;
        // Accepting it is harmless, and carrying it resets the application.
        let stream = asked.accept();
        let (mut server, far_app) = app().await;
        let end = stream.carry(far_app).await.end;
        assert!(
            matches!(end, CarryEnd::ResetByPeer(code::CANCEL)),
            "{end:?}"
        );
        assert_eq!(read_error(&mut server).await, ErrorKind::ConnectionReset);
        // One that is still in the queue just goes.
        let opening = pair.near.open(&request()).unwrap();
        drop(opening);
        let (asking, asked) = pair.asked().await;
        asked.refuse(503);
        assert!(asking.await.unwrap().is_err());
    });
}

#[test]
fn early_bytes_reach_nobody_before_the_answer() {
    story(async {
        let mut pair = pair().await;
        // The peer's SETTINGS are here, and say that it holds them back.
        let _first = pair.flow().await;
        let (mut client, near_app) = app().await;
        client.write_all(b"early").await.unwrap();

        // Refused: they are still there, and go elsewhere.
        let refused = pair.near.open_for(&request(), &near_app).unwrap();
        assert!(refused.has_spoken());
        pair.incoming.next().await.unwrap().refuse(503);
        let refused = refused.answer().await.map(drop).unwrap_err();
        assert!(matches!(refused, ConnectError::Refused { status: 503 }));

        let opening = pair.near.open_for(&request(), &near_app).unwrap();
        let asked = pair.incoming.next().await.unwrap();
        client.write_all(b" and late").await.unwrap();
        client.shutdown().await.unwrap();
        let (mut server, far_app) = app().await;
        let far = asked.accept().carry(far_app);
        let near = opening.answer().await.unwrap().carry(near_app);
        let mut got = vec![];
        server.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"early and late");
        drop(server);
        assert!(matches!(far.await.end, CarryEnd::Done));
        let near = near.await;
        assert!(matches!(near.end, CarryEnd::Done));
        assert_eq!(near.to_peer, 14);
    });
}

#[test]
fn an_application_that_resets_after_its_early_bytes_is_reset_at_its_peer() {
    story(async {
        let mut pair = pair().await;
        let _first = pair.flow().await;
        let (mut client, near_app) = app().await;
        client.write_all(b"early").await.unwrap();
        let opening = pair.near.open_for(&request(), &near_app).unwrap();
        let asked = pair.incoming.next().await.unwrap();
        reset(client);
        let (mut server, far_app) = app().await;
        let far = asked.accept().carry(far_app);
        let near = opening.answer().await.unwrap().carry(near_app);
        assert!(matches!(near.await.end, CarryEnd::ResetByApp));
        assert!(matches!(far.await.end, CarryEnd::ResetByPeer(_)));
        assert_eq!(read_error(&mut server).await, ErrorKind::ConnectionReset);
    });
}

#[test]
fn a_tunnel_that_has_not_said_so_gets_no_early_bytes() {
    story(async {
        let pair = pair().await;
        let (mut client, near_app) = app().await;
        client.write_all(b"early").await.unwrap();
        // Its SETTINGS cannot be here yet.
        let opening = pair.near.open_for(&request(), &near_app).unwrap();
        assert!(!opening.has_spoken());
    });
}
