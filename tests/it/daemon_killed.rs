//! kill -9 of either daemon in the middle of transfers, by hand or by the kernel
//! when there is no memory: cut streams end in a
//! reset and never in a bare end, new connections are refused at once, not one
//! byte is in clear, and traffic is back within two seconds of the restart.

use std::net::SocketAddr;
use std::time::Duration;

use mtls_tests::deadline::{PATIENCE, Stopwatch};
use mtls_tests::mesh::Daemon;
use mtls_tests::script::{Connect, Step};
use mtls_tests::{Family, Node, Pair, Pod, Result, ensure, ensure_eq, play};

#[test]
fn clients_daemon_killed() -> Result {
    play("clients-daemon-killed", |scene| {
        let mut pair = Pair::start(scene)?;
        let node = pair.a.clone();
        for family in Family::BOTH {
            cut_and_come_back(&mut pair, &node, family, |daemon, _, _| daemon.kill())?;
        }
        pair.ensure_private().map(drop)
    })
}

#[test]
fn servers_daemon_killed() -> Result {
    play("servers-daemon-killed", |scene| {
        let mut pair = Pair::start(scene)?;
        let node = pair.b.clone();
        for family in Family::BOTH {
            cut_and_come_back(&mut pair, &node, family, |daemon, _, _| daemon.kill())?;
        }
        pair.ensure_private().map(drop)
    })
}

/// The kernel kills it for its memory, at whatever it is doing then; the helper
/// that shares its limit may be the first.
#[test]
fn out_of_memory() -> Result {
    play("out-of-memory", |scene| {
        let mut pair = Pair::start(scene)?;
        let node = pair.a.clone();
        for family in Family::BOTH {
            cut_and_come_back(&mut pair, &node, family, |daemon, client, crowd| {
                let told = |daemon: &Daemon| daemon.log().matches(HELPER_KILLED).count();
                let before = told(daemon);
                daemon.limit_memory(Some(MORE))?;
                let task = Connect::to(crowd, [Step::Hold]).many(3000, 1000);
                let _crowd = client.connect_as(task)?;
                let signal = daemon.ended_by(PATIENCE)?;
                let was_killed = match signal {
                    None => told(daemon) > before,
                    Some(signal) => signal == libc::SIGKILL,
                };
                ensure(was_killed, || format!("ended by {signal:?}"))?;
                daemon.limit_memory(None)
            })?;
        }
        pair.ensure_private().map(drop)
    })
}

/// A daemon's word when the helper was the first.
const HELPER_KILLED: &str = "the helper that enters network namespaces has ended";

/// Not enough for the crowd.
const MORE: u64 = 1 << 20;

fn cut_and_come_back(
    pair: &mut Pair,
    killed: &Node,
    family: Family,
    end: impl FnOnce(&mut Daemon, &Pod, SocketAddr) -> Result,
) -> Result {
    // A download whose length nobody announced, and an upload.
    let _endless = pair.server.serve(
        8081,
        [
            Step::Send {
                bytes: 8 << 20,
                seed: 1,
            },
            Step::SendForEver { seed: 4 },
        ],
    )?;
    let download = [
        Step::Receive {
            bytes: 8 << 20,
            seed: 1,
        },
        Step::Hold,
        Step::ReceiveToEnd { seed: 4 },
    ];
    let task = Connect::to(pair.server.at(family, 8081), download);
    let mut downloading = pair.client.connect_as(task)?;
    downloading.held()?;
    let mut takes = pair.server.serve(
        8082,
        [
            Step::Receive {
                bytes: 8 << 20,
                seed: 2,
            },
            Step::Say("more".into()),
            Step::ReceiveToEnd { seed: 3 },
        ],
    )?;
    let upload = [
        Step::Send {
            bytes: 8 << 20,
            seed: 2,
        },
        Step::Hear("more".into()),
        Step::Hold,
        Step::SendForEver { seed: 3 },
    ];
    let task = Connect::to(pair.server.at(family, 8082), upload);
    let mut uploading = pair.client.connect_as(task)?;
    uploading.held()?;
    let mut echo = pair.server.serve(8083, [Step::Echo])?;

    downloading.go()?;
    uploading.go()?;
    let _crowd = pair.server.serve(8084, [Step::Hold])?;
    end(
        pair.mesh.daemon(killed)?,
        &pair.client,
        pair.server.at(family, 8084),
    )?;

    let cut = downloading.ended()?;
    ensure_eq(cut.error(), "ECONNRESET", "the download ends in")?;
    ensure_eq(cut.corrupt_at, None, "corrupt bytes of the download")?;
    let cut = uploading.ended()?;
    ensure(matches!(cut.error(), "ECONNRESET" | "EPIPE"), || {
        format!("the upload's client: {cut:?}")
    })?;
    let cut = takes.ended()?;
    ensure_eq(
        cut.error(),
        "ECONNRESET",
        "the upload ends at the server in",
    )?;
    ensure_eq(cut.corrupt_at, None, "corrupt bytes of the upload")?;

    if killed.name() == pair.a.name() {
        let watch = Stopwatch::start();
        let to = pair.server.at(family, 8083);
        let refused = pair.client.connect(to, [Step::ExpectEnd])?;
        ensure(refused.failed_to_connect(), || format!("{refused:?}"))?;
        ensure_eq(refused.error(), "ECONNREFUSED", "a new connection")?;
        let took = Duration::from_micros(refused.connect_micros);
        ensure(took < Duration::from_millis(100), || {
            format!("the refusal took {took:?} of {:?}", watch.elapsed())
        })?;
    }

    let watch = Stopwatch::start();
    pair.mesh.daemon(killed)?.start()?;
    let hello = [Step::Say("hi".into()), Step::Hear("hi".into())];
    loop {
        let ended = pair
            .client
            .connect(pair.server.at(family, 8083), hello.clone())?;
        if ended.is_well() {
            break;
        }
        ensure(
            matches!(ended.error(), "ECONNREFUSED" | "ECONNRESET"),
            || format!("while the daemon comes back: {ended:?}"),
        )?;
        ensure(watch.elapsed() < Duration::from_secs(2), || {
            format!("no traffic two seconds after the restart: {ended:?}")
        })?;
    }
    echo.ended_well(1).map(drop)
}
