//! A pod is told to end and takes its time. Through the grace period it speaks
//! as before; once the daemon has let it go, its connections are cut, and what
//! still runs in it neither says nor hears anything, in a tunnel or in clear.

use mtls_tests::deadline::{Deadline, wait_for};
use mtls_tests::mesh::workloads;
use mtls_tests::script::{Connect, Step};
use mtls_tests::{Family, Pair, Result, ensure, ensure_eq, play};

#[test]
fn terminating_pod() -> Result {
    play("terminating", |scene| {
        let mut pair = Pair::start(scene)?;
        let mut far = pair.server.serve(8080, [Step::Echo])?;
        let mut own = pair.client.serve(8081, [Step::Echo])?;
        let hello = [Step::Say("hi".into()), Step::Hear("hi".into())];
        let to = pair.server.at(Family::V4, 8080);
        let talk = |seed| {
            let bytes = 64 << 10;
            [
                Step::Hold,
                Step::Send { bytes, seed },
                Step::Receive { bytes, seed },
            ]
        };
        let script = [
            &talk(1)[..],
            &talk(2),
            &[Step::Hold, Step::SendForEver { seed: 3 }],
        ]
        .concat();
        let mut ending = pair.client.connect_as(Connect::to(to, script))?;
        ending.held()?;

        // Grace: it is still what it was.
        for _ in 0..2 {
            ending.go()?;
            ending.held()?;
        }
        let ended = pair.client.connect(to, hello.clone())?;
        ensure(ended.is_well(), || {
            format!("in its grace period: {ended:?}")
        })?;
        far.ended_well(1)?;

        // Its time is up, and it goes on.
        ending.go()?;
        let client = pair.client.clone();
        pair.mesh.forget(&client);
        pair.mesh.replan(|plan| plan)?;
        pair.clients_daemon()?.reload()?;
        let cut = ending.ended()?;
        ensure_eq(cut.error(), "ECONNRESET", "its open connection")?;
        let daemon = pair.clients_daemon()?;
        wait_for(
            Deadline::default(),
            || "the workload to be gone",
            || Ok((workloads(&daemon.status()?).count() == 0).then_some(())),
        )?;
        for family in Family::BOTH {
            let ended = pair
                .client
                .connect(pair.server.at(family, 8080), hello.clone())?;
            ensure_eq(ended.error(), "ECONNREFUSED", "what it dials afterwards")?;
            let ended = pair
                .server
                .connect(pair.client.at(family, 8081), hello.clone())?;
            ensure(!ended.is_well(), || {
                format!("who dials it afterwards: {ended:?}")
            })?;
        }
        ensure(own.has_nothing_to_tell()?, || "it was reached")?;
        pair.ensure_private().map(drop)
    })
}
