//! Identity and address must agree, at either end: a node that presents
//! another identity than the directory knows at an address is refused, though
//! the authority vouches for it.

use mtls_tests::script::Step;
use mtls_tests::{Family, Pair, Result, ensure, play};

#[test]
fn server_with_another_identity() -> Result {
    play("wrong-server", |scene| {
        let mut pair = Pair::start_as(scene, |plan, _, server| {
            plan.set_workload(server, "spiffe_id", "\"spiffe://example.org/impostor\"")
        })?;
        ensure_refused(&mut pair)?;
        let bad = [("direction", "outbound"), ("reason", "bad_san")];
        pair.clients_daemon()?
            .wait_for_metrics("refused identities", |metrics| {
                metrics.count("mtls_handshake_failures_total", &bad) >= 1
            })?;
        pair.ensure_private().map(drop)
    })
}

#[test]
fn client_with_another_identity() -> Result {
    play("wrong-client", |scene| {
        let mut pair = Pair::start_as(scene, |plan, client, _| {
            plan.set_workload(client, "spiffe_id", "\"spiffe://example.org/impostor\"")
        })?;
        ensure_refused(&mut pair)?;
        let bad = [
            ("direction", "inbound"),
            ("reason", "identity_not_at_address"),
        ];
        pair.servers_daemon()?
            .wait_for_metrics("refused identities", |metrics| {
                metrics.count("mtls_connections_refused_total", &bad) >= 1
            })?;
        pair.ensure_private().map(drop)
    })
}

fn ensure_refused(pair: &mut Pair) -> Result {
    let mut server = pair.server.serve(8080, [Step::Echo])?;
    for family in Family::BOTH {
        let script = [Step::Say("hi".into()), Step::Hear("hi".into())];
        let ended = pair.client.connect(pair.server.at(family, 8080), script)?;
        let told = matches!(ended.error(), "ECONNRESET" | "ECONNREFUSED");
        ensure(told, || format!("{ended:?}"))?;
    }
    ensure(server.has_nothing_to_tell()?, || "the server was reached")
}
