//! Whatever system call opens a connection, it is captured: connect(2)
//! blocking and not, io_uring, TCP fast open in both forms, MPTCP; and so is
//! an IPv6-only socket.

use mtls_tests::script::{Connect, FIRST_BYTE, How, Serve, SocketKind, Step};
use mtls_tests::{Family, Pair, Result, play};

#[test]
fn ways_to_connect() -> Result {
    play("ways-to-connect", |scene| {
        let mut pair = Pair::start(scene)?;
        for pod in [&pair.client, &pair.server] {
            // Both sides, with a cookie or without.
            pod.netns().sysctl("net/ipv4/tcp_fastopen", "0x603")?;
        }
        let plain = SocketKind::default();
        let mptcp = SocketKind {
            mptcp: true,
            ..plain
        };
        let v6_only = SocketKind {
            v6_only: true,
            ..plain
        };
        let fast = SocketKind {
            fast_open: true,
            ..v6_only
        };
        let mut ended = 0;
        let mut to_plain = pair.server.serve(8080, [Step::Echo])?;
        let mut to_fast = pair
            .server
            .serve_as(Serve::on(8081, [Step::Echo]).socket(fast))?;

        let talk = [
            Step::Send {
                bytes: 10_000,
                seed: 1,
            },
            Step::Receive {
                bytes: 10_000,
                seed: 1,
            },
        ];
        for family in Family::BOTH {
            for how in [
                How::NonBlocking,
                How::Blocking,
                How::IoUring,
                How::FastOpenConnect,
                How::FastOpenSend,
            ] {
                for socket in [plain, mptcp, v6_only] {
                    for port in [8080, 8081] {
                        let mut script = talk.to_vec();
                        if how == How::FastOpenSend {
                            if socket.mptcp {
                                continue; // MPTCP sockets do not take MSG_FASTOPEN everywhere
                            }
                            script.insert(0, Step::Hear(FIRST_BYTE.into()));
                        }
                        let task = Connect::to(pair.server.at(family, port), script)
                            .how(how)
                            .socket(socket);
                        pair.client.connect_as(task)?.ended_well()?;
                        ended += 1;
                    }
                }
            }
        }
        to_plain.ended_well(ended / 2)?;
        to_fast.ended_well(ended / 2)?;
        pair.ensure_private().map(drop)
    })
}
