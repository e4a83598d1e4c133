//! Two tunnels of ours against each other: every way in which they end.

use crate::support::*;
use mtls_daemon::reason::Reason;
use mtls_daemon::tunnel::{CarryEnd, ConnectError, Cut, Settings, TunnelEnd, code};
use std::io::ErrorKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::spawn_local;

#[test]
fn draining_from_either_side_lets_flows_end() {
    story(async {
        for far_drains in [false, true] {
            let mut pair = pair().await;
            let mut flow = pair.flow().await;
            if far_drains {
                pair.far.drain();
            } else {
                pair.near.drain();
            }
            while pair.near.is_open() || pair.far.is_open() {
                ping_pong(&mut flow.client, &mut flow.server).await;
            }
            let refused = pair.near.connect(&request()).await.map(|_| ()).unwrap_err();
            assert!(matches!(refused, ConnectError::GoingAway), "{refused:?}");
            assert!(refused.may_retry());
            ping_pong(&mut flow.client, &mut flow.server).await;
            drop((flow.client, flow.server));
            assert!(matches!(flow.near.await.end, CarryEnd::Done));
            assert!(matches!(flow.far.await.end, CarryEnd::Done));
            let (near, far) = tokio::join!(pair.near.closed(), pair.far.closed());
            assert!(matches!(near, TunnelEnd::Drained), "{near:?}");
            assert!(matches!(far, TunnelEnd::Drained), "{far:?}");
            assert!(pair.incoming.next().await.is_none());
        }
    });
}

#[test]
fn the_last_handle_drains_its_tunnel() {
    story(async {
        let mut pair = pair().await;
        let mut flow = pair.flow().await;
        drop(pair.near);
        ping_pong(&mut flow.client, &mut flow.server).await;
        drop((flow.client, flow.server));
        assert!(matches!(flow.near.await.end, CarryEnd::Done));
        let far = pair.far.closed().await;
        assert!(matches!(far, TunnelEnd::Drained), "{far:?}");
    });
}

#[test]
fn a_handle_cuts_its_own_flow_and_knows_that_it_has_ended() {
    story(async {
        let mut pair = pair().await;
        let (mut flow, mut other) = (pair.flow().await, pair.flow().await);
        ping_pong(&mut flow.client, &mut flow.server).await;
        let handle = flow.far.handle();
        assert_eq!(handle.bytes(), Some((4, 4)));
        handle.cut(Cut(Reason::NotAuthorised));
        assert_eq!(flow.far.await.end.reason(), Reason::NotAuthorised);
        assert_eq!(handle.bytes(), None);
        assert_eq!(flow.near.await.end.reason(), Reason::ResetByPeer);
        for app in [&mut flow.client, &mut flow.server] {
            assert_eq!(read_error(app).await, ErrorKind::ConnectionReset);
        }
        // Whoever is in its place by now is somebody else.
        let mut next = pair.flow().await;
        handle.cut(Cut(Reason::NotAuthorised));
        ping_pong(&mut next.client, &mut next.server).await;
        ping_pong(&mut other.client, &mut other.server).await;
    });
}

#[test]
fn a_cut_resets_both_applications() {
    story(async {
        let mut pair = pair().await;
        let mut flow = pair.flow().await;
        let mut other = pair.flow().await;
        ping_pong(&mut flow.client, &mut flow.server).await;
        let carried = flow.far.cut(Cut(Reason::NotAuthorised));
        assert!(matches!(
            carried.end,
            CarryEnd::Cut(Cut(Reason::NotAuthorised))
        ));
        assert_eq!((carried.to_peer, carried.from_peer), (4, 4));
        for app in [&mut flow.client, &mut flow.server] {
            assert_eq!(read_error(app).await, ErrorKind::ConnectionReset);
        }
        ping_pong(&mut other.client, &mut other.server).await;
        pair.near.abort(Cut(Reason::TunnelExpired));
        for app in [&mut other.client, &mut other.server] {
            assert_eq!(read_error(app).await, ErrorKind::ConnectionReset);
        }
        assert_eq!(other.near.await.end.reason(), Reason::TunnelExpired);
        assert_eq!(other.far.await.end.reason(), Reason::ResetByPeer);
        assert!(matches!(pair.near.closed().await, TunnelEnd::Cut(_)));
        // Told to go away and left without flows: from here, a drain.
        assert!(matches!(pair.far.closed().await, TunnelEnd::Drained));
    });
}

