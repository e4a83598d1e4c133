//! What the applications say to one another, and what came of it.

use std::time::Duration;

use mtls_tests::deadline::{Deadline, Stopwatch, wait_for};
use mtls_tests::process::Output;
use mtls_tests::script::pattern;
use mtls_tests::{Doing, Error, Family, Pod, Result, ensure, ensure_eq};

use crate::stage::{FILE, FILE_BYTES, FILE_SEED, POSTGRES_PORT, REDIS_PORT, Stage, WEB_PORT};

/// Said by nginx, and looked for on the wire.
pub(crate) const GREETING: &str = "hello from web";

/// curl's exit codes (man curl).
const COULD_NOT_CONNECT: i32 = 7;

/// Requests to nginx, a new connection each.
pub(crate) fn requests(stage: &Stage, family: Family, count: usize) -> Result {
    let client = format!("{} ", stage.frontend.address(family));
    let logged = || {
        let log = stage.nginx.access_log();
        let of_client = log
            .lines()
            .filter(|line| line.starts_with(&client) && line.contains("/hello"));
        of_client.count()
    };
    let expected = logged() + count;
    // One first: if it fails, its error says more than a hundred of them.
    request(&stage.frontend, stage, family)?.success()?;
    let url = format!(
        "http://{}/hello?[2-{count}]",
        stage.web.at(family, WEB_PORT)
    );
    let quiet = [
        "-sS",
        "--no-progress-meter",
        "--fail",
        "-H",
        "Connection: close",
    ];
    let parallel = ["--parallel", "--parallel-max", "32", &url];
    let said = stage
        .frontend
        .run("curl", quiet.iter().chain(&parallel))?
        .success()?;
    let greetings = said.lines().filter(|line| *line == GREETING).count();
    ensure_eq(greetings + 1, count, "answers of nginx")?;
    // nginx writes a line when a request is over, which its client may see first.
    let what =
        || format!("{count} lines of nginx's log that name the client's own address, {client}");
    wait_for(Deadline::default(), what, || {
        Ok((logged() == expected).then_some(()))
    })
}

/// One request; `Ok` if nginx answered it.
pub(crate) fn request(from: &Pod, stage: &Stage, family: Family) -> Result<Output> {
    let url = format!("http://{}/hello", stage.web.at(family, WEB_PORT));
    from.run("curl", ["-sS", "--fail", "--max-time", "10", &url])
}

/// Expects that a connection is refused, at once; returns how long that took.
pub(crate) fn refused(from: &Pod, stage: &Stage, family: Family) -> Result<Duration> {
    let clock = Stopwatch::start();
    let output = request(from, stage, family)?;
    let took = clock.elapsed();
    ensure(output.stdout.is_empty(), || {
        format!("an answer came: {}", output.stdout)
    })?;
    ensure(output.status.code() == Some(COULD_NOT_CONNECT), || {
        format!(
            "expected a refused connection, found {}: {}",
            output.status, output.stderr
        )
    })?;
    Ok(took)
}

/// A large file, every byte of it counted; returns the bytes a second.
pub(crate) fn download(stage: &Stage, family: Family) -> Result<(u64, u64)> {
    let url = format!("http://{}/{FILE}", stage.web.at(family, WEB_PORT));
    let args = [
        "-sS",
        "--fail",
        "-o",
        "/dev/null",
        "-w",
        "%{size_download} %{speed_download}",
        &url,
    ];
    let said = stage.frontend.run("curl", args)?.success()?;
    let mut numbers = said.split(' ').map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(size)), Some(Ok(speed))) => Ok((size, speed)),
        _ => Err(Error::Unreadable {
            what: format!("curl's answer {said:?}"),
            why: "it is not two numbers".into(),
        }),
    }
}

/// The same file, every byte of it compared.
pub(crate) fn compare_file(stage: &Stage, family: Family) -> Result {
    let url = format!("http://{}/{FILE}", stage.web.at(family, WEB_PORT));
    let to = stage.a.scene().dir().join(format!("{FILE}-{family:?}"));
    let path = to.to_string_lossy();
    stage
        .frontend
        .run("curl", ["-sS", "--fail", "-o", &path, &url])?
        .success()?;
    let got = std::fs::read(&to).doing(|| format!("reading {path}"))?;
    let mut expected = vec![0; FILE_BYTES];
    pattern(FILE_SEED, 0, &mut expected);
    ensure(got == expected, || {
        format!("{url} came as {} bytes that are not the file", got.len())
    })
}

/// Fills a database over the network, and works on it; returns what pgbench measured.
pub(crate) fn pgbench(stage: &Stage, family: Family) -> Result<String> {
    let host = stage.store.address(family).to_string();
    let port = POSTGRES_PORT.to_string();
    let run = |words: &[&str]| {
        let server = ["-h", &host, "-p", &port, "-U", "postgres"];
        let words = server.iter().chain(words).chain(&["postgres"]);
        stage.jobs.run("pgbench", words)?.success()
    };
    run(&["-i", "-q", "-s", "1"])?;
    run(&["-C", "-c", "4", "-t", "25"])?;
    let said = run(&["-c", "8", "-j", "2", "-t", "250"])?;
    let field = |name: &str| {
        said.lines()
            .find_map(|line| Some(line.split_once(name)?.1.trim().to_owned()))
    };
    let (Some(done), Some(rate)) = (field("actually processed:"), field("tps = ")) else {
        return Err(Error::Unreadable {
            what: "pgbench's report".into(),
            why: said,
        });
    };
    ensure_eq(done.as_str(), "2000/2000", "transactions done")?;
    let rate = rate.split('.').next().unwrap_or_default();
    Ok(format!(
        "2100 transactions, {rate} a second on 8 connections"
    ))
}

/// Returns what redis-benchmark measured.
pub(crate) fn redis_benchmark(stage: &Stage, family: Family) -> Result<String> {
    let host = stage.store.address(family).to_string();
    let port = REDIS_PORT.to_string();
    let words = [
        "-h", &host, "-p", &port, "-c", "50", "-n", "20000", "-t", "set,get", "--csv",
    ];
    let said = stage.jobs.run("redis-benchmark", words)?.success()?;
    // "GET","12345.67",... a line, under a heading.
    let rate = |name: &str| {
        let line = said
            .lines()
            .find_map(|line| line.strip_prefix(&format!("\"{name}\",\"")))?;
        line.split('.').next().map(str::to_owned)
    };
    match (rate("SET"), rate("GET")) {
        (Some(set), Some(get)) => Ok(format!(
            "40000 requests on 50 connections: SET {set}, GET {get} a second"
        )),
        _ => Err(Error::Unreadable {
            what: "redis-benchmark's report".into(),
            why: said,
        }),
    }
}
