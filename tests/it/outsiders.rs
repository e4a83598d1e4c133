//! Who is not in the mesh gets nothing: a pod without a daemon is refused by
//! every enrolled pod, from the other node and from the same bridge, on every
//! port; and no enrolled pod reaches it.

use mtls_tests::script::Step;
use mtls_tests::{Family, Pair, Result, ensure, ensure_eq, play};

#[test]
fn outsiders() -> Result {
    play("outsiders", |scene| {
        let mut pair = Pair::start(scene)?;
        let strangers = [pair.a.outsider("far")?, pair.b.outsider("near")?];
        let mut server = pair.server.serve(8080, [Step::Echo])?;
        let _listening: Vec<_> = strangers
            .iter()
            .map(|stranger| stranger.serve(8080, [Step::Echo]))
            .collect::<Result<_>>()?;
        let script = [Step::Say("secret".into()), Step::Hear("secret".into())];
        for family in Family::BOTH {
            for stranger in &strangers {
                for port in [8080, 9] {
                    let to = pair.server.at(family, port);
                    let ended = stranger.connect(to, script.clone())?;
                    ensure(ended.failed_to_connect(), || format!("{ended:?}"))?;
                    ensure_eq(ended.error(), "ECONNREFUSED", "a stranger's connection")?;
                }
                let to = stranger.at(family, 8080);
                let ended = pair.client.connect(to, script.clone())?;
                ensure(
                    matches!(ended.error(), "ECONNRESET" | "ECONNREFUSED"),
                    || format!("to a stranger: {ended:?}"),
                )?;
                // It speaks to the tunnel's port, but no TLS.
                let to = pair.server.at(family, 15008);
                let ended = stranger.connect(to, script.clone())?;
                ensure(!ended.is_well(), || format!("to the tunnel: {ended:?}"))?;
            }
        }
        ensure(server.has_nothing_to_tell()?, || "the server was reached")?;
        let blocked = [("direction", "inbound"), ("reason", "not_tls")];
        pair.servers_daemon()?
            .wait_for_metrics("handshakes that were none", |metrics| {
                metrics.count("mtls_handshake_failures_total", &blocked) >= 4
            })?;
        Ok(())
    })
}
