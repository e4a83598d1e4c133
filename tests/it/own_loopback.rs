//! A pod's own loopback is its own: any port, the daemon's too.

use mtls_tests::script::{Serve, SocketKind, Step};
use mtls_tests::{Family, Pair, Result, ensure, ensure_eq, play};

#[test]
fn own_loopback() -> Result {
    play("own-loopback", |scene| {
        let mut pair = Pair::start(scene)?;
        for port in [1, 80, 8080, 15001, 15006, 15008, 15020, 32768, 60999, 65535] {
            for family in Family::BOTH {
                let at = family.loopback(port);
                let kind = SocketKind {
                    no_reuse: true,
                    v6_only: true,
                    ..SocketKind::default()
                };
                let task = Serve::on(port, [Step::Echo]).only_at(at).socket(kind);
                let mut server = pair.client.serve_as(task)?;
                let script = [Step::Say("hi".into()), Step::Hear("hi".into())];
                let ended = pair.client.connect(at, script)?;
                ensure(ended.is_well(), || format!("{at}: {ended:?}"))?;
                ensure_eq(ended.peer, Some(at), "whom the client sees")?;
                let seen = &server.ended_well(1)?[0];
                ensure_eq(seen.peer, ended.local, "whom the server sees")?;
            }
        }
        pair.ensure_nothing_in_clear().map(drop)
    })
}
