//! The process that reads what strangers send cannot enter a network
//! namespace, nor look into another process, in any of its threads; the helper
//! that can has nothing else. Both are refused the system calls that they never
//! need. Without the helper the daemon ends.

use std::fs;
use std::time::Duration;

use mtls_tests::deadline::Deadline;
use mtls_tests::script::Step;
use mtls_tests::{Doing, Error, Family, Pair, Result, ensure, ensure_eq, play};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const SYS_PTRACE: u64 = 1 << 19;
const SYS_ADMIN: u64 = 1 << 21;
const NET_ADMIN: u64 = 1 << 12;
const NET_RAW: u64 = 1 << 13;
/// As /proc has it.
const FILTERED: &str = "2";

#[test]
fn own_rights() -> Result {
    play("own-rights", |scene| {
        let mut pair = Pair::start(scene)?;
        let _server = pair.server.serve(8080, [Step::Echo])?;
        let node = pair.b.clone();
        let daemon = pair.mesh.daemon(&node)?.process()?.pid();
        let helper = only_child(daemon)?;

        let threads = fs::read_dir(format!("/proc/{daemon}/task")).doing(|| "reading threads")?;
        for thread in threads {
            let thread = thread.doing(|| "reading threads")?.path();
            let status = fs::read_to_string(thread.join("status")).doing(|| "reading a thread")?;
            for set in ["CapPrm", "CapEff", "CapInh", "CapAmb"] {
                let held = bits(&status, set)?;
                ensure_eq(
                    held & (SYS_ADMIN | SYS_PTRACE),
                    0,
                    "more than a worker needs",
                )?;
            }
            ensure_eq(field(&status, "NoNewPrivs")?, "1", "no program gives more")?;
            ensure_eq(field(&status, "Seccomp")?, FILTERED, "calls of a thread")?;
        }
        let status = fs::read_to_string(format!("/proc/{helper}/status"))
            .doing(|| "reading the helper's rights")?;
        let most = SYS_ADMIN | SYS_PTRACE | NET_ADMIN | NET_RAW;
        ensure_eq(
            bits(&status, "CapPrm")? & !most,
            0,
            "more than the helper needs",
        )?;
        ensure_eq(field(&status, "Seccomp")?, FILTERED, "calls of the helper")?;

        for family in Family::BOTH {
            ensure_eq(greet(&pair, family)?, String::new(), "traffic ends in")?;
        }
        kill(Pid::from_raw(helper.cast_signed()), Signal::SIGKILL)
            .map_err(|error| Error::Unexpected(format!("killing the helper: {error}")))?;
        let daemon = pair.mesh.daemon(&node)?;
        let ended = daemon
            .process()?
            .wait(Deadline::after(Duration::from_secs(20)))?;
        ensure(!ended.success(), || {
            "a daemon without helper ends as if well".to_owned()
        })?;
        ensure(
            daemon
                .log()
                .contains("helper that enters network namespaces has ended"),
            || "the daemon's end is not explained".to_owned(),
        )?;
        for family in Family::BOTH {
            let error = greet(&pair, family)?;
            ensure(matches!(&*error, "ECONNREFUSED" | "ECONNRESET"), || {
                format!("without a daemon a connection ends in {error:?}")
            })?;
        }
        let daemon = pair.mesh.daemon(&node)?;
        daemon.kill()?;
        daemon.start()?;
        for family in Family::BOTH {
            ensure_eq(greet(&pair, family)?, String::new(), "traffic ends in")?;
        }
        pair.ensure_private().map(drop)
    })
}

/// How a connection with a word there and back ended.
fn greet(pair: &Pair, family: Family) -> Result<String> {
    let hello = [Step::Say("hi".into()), Step::Hear("hi".into())];
    let ended = pair.client.connect(pair.server.at(family, 8080), hello)?;
    Ok(ended.error().to_owned())
}

fn only_child(daemon: u32) -> Result<u32> {
    let path = format!("/proc/{daemon}/task/{daemon}/children");
    let children = fs::read_to_string(path).doing(|| "reading the daemon's children")?;
    let mut pids = children.split_whitespace().map(str::parse);
    match (pids.next(), pids.next()) {
        (Some(Ok(only)), None) => Ok(only),
        _ => Err(Error::Unexpected(format!(
            "the daemon's children: {children:?}"
        ))),
    }
}

fn field<'a>(status: &'a str, name: &str) -> Result<&'a str> {
    let mut lines = status.lines().filter_map(|line| line.split_once(":\t"));
    let found = lines.find(|(field, _)| *field == name);
    let value = found.map(|(_, value)| value.trim());
    value.ok_or_else(|| Error::Unexpected(format!("no {name} in a status")))
}

fn bits(status: &str, set: &str) -> Result<u64> {
    let hex = field(status, set)?;
    u64::from_str_radix(hex, 16).map_err(|error| Error::Unexpected(format!("{set}: {error}")))
}
