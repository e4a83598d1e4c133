//! The harness itself: without daemons, what two pods say to one another is
//! on the wire in clear, and the capture says so. A check that cannot fail
//! would prove nothing in the other stories.

use mtls_tests::script::{Connect, How, SocketKind, Step, mark};
use mtls_tests::{Family, Result, ensure, ensure_eq, play, two_nodes};

#[test]
fn harness_sees_plain_text() -> Result {
    play("harness-sees-plain-text", |scene| {
        let (a, b) = two_nodes(scene)?;
        let (client, server) = (a.pod("client")?, b.pod("server")?);
        let capture = a.capture_wire()?;

        const MIB: u64 = 1 << 20;
        let mut listener = server.serve(
            8080,
            [
                Step::Receive {
                    bytes: MIB,
                    seed: 1,
                },
                Step::Send {
                    bytes: MIB,
                    seed: 2,
                },
            ],
        )?;
        for family in Family::BOTH {
            let to = server.at(family, 8080);
            let ended = client.connect(
                to,
                [
                    Step::Send {
                        bytes: MIB,
                        seed: 1,
                    },
                    Step::HalfClose,
                    Step::ReceiveToEnd { seed: 2 },
                ],
            )?;
            ensure(ended.is_well(), || format!("{ended:?}"))?;
            ensure_eq((ended.sent, ended.received), (MIB, MIB), "bytes")?;
            ensure_eq(ended.peer, Some(to), "whom the client sees")?;
            let seen = listener.ended()?;
            ensure(seen.is_well(), || format!("{seen:?}"))?;
            ensure_eq(seen.peer, ended.local, "whom the server sees")?;
        }

        let report = capture.finish()?;
        ensure_eq(report.connections.len(), 2, "connections on the wire")?;
        ensure_eq((report.inside(), report.outside()), (0, 4 * MIB), "bytes")?;
        ensure(report.ensure_only_tls().is_err(), || "plain text passed")?;
        let found = report.contains(&[&mark(1), &mark(2), &mark(3)])?;
        ensure_eq(found, vec![true, true, false], "marks on the wire")
    })
}

#[test]
fn harness_opens_connections_in_every_way() -> Result {
    play("harness-every-way", |scene| {
        let (a, b) = two_nodes(scene)?;
        let (client, server) = (a.pod("client")?, b.pod("server")?);
        for pod in [&client, &server] {
            pod.netns().sysctl("net/ipv4/tcp_fastopen", "3")?;
        }
        let mptcp = SocketKind {
            mptcp: true,
            fast_open: true,
            ..SocketKind::default()
        };
        let _plain = server.serve(8081, [Step::Echo])?;
        let _mptcp = server.serve_as(mtls_tests::script::Serve::on(8082, [Step::Echo]).socket(
            SocketKind {
                v6_only: true,
                ..mptcp
            },
        ))?;
        let talk = [Step::Say("hello".into()), Step::Hear("hello".into())];
        for family in Family::BOTH {
            for how in [
                How::NonBlocking,
                How::Blocking,
                How::IoUring,
                How::FastOpenConnect,
            ] {
                for (port, socket) in [(8081, SocketKind::default()), (8082, mptcp)] {
                    let task = Connect::to(server.at(family, port), talk.clone())
                        .how(how)
                        .socket(socket);
                    client.connect_as(task)?.ended_well()?;
                }
            }
            let with_first = [
                Step::Hear("!".into()),
                Step::Say("hello".into()),
                Step::Hear("hello".into()),
            ];
            let task = Connect::to(server.at(family, 8081), with_first).how(How::FastOpenSend);
            client.connect_as(task)?.ended_well()?;
            let refused = client.connect(server.at(family, 9), talk.clone())?;
            ensure(refused.failed_to_connect(), || format!("{refused:?}"))?;
            ensure_eq(refused.error(), "ECONNREFUSED", "a closed port")?;
        }
        Ok(())
    })
}

#[test]
fn harness_holds_a_thousand_connections() -> Result {
    play("harness-thousand", |scene| {
        let (a, b) = two_nodes(scene)?;
        let (client, server) = (a.pod("client")?, b.pod("server")?);
        let mut listener = server.serve(8080, [Step::Echo])?;
        let script = [
            Step::Say("before".into()),
            Step::Hear("before".into()),
            Step::Hold,
            Step::Say("after".into()),
            Step::Hear("after".into()),
        ];
        let mut many =
            client.connect_as(Connect::to(server.at(Family::V6, 8080), script).many(1000, 1000))?;
        ensure_eq(many.held()?, 1000, "connections open at once")?;
        many.go()?;
        many.ended_well()?;
        listener.ended_well(1000).map(drop)
    })
}
