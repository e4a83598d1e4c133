//! A pod that calls its own address, or a service whose endpoint it is,
//! reaches itself.

use mtls_tests::script::Step;
use mtls_tests::{Family, Pair, Result, ensure, ensure_eq, play};

#[test]
fn own_address() -> Result {
    play("own-address", |scene| {
        let mut pair = Pair::start_as(scene, |plan, client, _| {
            plan.service("self", &["10.96.0.1", "fd96::1"], "[80]", &[client])
        })?;
        let mut own = pair.client.serve(80, [Step::Echo])?;
        let script = [Step::Say("hi".into()), Step::Hear("hi".into())];
        for family in Family::BOTH {
            let to = pair.client.at(family, 80);
            let ended = pair.client.connect(to, script.clone())?;
            ensure(ended.is_well(), || format!("{ended:?}"))?;
            let seen = &own.ended_well(1)?[0];
            ensure_eq(seen.peer, ended.local, "whom the server sees")?;
        }
        for service in ["10.96.0.1:80", "[fd96::1]:80"] {
            let to = service
                .parse()
                .map_err(|e| mtls_tests::Error::Unexpected(format!("{service}: {e}")))?;
            let ended = pair.client.connect(to, script.clone())?;
            ensure(ended.is_well(), || format!("{service}: {ended:?}"))?;
            ensure_eq(ended.peer, Some(to), "whom the client sees")?;
            own.ended_well(1)?;
        }
        pair.ensure_nothing_in_clear().map(drop)
    })
}
