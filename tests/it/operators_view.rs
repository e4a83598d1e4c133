//! What operators see: the same connection under the same id in both access
//! logs, open connections, the state of the node, health.

use mtls_tests::mesh::workloads;
use mtls_tests::script::{Connect, Step};
use mtls_tests::{Family, Pair, Result, ensure, ensure_eq, play};

#[test]
fn operators_view() -> Result {
    play("operators-view", |scene| {
        let mut pair = Pair::start(scene)?;
        let mut server = pair.server.serve(8080, [Step::Echo])?;
        let to = pair.server.at(Family::V4, 8080);
        let script = [
            Step::Say("hello".into()),
            Step::Hear("hello".into()),
            Step::Hold,
        ];
        let mut client = pair.client.connect_as(Connect::to(to, script))?;
        client.held()?;

        let mut ids = Vec::new();
        for (daemon, direction) in pair.mesh.daemons().iter().zip(["outbound", "inbound"]) {
            let status = daemon.status()?;
            ensure(workloads(&status).all(|w| w["state"] == "ready"), || {
                status.to_string()
            })?;
            let answer = daemon.ask("connections")?;
            let open = answer["connections"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            ensure_eq(open.len(), 1, "open connections")?;
            ensure_eq(
                open[0]["direction"].as_str(),
                Some(direction),
                "its direction",
            )?;
            ensure_eq(
                open[0]["source"].as_str(),
                Some("spiffe://example.org/client"),
                "source",
            )?;
            let destination = open[0]["destination"].as_str();
            ensure_eq(
                destination,
                Some("spiffe://example.org/server"),
                "destination",
            )?;
            ids.push(open[0]["id"].clone());
            for path in ["/healthz", "/readyz"] {
                let (status, body) = daemon.get(path)?;
                ensure(status == 200, || format!("{path}: {status} {body}"))?;
            }
        }
        ensure_eq(&ids[0], &ids[1], "its id on both nodes")?;

        client.go()?;
        client.ended_well()?;
        server.ended_well(1)?;
        for daemon in pair.mesh.daemons() {
            let line =
                daemon.wait_for_access("the connection's end", |line| line["id"] == ids[0])?;
            ensure_eq(
                line["source"].as_str(),
                Some("spiffe://example.org/client"),
                "source",
            )?;
            let destination = line["destination"].as_str();
            ensure_eq(
                destination,
                Some("spiffe://example.org/server"),
                "destination",
            )?;
            ensure_eq(
                line["original_dst"].as_str(),
                Some(&*to.to_string()),
                "destination",
            )?;
            ensure_eq(line["bytes_to_server"].as_u64(), Some(5), "bytes")?;
            ensure_eq(line["reason"].as_str(), Some("done"), "reason")?;
        }
        pair.ensure_private().map(drop)
    })
}
