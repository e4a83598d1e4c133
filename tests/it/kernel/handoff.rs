//! An original destination is kept just as long as somebody may ask for it.

use std::fs;

use mtls_common::maps::capacity;
use mtls_daemon::addr::OriginalDst;
use mtls_daemon::kernel::{Hook, ListenerKind, Outcome};
use mtls_tests::deadline::{Deadline, wait_for};
use mtls_tests::player::Client;
use mtls_tests::script::{Connect, SocketKind, Step};
use mtls_tests::{Family, Pod, Result, ensure, ensure_eq, play, two_nodes};

use super::stage::{Said, Stage};

/// An application that sends and closes before the daemon looks: what it sent
/// is not lost.
#[test]
fn kernel_keeps_the_destination_of_who_left_early() -> Result {
    play("kernel-left-early", |scene| {
        let (a, b) = two_nodes(scene)?;
        let (client, server) = (a.pod("client")?, b.pod("server")?);
        let mut stage = Stage::attached(&a)?;
        let post = stage.enrol(&client)?;
        for (family, kind) in [
            (Family::V4, ListenerKind::CaptureV4),
            (Family::V6, ListenerKind::CaptureV6),
        ] {
            let to = server.at(family, 8080);
            let only = SocketKind {
                v6_only: true,
                ..SocketKind::default()
            };
            let mut gone = client
                .connect_as(Connect::to(to, [Step::Say("in a hurry".into())]).socket(only))?;
            ensure(gone.ended()?.is_well(), || "it could not send")?;
            wait_until_nothing_is_left(&client, gone)?;
            let (accepted, original) = post.accept_captured(&mut stage, kind)?;
            ensure_eq(original, Some(OriginalDst(to)), "where it went")?;
            accepted.talk("in a hurry", "")?;
        }
        ensure_eq(stage.entries("ORIGINAL_DST")?, 0, "destinations left")
    })
}

/// The same, but the daemon dies before it looks: the next one finds nothing.
#[test]
fn kernel_drops_the_destinations_of_a_dead_daemon() -> Result {
    play("kernel-dead-daemon", |scene| {
        let (a, b) = two_nodes(scene)?;
        let (client, server) = (a.pod("client")?, b.pod("server")?);
        let mut stage = Stage::attached(&a)?;
        let mut post = stage.enrol(&client)?;
        let to = server.at(Family::V4, 8080);
        let mut gone = client.connect_as(Connect::to(to, [Step::Say("in a hurry".into())]))?;
        ensure(gone.ended()?.is_well(), || "it could not send")?;
        wait_until_nothing_is_left(&client, gone)?;
        ensure_eq(stage.entries("ORIGINAL_DST")?, 1, "destinations kept")?;
        post.close();
        stage.stop();
        stage.start()?;
        ensure_eq(stage.entries("ORIGINAL_DST")?, 0, "destinations left")
    })
}

/// An application that resets its connection leaves nothing to ask for.
#[test]
fn kernel_drops_the_destination_of_who_resets() -> Result {
    play("kernel-resets", |scene| {
        let (a, b) = two_nodes(scene)?;
        let (client, server) = (a.pod("client")?, b.pod("server")?);
        let mut stage = Stage::attached(&a)?;
        let post = stage.enrol(&client)?;
        let to = server.at(Family::V4, 8080);
        let reset = Connect::to(to, [Step::Hold, Step::Reset]).many(200, 200);
        let mut resetting = client.connect_as(reset)?;
        ensure_eq(resetting.held()?, 200, "connections held")?;
        ensure_eq(stage.entries("ORIGINAL_DST")?, 200, "destinations kept")?;
        resetting.go()?;
        resetting.ended_all()?;
        wait_for(
            Deadline::default(),
            || "the destinations to go",
            || Ok((stage.entries("ORIGINAL_DST")? == 0).then_some(())),
        )?;
        let (_, original) = post.accept_captured(&mut stage, ListenerKind::CaptureV4)?;
        ensure_eq(original, None, "where the first one went")
    })
}