#[test]
fn a_dropped_flow_is_reset() {
    story(async {
        let mut pair = pair().await;
        let mut flow = pair.flow().await;
        ping_pong(&mut flow.client, &mut flow.server).await;
        drop(flow.near);
        for app in [&mut flow.client, &mut flow.server] {
            assert_eq!(read_error(app).await, ErrorKind::ConnectionReset);
        }
        assert!(matches!(
            flow.far.await.end,
            CarryEnd::ResetByPeer(code::CANCEL)
        ));
        assert_eq!(pair.near.flows(), 0);
    });
}

/// Says of `bulk` what is taken without anybody reading at the other end.
async fn fill(server: &mut TcpStream, bulk: &[u8]) -> usize {
    let wait = std::time::Duration::from_millis(300);
    let mut sent = 0;
    while let Ok(Ok(n)) = tokio::time::timeout(wait, server.write(&bulk[sent..])).await {
        sent += n;
    }
    sent
}

#[test]
fn a_slow_application_gets_everything_after_the_tunnel_is_gone() {
    story(async {
        let mut pair = pair().await;
        let mut flow = pair.flow().await;
        flow.client.shutdown().await.unwrap();
        assert_eq!(flow.server.read(&mut [0]).await.unwrap(), 0);
        let bulk = pattern(64 << 20, 9);
        let sent = fill(&mut flow.server, &bulk).await;
        let server = spawn_local(async move {
            let mut server = flow.server;
            server.write_all(&bulk[sent..sent + 1000]).await.unwrap();
            server.shutdown().await.unwrap();
            server
        });
        // Read until the rest has left the far daemon, then lose the tunnel.
        let mut got = vec![];
        while !server.is_finished() || pair.far.flows() > 0 {
            let mut buf = vec![0; 65_536];
            let n = flow.client.read(&mut buf).await.unwrap();
            got.extend_from_slice(&buf[..n]);
        }
        assert!(matches!(flow.far.await.end, CarryEnd::Done));
        pair.far.abort(Cut(Reason::DrainDeadline));
        pair.near.closed().await;
        flow.client.read_to_end(&mut got).await.unwrap();
        assert!(got == pattern(64 << 20, 9)[..sent + 1000]);
        assert!(matches!(flow.near.await.end, CarryEnd::Done));
    });
}

#[test]
fn an_application_that_ended_its_half_and_goes_is_missed() {
    story(async {
        let mut pair = pair().await;
        for talks in [false, true] {
            let mut flow = pair.flow().await;
            flow.client.shutdown().await.unwrap();
            assert_eq!(flow.server.read(&mut [0]).await.unwrap(), 0);
            if talks {
                fill(&mut flow.server, &vec![7; 64 << 20]).await;
            }
            reset(flow.client);
            assert!(matches!(flow.near.await.end, CarryEnd::ResetByApp));
            let far = flow.far.await.end;
            assert!(
                matches!(far, CarryEnd::ResetByPeer(code::CANCEL)),
                "{far:?}"
            );
            // It has read the end: that it was a reset, writing tells.
            let told = flow.server.write(b"x").await.unwrap_err();
            assert_eq!(told.kind(), ErrorKind::BrokenPipe);
        }
        assert_eq!(pair.near.flows() + pair.far.flows(), 0);
    });
}

