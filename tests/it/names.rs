//! Who is who: the client sees its pod's address and the address it dialled;
//! the server sees the client's address and port. Neither sees the daemon.

use std::net::{IpAddr, SocketAddr};

use mtls_tests::script::{Connect, Ended, Step};
use mtls_tests::{Family, Pair, Result, ensure, ensure_eq, play};

#[test]
fn names() -> Result {
    play("names", |scene| {
        let mut pair = Pair::start(scene)?;
        let mut server = pair.server.serve(8080, [Step::Echo])?;
        for family in Family::BOTH {
            let to = pair.server.at(family, 8080);
            let client = talk(&pair, Connect::to(to, []))?;
            ensure_eq(client.peer, Some(to), "whom the client sees")?;
            let own = client.local.map(|address| address.ip());
            ensure_eq(own, Some(pair.client.address(family)), "the client itself")?;
            let seen = &server.ended_well(1)?[0];
            ensure_eq(seen.peer, client.local, "whom the server sees")?;
            ensure_eq(seen.local, Some(to), "the server itself")?;
        }

        // An IPv6 socket that dials an IPv4 address speaks of it in IPv6 words.
        let to = pair.server.at(Family::V4, 8080);
        let client = talk(&pair, Connect::to(mapped(to), []))?;
        ensure_eq(client.peer, Some(mapped(to)), "whom the client sees")?;
        let own = client.local.map(|address| address.ip().to_canonical());
        ensure_eq(
            own,
            Some(pair.client.address(Family::V4)),
            "the client itself",
        )?;
        let seen = &server.ended_well(1)?[0];
        ensure_eq(
            seen.peer,
            client.local.map(canonical),
            "whom the server sees",
        )?;

        pair.ensure_private().map(drop)
    })
}

fn talk(pair: &Pair, mut task: Connect) -> Result<Ended> {
    task.script = vec![Step::Say("hi".into()), Step::Hear("hi".into())];
    let ended = pair.client.connect_as(task)?.ended_well()?.remove(0);
    ensure(ended.local.is_some(), || format!("{ended:?}"))?;
    Ok(ended)
}

fn mapped(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(v4) => SocketAddr::new(v4.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