/// Whoever dials the capture address itself was not captured.
#[test]
fn kernel_knows_nothing_of_who_dials_the_capture_address() -> Result {
    play("kernel-direct-dial", |scene| {
        let (a, _) = two_nodes(scene)?;
        let pod = a.pod("pod")?;
        let mut stage = Stage::attached(&a)?;
        let post = stage.enrol(&pod)?;
        let to = ([127, 64, 1, 2], mtls_common::addr::CAPTURE_PORT).into();
        let mut dialling = pod.connect_as(Connect::to(to, [Step::ExpectEnd]))?;
        let (accepted, original) = post.accept_captured(&mut stage, ListenerKind::CaptureV4)?;
        ensure_eq(original, None, "an original destination")?;
        // Closed with the linger option that its listener has: a reset.
        drop(accepted);
        ensure_eq(dialling.ended()?.error(), "ECONNRESET", "its end")
    })
}

/// A pod that opens connections without end, faster than anybody accepts them,
/// gets half of the room at most: others find theirs.
#[test]
fn kernel_keeps_room_for_others() -> Result {
    const HALF: u64 = capacity::ORIGINAL_DST as u64 / 2;
    play("kernel-greedy", |scene| {
        let (a, b) = two_nodes(scene)?;
        let (greedy, modest, server) = (a.pod("greedy")?, a.pod("modest")?, b.pod("server")?);
        let mut stage = Stage::attached(&a)?;
        let of_greedy = stage.enrol(&greedy)?;
        let post = stage.enrol(&modest)?;
        // Each process has a limit of descriptors, each destination of ports.
        let mut crowd = Vec::new();
        for port in 1..=3 {
            let many = Connect::to(server.at(Family::V4, port), [Step::Hold]);
            crowd.push(greedy.connect_as(many.many(12_000, 12_000))?);
        }
        wait_for(
            Deadline::default(),
            || "the greedy pod to be refused",
            || {
                let refused = stage.count(Hook::Connect4, Outcome::RefusedPending)?;
                Ok((refused > 1000).then_some(()))
            },
        )?;
        // Two CPUs may ask at the same time.
        let waiting = stage.entries("ORIGINAL_DST")?;
        ensure((HALF - 10..HALF + 10).contains(&waiting), || {
            format!("{waiting} wait")
        })?;

        let to = server.at(Family::V4, 8080);
        let mut running = modest.connect_as(Connect::to(to, [Step::Say("me too".into())]))?;
        let (accepted, original) = post.accept_captured(&mut stage, ListenerKind::CaptureV4)?;
        ensure_eq(original, Some(OriginalDst(to)), "where the modest one went")?;
        accepted.talk("me too", "")?;
        ensure(running.ended()?.is_well(), || "the modest one")?;

        for client in &mut crowd {
            client.process().kill()?;
        }
        // What is left sits in the queue of the daemon's listener, as of any
        // application that has gone early, or found no place in that any more.
        wait_for(
            Deadline::default(),
            || "what nobody can take to go",
            || Ok((stage.entries("ORIGINAL_DST")? < HALF / 2).then_some(())),
        )?;
        stage.kernel().unserve(of_greedy.cookie).said()?;
        ensure_eq(stage.entries("ORIGINAL_DST")?, 0, "destinations left")
    })
}

/// Waits until a client's process is gone, and its sockets with it: the kernel
/// turns one without an owner into a time-wait entry as soon as its FIN is
/// acknowledged, which may take 40 ms.
fn wait_until_nothing_is_left(pod: &Pod, mut client: Client) -> Result {
    client.process().wait(Deadline::default())?;
    wait_for(
        Deadline::default(),
        || "the client's FIN to be acknowledged",
        || {
            let tables = pod.netns().run(|| {
                ["tcp", "tcp6"].map(|table| {
                    fs::read_to_string(format!("/proc/thread-self/net/{table}")).unwrap_or_default()
                })
            })?;
            let acknowledged = !tables.iter().any(|table| has_fin_wait_1(table));
            Ok(acknowledged.then_some(()))
        },
    )
}

/// The fourth field is the state.
fn has_fin_wait_1(table: &str) -> bool {
    table
        .lines()
        .any(|line| line.split_whitespace().nth(3) == Some("04"))
}