#[test]
fn an_application_that_goes_before_it_has_taken_the_rest_leaves_nothing() {
    story(async {
        // All of it waits here: more than sockets take, less than the windows.
        let near = Settings {
            initial_window: 128 << 20,
            max_window: 128 << 20,
            connection_window: 128 << 20,
            ..Settings::default()
        };
        let mut pair = pair_with(near, Settings::default()).await;
        let mut flow = pair.flow().await;
        flow.client.shutdown().await.unwrap();
        assert_eq!(flow.server.read(&mut [0]).await.unwrap(), 0);
        flow.server.write_all(&vec![7; 64 << 20]).await.unwrap();
        flow.server.shutdown().await.unwrap();
        assert!(matches!(flow.far.await.end, CarryEnd::Done));
        reset(flow.client);
        assert!(matches!(flow.near.await.end, CarryEnd::ResetByApp));
        assert_eq!(pair.near.flows(), 0);
    });
}

#[test]
fn the_peers_stream_limit_is_kept() {
    story(async {
        let far = Settings {
            max_streams: 2,
            ..Settings::default()
        };
        let mut pair = pair_with(Settings::default(), far).await;
        // Its SETTINGS are here with the first answer.
        let first = pair.stream().await;
        let _second = pair.stream().await;
        assert!(!pair.near.has_room());
        let refused = pair.near.connect(&request()).await.map(|_| ()).unwrap_err();
        assert!(matches!(refused, ConnectError::NoRoom), "{refused:?}");
        drop(first);
        while !pair.near.has_room() {
            tokio::task::yield_now().await;
        }
        pair.stream().await;
    });
}

#[test]
fn a_silent_peer_is_given_up() {
    story(async {
        let settings = Settings {
            ping_after: std::time::Duration::from_millis(50),
            ping_timeout: std::time::Duration::from_millis(100),
            ..Settings::default()
        };
        // One that answers lives on for many intervals.
        let pair = pair_with(settings.clone(), Settings::default()).await;
        tokio::time::timeout(std::time::Duration::from_millis(600), pair.near.closed())
            .await
            .expect_err("the peer does answer");
        // One that does not read is lost, and its flows with it.
        let turning = new_loop(settings);
        let (tunnel, _silent) = client_of(&turning).await;
        let lost = tunnel.connect(&request()).await.map(|_| ()).unwrap_err();
        assert!(
            matches!(lost, ConnectError::Lost(TunnelEnd::Unresponsive)),
            "{lost:?}"
        );
        assert_eq!(turning.stats().unresponsive.get(), 1);
    });
}

#[test]
fn a_connection_cut_off_under_tls_is_no_clean_end() {
    story(async {
        // The far side's socket is closed without close_notify.
        let turning = new_loop(Settings::default());
        let (tunnel, server) = client_of(&turning).await;
        let opening = tunnel.open(&request()).unwrap();
        let (mut far, _tls) = server.into_inner();
        far.shutdown().await.unwrap();
        let end = tunnel.closed().await;
        assert!(matches!(end, TunnelEnd::Truncated), "{end:?}");
        let lost = opening.answer().await.map(|_| ()).unwrap_err();
        assert!(matches!(lost, ConnectError::Lost(TunnelEnd::Truncated)));
        assert_eq!(turning.stats().truncated.get(), 1);
    });
}

#[test]
fn many_flows_and_connections_leave_nothing() {
    story(async {
        let mut pair = pair().await;
        let mut flows = vec![];
        for _ in 0..500 {
            flows.push(pair.flow().await);
        }
        for flow in &mut flows {
            ping_pong(&mut flow.client, &mut flow.server).await;
        }
        for flow in flows {
            drop((flow.client, flow.server));
            assert!(matches!(flow.near.await.end, CarryEnd::Done));
            assert!(matches!(flow.far.await.end, CarryEnd::Done));
        }
        assert_eq!(pair.near.flows() + pair.far.flows(), 0);
    });
}
