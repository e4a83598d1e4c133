//! A connection to a mesh address arrives at the daemon, which learns where it
//! was meant to go; the application notices nothing.

use std::net::{Ipv6Addr, SocketAddr};

use mtls_daemon::addr::OriginalDst;
use mtls_daemon::kernel::{Hook, ListenerKind, Outcome};
use mtls_tests::pod::INTERFACE;
use mtls_tests::script::{Connect, How, SocketKind, Step};
use mtls_tests::{Family, Result, ensure, ensure_eq, play, two_nodes};

use super::stage::{Stage, capture_kind};

/// Every way to open a connection, over every family, has one end.
#[test]
fn kernel_captures_every_kind_of_connect() -> Result {
    play("kernel-captures", |scene| {
        let (a, b) = two_nodes(scene)?;
        let (client, server) = (a.pod("client")?, b.pod("server")?);
        let mut stage = Stage::attached(&a)?;
        let post = stage.enrol(&client)?;

        let mapped = |to: SocketAddr| match to {
            SocketAddr::V4(v4) => SocketAddr::from((v4.ip().to_ipv6_mapped(), v4.port())),
            v6 => v6,
        };
        let v4 = server.at(Family::V4, 5432);
        let v6 = server.at(Family::V6, 5432);
        let only = SocketKind {
            v6_only: true,
            ..SocketKind::default()
        };
        let mptcp = SocketKind {
            mptcp: true,
            ..SocketKind::default()
        };
        let bound = |family| Some(client.at(family, 0));
        for how in [How::NonBlocking, How::Blocking, How::IoUring] {
            for (to, socket, bind) in [
                (v4, SocketKind::default(), None),
                (mapped(v4), SocketKind::default(), None),
                (v6, SocketKind::default(), None),
                (v6, only, None),
                (v4, SocketKind::default(), bound(Family::V4)),
                (v6, SocketKind::default(), bound(Family::V6)),
                (v4, mptcp, None),
                (v6, mptcp, None),
            ] {
                let what = format!("{how:?} to {to} with {socket:?} from {bind:?}");
                let mut task = Connect::to(
                    to,
                    [
                        Step::Say("ask".into()),
                        Step::Hear("answer".into()),
                        Step::ExpectEnd,
                    ],
                )
                .how(how)
                .socket(socket);
                task.bind = bind;
                let mut running = client.connect_as(task)?;

                let family = if to.ip().to_canonical().is_ipv4() {
                    Family::V4
                } else {
                    Family::V6
                };
                // bind() to a concrete IPv6 address makes a socket V6ONLY.
                let only_v6 = socket.v6_only || bind.is_some_and(|bind| bind.is_ipv6());
                let kind = capture_kind(family, only_v6);
                let (accepted, original) = post.accept_captured(&mut stage, kind)?;
                let canonical = SocketAddr::new(to.ip().to_canonical(), to.port());
                ensure_eq(original, Some(OriginalDst(canonical)), &what)?;
                // Taken once, it is gone.
                ensure_eq(post.original(&mut stage, &accepted)?, None, &what)?;
                accepted.talk("ask", "answer")?;

                let ended = running.ended()?;
                ensure(ended.is_well(), || format!("{what}: {ended:?}"))?;
                ensure_eq(ended.peer, Some(to), &format!("{what}: its peer's name"))?;
                let own = ended.local.map(|local| local.ip().to_canonical());
                let expected = Some(client.address(family));
                ensure_eq(own, expected, &format!("{what}: its own name"))?;
            }
        }
        ensure_eq(stage.entries("ORIGINAL_DST")?, 0, "destinations left")?;
        ensure_eq(
            stage.count(Hook::SockOps, Outcome::RecordFailed)?,
            0,
            "failed records",
        )
    })
}

/// A socket bound to the pod's interface would send the captured connection
/// out of that.
#[test]
fn kernel_captures_a_socket_bound_to_an_interface() -> Result {
    play("kernel-bound-device", |scene| {
        let (a, b) = two_nodes(scene)?;
        let (client, server) = (a.pod("client")?, b.pod("server")?);
        let mut stage = Stage::attached(&a)?;
        let post = stage.enrol(&client)?;
        let to = server.address(Family::V4);
        let script = format!(
            "use Socket; socket(S, AF_INET, SOCK_STREAM, 6) or die $!; \
             setsockopt(S, SOL_SOCKET, 25, pack('Z*', '{INTERFACE}')) or die $!; \
             connect(S, pack_sockaddr_in(8080, inet_aton('{to}'))) or die $!; print 'connected'"
        );
        let said = client.run("perl", ["-e", &script])?.success()?;
        ensure_eq(said.as_str(), "connected", "the application")?;
        let (_, original) = post.accept_captured(&mut stage, ListenerKind::CaptureV4)?;
        let expected = Some(OriginalDst(server.at(Family::V4, 8080)));
        ensure_eq(original, expected, "where it went")
    })
}

/// An application may use every port of its own loopback addresses.
#[test]
fn kernel_leaves_loopback_to_the_applications() -> Result {
    play("kernel-loopback", |scene| {
        let (a, _) = two_nodes(scene)?;
        let pod = a.pod("pod")?;
        let mut stage = Stage::attached(&a)?;
        let _post = stage.enrol(&pod)?;
        let script = || [Step::Hear("hello".into()), Step::ExpectEnd];
        for port in [29184, 29190, 15008] {
            let mut server = pod.serve(port, script())?;
            for family in Family::BOTH {
                let to = family.loopback(port);
                let ended = pod.connect(to, [Step::Say("hello".into())])?;
                ensure(ended.is_well(), || format!("to {to}: {ended:?}"))?;
                ensure_eq(ended.peer, Some(to), "its peer's name")?;
                ensure(server.ended()?.is_well(), || "the server's side".to_owned())?;
            }
        }
        // And its own addresses.
        let mut server = pod.serve(8080, script())?;
        for family in Family::BOTH {
            let to = pod.at(family, 8080);
            let ended = pod.connect(to, [Step::Say("hello".into())])?;
            ensure(ended.is_well(), || format!("to {to}: {ended:?}"))?;
            let served = server.ended()?;
            let peer = served.peer.map(|peer| peer.ip().to_canonical());
            ensure_eq(peer, Some(pod.address(family)), "who called itself")?;
        }
        ensure_eq(
            stage.count(Hook::Connect4, Outcome::Captured)?,
            0,
            "captured",
        )?;
        let unspecified = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 8080));
        let ended = pod.connect(unspecified, [Step::Say("hello".into())])?;
        ensure(ended.is_well(), || format!("to {unspecified}: {ended:?}"))
    })
}
