//! What connect() is refused for, at once, and who is told.

use std::time::Duration;

use mtls_daemon::addr::OriginalDst;
use mtls_daemon::config::{Outside, Udp, Unknown};
use mtls_daemon::kernel::{Event, Hook, ListenerKind, Outcome};
use mtls_tests::script::{Connect, Step, UdpHow};
use mtls_tests::{Family, Result, ensure, ensure_eq, play, two_nodes};

use super::stage::{Said, Stage, chat, ensure_refused, meet};

/// A pod that nobody classified is refused and reported, once a second; it
/// works as soon as somebody says that it is not ours.
#[test]
fn kernel_refuses_the_unknown_and_reports_it() -> Result {
    play("kernel-unknown", |scene| {
        let (a, b) = two_nodes(scene)?;
        let (stray, server) = (a.pod("stray")?, b.pod("server")?);
        let mut stage = Stage::attached(&a)?;
        let mut news = stage.news()?;
        let (ask, answer) = chat();
        let _listening = server.serve(8080, answer)?;
        let cookie = stray.netns().cookie()?;

        for family in Family::BOTH {
            let to = server.at(family, 8080);
            ensure_refused(&stray.connect(to, ask.clone())?, "an unknown pod")?;
        }
        let (cgroup, pid) = news.wait("the report of a stray", |event| match event {
            Event::UnknownNetns {
                cookie: of,
                cgroup_id,
                pid,
            } if of == cookie => Some((cgroup_id, pid)),
            _ => None,
        })?;
        ensure_eq(cgroup, stray.cgroup().id()?, "the stray's cgroup")?;
        ensure(pid != 0, || "the stray's pid is missing")?;
        // Both families, but one report.
        ensure_eq(
            news.count_for(Duration::from_millis(100)),
            0,
            "reports more",
        )?;
        let refused = stage.count(Hook::Connect4, Outcome::RefusedUnknown)?;
        ensure_eq(refused, 1, "counted")?;

        // Loopback needs no classification.
        let mut own = stray.serve(9090, [Step::Hear("x".into())])?;
        let ended = stray.connect(Family::V4.loopback(9090), [Step::Say("x".into())])?;
        ensure(ended.is_well(), || format!("{ended:?}"))?;
        own.ended_well(1)?;

        // A pod that only serves is held back and reported, too.
        let shy = a.pod("shy")?;
        let cookie_of_shy = shy.netns().cookie()?;
        let (ask_shy, answer_shy) = chat();
        let _shy = shy.serve(8080, answer_shy)?;
        let mut asking = server.connect_as(Connect::to(shy.at(Family::V4, 8080), ask_shy))?;
        let (cgroup, pid) = news.wait("the report of a held pod", |event| match event {
            Event::UnknownNetns {
                cookie,
                cgroup_id,
                pid,
            } if cookie == cookie_of_shy => Some((cgroup_id, pid)),
            _ => None,
        })?;
        ensure_eq(cgroup, shy.cgroup().id()?, "the held pod's cgroup")?;
        ensure_eq(pid, 0, "whoever asked")?;
        // Its client asks again, and nothing is lost.
        stage.kernel().not_enrolled(cookie_of_shy).said()?;
        let ended = asking.ended()?;
        ensure(ended.is_well(), || format!("held back: {ended:?}"))?;

        stage.kernel().not_enrolled(cookie).said()?;
        for family in Family::BOTH {
            let ended = stray.connect(server.at(family, 8080), ask.clone())?;
            ensure(ended.is_well(), || format!("not ours: {ended:?}"))?;
        }
        // Forgotten, it is unknown again, unless the unknown may pass.
        stage.kernel().remove(cookie).said()?;
        let to = server.at(Family::V4, 8080);
        ensure_refused(&stray.connect(to, ask.clone())?, "a forgotten pod")?;
        stage
            .kernel()
            .set_policy(Unknown::Pass, Outside::Direct, Udp::Pass)
            .said()?;
        let ended = stray.connect(to, ask)?;
        ensure(ended.is_well(), || format!("it may pass: {ended:?}"))
    })
}

