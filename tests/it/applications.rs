//! Real applications, each at real work, through real daemons: nginx and curl,
//! PostgreSQL and pgbench, Redis and redis-benchmark, iperf3.

use mtls_tests::apps::{Iperf, Nginx, Postgres, Redis};
use mtls_tests::{Family, Pair, Result, ensure, ensure_eq, play};

#[test]
fn nginx_and_curl() -> Result {
    play("nginx", |scene| {
        let mut pair = Pair::start(scene)?;
        let nginx = Nginx::start(&pair.server, 80)?;
        nginx.put("file", 5_000_000, 1)?;
        for family in Family::BOTH {
            let url = format!("http://{}", pair.server.at(family, 80));
            let said = pair
                .client
                .run("curl", ["-sS", &format!("{url}/hello")])?
                .success()?;
            ensure_eq(said.as_str(), "hello from server\n", "nginx's answer")?;
            let size = pair
                .client
                .run(
                    "curl",
                    [
                        "-sS",
                        "-o",
                        "/dev/null",
                        "-w",
                        "%{size_download}",
                        &format!("{url}/file"),
                    ],
                )?
                .success()?;
            ensure_eq(size.as_str(), "5000000", "bytes of the file")?;
            // The server's own log has the client's own address.
            let log = nginx.wait_for_client(pair.client.address(family))?;
            ensure(!log.contains("127."), || log.clone())?;
        }
        let report = pair.ensure_private()?;
        report.ensure_absent(&[b"hello from server", b"GET /"])
    })
}

#[test]
fn postgresql_and_pgbench() -> Result {
    play("postgresql", |scene| {
        let mut pair = Pair::start(scene)?;
        let _postgres = Postgres::start(&pair.server, 5432)?;
        for (family, prepare) in [(Family::V4, true), (Family::V6, false)] {
            let host = pair.server.address(family).to_string();
            let pgbench = |args: &[&str]| {
                let args = [&["-h", &host, "-U", "postgres"], args, &["postgres"]].concat();
                pair.client.run("pgbench", args)?.success()
            };
            if prepare {
                pgbench(&["-i", "-q", "-s", "1"])?;
            }
            let said = pgbench(&["-c", "8", "-j", "2", "-t", "50"])?;
            ensure(said.contains("400/400"), || said.clone())?;
            // The server knows its client by its own address.
            let query = [
                "-h",
                &host,
                "-U",
                "postgres",
                "-Atc",
                "select inet_client_addr()",
            ];
            let said = pair.client.run("psql", query)?.success()?;
            let client = pair.client.address(family).to_string();
            ensure_eq(said.trim(), client.as_str(), "the client's address")?;
        }
        pair.ensure_private()?
            .ensure_absent(&[b"UPDATE pgbench", b"postgres"])
    })
}

#[test]
fn redis_and_redis_benchmark() -> Result {
    play("redis", |scene| {
        let mut pair = Pair::start(scene)?;
        let _redis = Redis::start(&pair.server, 6379)?;
        for family in Family::BOTH {
            let host = pair.server.address(family).to_string();
            let args = [
                "-h", &host, "-n", "5000", "-c", "50", "-P", "4", "-t", "set,get", "--csv",
            ];
            let said = pair.client.run("redis-benchmark", args)?.success()?;
            ensure(said.contains("\"SET\"") && said.contains("\"GET\""), || {
                said.clone()
            })?;
            let said = pair
                .client
                .run("redis-cli", ["-h", &host, "client", "list"])?
                .success()?;
            let client = match family {
                Family::V4 => format!("addr={}:", pair.client.address(family)),
                Family::V6 => format!("addr=[{}]:", pair.client.address(family)),
            };
            ensure(said.contains(&client), || said.clone())?;
        }
        pair.ensure_private()?
            .ensure_absent(&[b"redis_version", b"$3\r\nSET"])
    })
}

#[test]
fn iperf3() -> Result {
    play("iperf3", |scene| {
        let mut pair = Pair::start(scene)?;
        let iperf = Iperf::start(&pair.server, 5201)?;
        for family in Family::BOTH {
            for args in [
                &["-n", "50M"][..],
                &["-n", "50M", "-R"],
                &["-n", "20M", "-P", "4"],
            ] {
                let measured = iperf.measure(&pair.client, family, args)?;
                ensure(measured.bytes > 1 << 20, || {
                    format!("{args:?}: {measured:?}")
                })?;
            }
        }
        pair.ensure_private().map(drop)
    })
}
