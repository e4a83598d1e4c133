//! Whatever a server listens with, it is reached, and sees its client in the
//! words of its own socket: IPv4 and IPv6 apart, both in one socket (IPv4 in
//! mapped form), MPTCP, one address only, and without SO_REUSEADDR.

use std::net::SocketAddr;

use mtls_tests::script::{Serve, SocketKind, Step};
use mtls_tests::{Family, Pair, Result, ensure, ensure_eq, play};

#[test]
fn listeners() -> Result {
    play("listeners", |scene| {
        let mut pair = Pair::start(scene)?;
        let apart = SocketKind {
            v6_only: true,
            ..SocketKind::default()
        };
        let both = SocketKind::default();
        let listeners = [
            Serve::on(8080, [Step::Echo]).socket(SocketKind {
                no_reuse: true,
                ..apart
            }),
            Serve::on(8081, [Step::Echo]).socket(SocketKind {
                mptcp: true,
                ..apart
            }),
            Serve::on(8082, [Step::Echo])
                .only_at(Family::V6.any(8082))
                .socket(both),
            Serve::on(8083, [Step::Echo])
                .only_at(Family::V6.any(8083))
                .socket(SocketKind {
                    mptcp: true,
                    ..both
                }),
            Serve::on(8084, [Step::Echo]).only_at(pair.server.at(Family::V4, 8084)),
            Serve::on(8085, [Step::Echo]).only_at(pair.server.at(Family::V6, 8085)),
        ];
        for task in listeners {
            let families: &[Family] = match task.listen[..] {
                [SocketAddr::V4(_)] => &[Family::V4],
                [SocketAddr::V6(v6)] if !v6.ip().is_unspecified() => &[Family::V6],
                _ => &Family::BOTH,
            };
            let dual = task.listen.len() == 1 && families.len() == 2;
            let mut server = pair.server.serve_as(task)?;
            for family in families {
                let to = pair.server.at(*family, server.port());
                let script = [Step::Say("hi".into()), Step::Hear("hi".into())];
                let ended = pair.client.connect(to, script)?;
                ensure(ended.is_well(), || format!("{to}: {ended:?}"))?;
                let seen = server.ended_well(1)?[0].peer;
                ensure_eq(seen.map(canonical), ended.local, "whom the server sees")?;
                let in_v6_words = seen.is_some_and(|peer| peer.is_ipv6());
                ensure_eq(in_v6_words, dual || *family == Family::V6, "its family")?;
            }
        }
        pair.ensure_private().map(drop)
    })
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