/// An enrolled pod without a daemon: every new connection is refused at once,
/// out of it and into it, and nothing reaches the other side.
#[test]
fn kernel_refuses_without_a_daemon() -> Result {
    play("kernel-no-daemon", |scene| {
        let (a, b) = two_nodes(scene)?;
        let (client, server) = (a.pod("client")?, b.pod("server")?);
        meet(&server, &client)?;
        let mut stage = Stage::attached(&a)?;
        let mut post = stage.enrol(&client)?;
        let (ask, answer) = chat();
        let mut listening = server.serve(8080, answer.clone())?;
        let _own = client.serve(15008, answer)?;

        post.close();
        for family in Family::BOTH {
            let ended = client.connect(server.at(family, 8080), ask.clone())?;
            ensure_refused(&ended, "out of it, without listeners")?;
            // The tunnel's port is never an application's.
            let ended = server.connect(client.at(family, 15008), ask.clone())?;
            ensure_refused(&ended, &format!("into its tunnel port, {family:?}"))?;
        }
        stage.stop();
        for family in Family::BOTH {
            let ended = client.connect(server.at(family, 8080), ask.clone())?;
            ensure_refused(&ended, "out of it, without a daemon")?;
            let ended = server.connect(client.at(family, 8080), ask.clone())?;
            ensure_refused(&ended, "into it")?;
        }
        ensure(
            listening.has_nothing_to_tell()?,
            || "something reached the other side",
        )
    })
}

/// A destination that the daemon could not reach is refused by the hook for a
/// while, and no other destination with it.
#[test]
fn kernel_refuses_again_what_was_refused() -> Result {
    play("kernel-recently", |scene| {
        let (a, b) = two_nodes(scene)?;
        let (client, server) = (a.pod("client")?, b.pod("server")?);
        let mut stage = Stage::attached(&a)?;
        let post = stage.enrol(&client)?;
        for family in Family::BOTH {
            let to = server.at(family, 8080);
            let handoff = stage.kernel().handoff();
            handoff
                .refuse(post.cookie, OriginalDst(to), Duration::from_secs(60))
                .map_err(|e| mtls_tests::Error::Unexpected(e.to_string()))?;
            ensure_refused(&client.connect(to, [])?, "the same again")?;
            let mut other = client.connect_as(Connect::to(
                server.at(family, 8081),
                [Step::Say("x".into())],
            ))?;
            let (accepted, _) = post.accept_captured(&mut stage, ListenerKind::CaptureV4)?;
            accepted.talk("x", "")?;
            ensure(other.ended()?.is_well(), || "another port")?;
            // It ends by itself.
            handoff
                .refuse(post.cookie, OriginalDst(to), Duration::ZERO)
                .map_err(|e| mtls_tests::Error::Unexpected(e.to_string()))?;
            let mut again = client.connect_as(Connect::to(to, [Step::Say("x".into())]))?;
            let (accepted, _) = post.accept_captured(&mut stage, ListenerKind::CaptureV4)?;
            accepted.talk("x", "")?;
            ensure(again.ended()?.is_well(), || "after the while")?;
        }
        ensure_eq(
            stage.count(Hook::Connect4, Outcome::RefusedRecently)?,
            1,
            "counted",
        )
    })
}

/// `outside = "refuse"`, and `udp = "refuse"`.
#[test]
fn kernel_refuses_what_the_node_forbids() -> Result {
    play("kernel-forbids", |scene| {
        let (a, b) = two_nodes(scene)?;
        let (client, server) = (a.pod("client")?, b.pod("server")?);
        let mut stage = Stage::attached(&a)?;
        let _post = stage.enrol(&client)?;
        let _echo = server.udp_echo(5353)?;
        let asks = |what: &str, may: bool| -> Result {
            for family in Family::BOTH {
                for how in [UdpHow::Connected, UdpHow::SendTo] {
                    let to = server.at(family, 5353);
                    let answer = client.udp_ask(to, how)?;
                    let expected = if may {
                        Ok(to)
                    } else {
                        Err("ECONNREFUSED".to_owned())
                    };
                    ensure_eq(answer, expected, &format!("{what}: {how:?} to {to}"))?;
                }
            }
            Ok(())
        };
        asks("by default", true)?;
        stage
            .kernel()
            .set_policy(Unknown::Refuse, Outside::Refuse, Udp::Refuse)
            .said()?;
        asks("refused", false)?;
        for family in Family::BOTH {
            // The node itself is in no mesh network once there are none.
            stage.kernel().set_networks(&[], &[]).said()?;
            let ended = client.connect(server.at(family, 8080), [])?;
            ensure_refused(&ended, "outside of the mesh")?;
        }
        ensure_eq(
            stage.count(Hook::Connect4, Outcome::RefusedOutside)?,
            1,
            "counted",
        )?;
        ensure_eq(
            stage.count(Hook::SendMsg6, Outcome::RefusedUdp)?,
            1,
            "datagrams counted",
        )
    })
}
