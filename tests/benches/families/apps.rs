//! Real programs beside our own load: what they say of themselves.

use mtls_tests::apps::{Iperf, Nginx, Postgres, Redis};
use mtls_tests::{Error, Result};

use crate::bench::Bench;
use crate::course::{Course, PORT, Server, Way};
use crate::figures::Value;

type Program = fn(&Way, u64) -> Result<Vec<Value>>;

pub(super) fn run(bench: &mut Bench) -> Result {
    let programs: [(Server, Program); 4] = [
        (|pod| Ok(Box::new(Iperf::start(pod, PORT)?)), iperf3),
        (
            |pod| Ok(Box::new(Redis::start(pod, PORT)?)),
            redis_benchmark,
        ),
        (
            |pod| {
                let nginx = Nginx::start(pod, PORT)?;
                nginx.put("file", 1024, 1)?;
                Ok(Box::new(nginx))
            },
            wrk,
        ),
        (|pod| Ok(Box::new(Postgres::start(pod, PORT)?)), pgbench),
    ];
    // iperf3 and pgbench speak whole seconds.
    let seconds = bench.options.span.as_secs().max(1);
    for (server, measure) in programs {
        let mut course = Course::build_with(&bench.options.candidates, server)?;
        bench.rounds(&mut course, |course, candidate| {
            measure(course.way(candidate)?, seconds)
                .map_err(|e| Error::Unexpected(format!("{}: {e}", candidate.name())))
        })?;
    }
    Ok(())
}

fn iperf3(way: &Way, seconds: u64) -> Result<Vec<Value>> {
    // With several streams it hangs at its end now and then behind any proxy.
    let said = run_in(
        way,
        "iperf3",
        &["-J", "-c", "HOST", "-p", "PORT", "-t", &seconds.to_string()],
    )?;
    let answer: serde_json::Value =
        serde_json::from_str(&said).map_err(|e| unreadable("iperf3", e.to_string()))?;
    let bits = answer["end"]["sum_received"]["bits_per_second"].as_f64();
    let bits = bits.ok_or_else(|| unreadable("iperf3", said))?;
    Ok(vec![Value::new("iperf3", "Gbit/s", bits / 1e9)])
}

fn redis_benchmark(way: &Way, seconds: u64) -> Result<Vec<Value>> {
    // It takes a count, not a time; on one thread it makes some 50,000 a second.
    let count = (seconds * 30_000).to_string();
    let words = [
        "-h", "HOST", "-p", "PORT", "-c", "50", "-n", &count, "-t", "get", "--csv",
    ];
    let said = run_in(way, "redis-benchmark", &words)?;
    let rate = said.lines().find_map(|line| {
        let rest = line.strip_prefix("\"GET\",\"")?;
        rest.split('"').next()?.parse().ok()
    });
    let rate = rate.ok_or_else(|| unreadable("redis-benchmark", said))?;
    Ok(vec![Value::new("redis_get_per_s", "/s", rate)])
}

fn wrk(way: &Way, seconds: u64) -> Result<Vec<Value>> {
    let span = format!("{seconds}s");
    let kept = ["-t", "1", "-c", "64", "-d", &span, "http://HOST:PORT/file"];
    let closed = [
        "-t",
        "1",
        "-c",
        "64",
        "-d",
        &span,
        "-H",
        "Connection: close",
        "http://HOST:PORT/file",
    ];
    let mut values = Vec::new();
    for (name, words) in [("wrk_per_s", kept.as_slice()), ("wrk_close_per_s", &closed)] {
        let said = run_in(way, "wrk", words)?;
        let rate = said.lines().find_map(|line| {
            line.trim()
                .strip_prefix("Requests/sec:")?
                .trim()
                .parse()
                .ok()
        });
        let rate = rate.ok_or_else(|| unreadable("wrk", said))?;
        values.push(Value::new(name, "/s", rate));
    }
    Ok(values)
}

fn pgbench(way: &Way, seconds: u64) -> Result<Vec<Value>> {
    let server = ["-h", "HOST", "-p", "PORT", "-U", "postgres"];
    let run = |words: &[&str]| {
        let words: Vec<&str> = server
            .iter()
            .chain(words)
            .copied()
            .chain(["postgres"])
            .collect();
        run_in(way, "pgbench", &words)
    };
    run(&["-i", "-q", "-s", "1"])?;
    let said = run(&["-S", "-c", "8", "-j", "1", "-T", &seconds.to_string()])?;
    let rate = said
        .lines()
        .find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok());
    let rate = rate.ok_or_else(|| unreadable("pgbench", said))?;
    Ok(vec![Value::new("pgbench_select_per_s", "/s", rate)])
}

/// `HOST` and `PORT` in the words are where the way begins.
fn run_in(way: &Way, program: &str, words: &[&str]) -> Result<String> {
    let (host, port) = (way.to.ip().to_string(), way.to.port().to_string());
    let words = words
        .iter()
        .map(|word| word.replace("HOST", &host).replace("PORT", &port));
    way.client.run(program, words)?.success()
}

fn unreadable(program: &str, said: String) -> Error {
    Error::Unreadable {
        what: format!("the report of {program}"),
        why: said,
    }
}
