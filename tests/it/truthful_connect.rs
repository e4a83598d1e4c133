//! connect() tells the truth: it fails with ECONNREFUSED where the far
//! application does not listen, at the first attempt and by each way to ask,
//! and succeeds as soon as it does.

use std::time::Duration;

use mtls_tests::script::{Connect, How, SocketKind, Step};
use mtls_tests::{Family, Pair, Result, ensure, ensure_eq, play};

/// Until then a dial to an application waits by default (`limits.connect`):
/// who is told later was not refused by it.
const DIAL: Duration = Duration::from_secs(5);

#[test]
fn truthful_connect() -> Result {
    play("truthful-connect", |scene| {
        let mut pair = Pair::start(scene)?;
        let hello = [Step::Hear("welcome".into()), Step::Say("hi".into())];
        let greeting = [Step::Say("welcome".into()), Step::Hear("hi".into())];
        let plain = SocketKind::default();
        let v6_only = SocketKind {
            v6_only: true,
            ..plain
        };
        let mptcp = SocketKind {
            mptcp: true,
            ..plain
        };
        let ways = [
            (Family::V4, How::NonBlocking, plain),
            (Family::V4, How::Blocking, plain),
            (Family::V4, How::IoUring, plain),
            (Family::V4, How::Blocking, mptcp),
            (Family::V4, How::FastOpenSend, plain),
            (Family::V6, How::NonBlocking, plain),
            (Family::V6, How::Blocking, v6_only),
            (Family::V6, How::FastOpenSend, v6_only),
            (Family::V6, How::NonBlocking, mptcp),
        ];
        for (port, (family, how, socket)) in (9000..).zip(ways) {
            let what = format!("{family:?}, {how:?}, {socket:?}");
            let to = pair.server.at(family, port);
            let ask = |script: &[Step]| -> Result<_> {
                let task = Connect::to(to, script).how(how).socket(socket);
                Ok(pair.client.connect_as(task)?.ended_all()?.remove(0))
            };
            // Twice: nothing that was remembered answers in the peer's stead.
            for _ in 0..2 {
                let refused = ask(&[Step::ExpectEnd])?;
                ensure(refused.failed_to_connect(), || {
                    format!("{what}: {refused:?}")
                })?;
                ensure_eq(refused.error(), "ECONNREFUSED", &what)?;
                let took = Duration::from_micros(refused.connect_micros);
                ensure(took < DIAL, || format!("{what}: told after {took:?}"))?;
            }
            if how == How::FastOpenSend {
                continue; // its server would hear another script
            }
            let mut server = pair.server.serve(port, greeting.clone())?;
            let accepted = ask(&hello)?;
            ensure(accepted.is_well(), || format!("{what}: {accepted:?}"))?;
            ensure_eq(accepted.peer, Some(to), &what)?;
            server.ended_well(1)?;
            // It is trusted for a moment, which is over at its first refusal.
            drop(server);
            let told = ask(&[Step::ExpectEnd])?;
            ensure(
                matches!(told.error(), "ECONNRESET" | "ECONNREFUSED"),
                || format!("{what}, closed a moment ago: {told:?}"),
            )?;
            let refused = ask(&[Step::ExpectEnd])?;
            ensure(refused.failed_to_connect(), || {
                format!("{what}: {refused:?}")
            })?;
        }
        let metrics = pair.clients_daemon()?.metrics()?;
        let held = |result| metrics.count("mtls_held_connects_total", &[("result", result)]);
        ensure_eq(held("released"), 7, "connections that were let go")?;
        ensure(held("refused") >= 18, || {
            format!("{} connections refused while held", held("refused"))
        })?;
        ensure_eq(held("timed_out"), 0, "connections that nobody answered")?;
        pair.ensure_private().map(drop)
    })
}
