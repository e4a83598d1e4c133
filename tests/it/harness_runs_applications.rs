//! The harness itself: the real applications run in pods and talk to one
//! another, without any daemon.

use mtls_tests::apps::{Iperf, Nginx, Postgres, Redis};
use mtls_tests::{Family, Result, ensure, ensure_eq, play, two_nodes};

#[test]
fn harness_runs_applications() -> Result {
    play("harness-applications", |scene| {
        let (a, b) = two_nodes(scene)?;
        let (client, server) = (a.pod("client")?, b.pod("server")?);

        let nginx = Nginx::start(&server, 8080)?;
        nginx.put("file", 100_000, 1)?;
        let _redis = Redis::start(&server, 6379)?;
        let _postgres = Postgres::start(&server, 5432)?;
        let iperf = Iperf::start(&server, 5201)?;

        for family in Family::BOTH {
            let host = server.address(family).to_string();
            let url = format!("http://{}/hello", server.at(family, 8080));
            let said = client.run("curl", ["-sS", &url])?.success()?;
            ensure_eq(said.as_str(), "hello from server\n", "nginx's answer")?;
            nginx.wait_for_client(client.address(family))?;

            let said = client.run("redis-cli", ["-h", &host, "ping"])?.success()?;
            ensure_eq(said.trim(), "PONG", "Redis' answer")?;

            let query = ["-h", &host, "-U", "postgres", "-Atc", "select 6 * 7"];
            let said = client.run("psql", query)?.success()?;
            ensure_eq(said.trim(), "42", "PostgreSQL's answer")?;

            let measured = iperf.measure(&client, family, &["-n", "8M"])?;
            ensure(measured.bytes > 1 << 20, || format!("{measured:?}"))?;
        }
        Ok(())
    })
}
