//! Daemons come and go; enforcement stays, until somebody removes it.

use std::fmt::Display;
use std::fs;
use std::os::fd::AsFd;
use std::path::Path;

use aya::maps::{Array, Map, MapData};
use mtls_common::maps::{LAYOUT, Node};
use mtls_daemon::addr::OriginalDst;
use mtls_daemon::kernel::{
    self, Event, FoundAt, Hook, Kernel, KernelError, ListenerKind, Outcome, Standing,
};
use mtls_daemon::netns::Netns;
use mtls_tests::deadline::{Deadline, wait_for};
use mtls_tests::error::Doing;
use mtls_tests::script::{Connect, Step};
use mtls_tests::{Error, Family, Pod, Result, ensure, ensure_eq, play, two_nodes};

use super::stage::{Said, Stage, chat, ensure_refused};

/// Daemons that start over and over, replacing every program, under thousands
/// of connects out of a pod and into it: not one gets past.
#[test]
fn kernel_is_adopted_without_a_gap() -> Result {
    play("kernel-adopted", |scene| {
        let (a, b) = two_nodes(scene)?;
        let (pod, far) = (a.pod("pod")?, b.pod("far")?);
        let mut stage = Stage::attached(&a)?;
        let mut post = stage.enrol(&pod)?;
        let mut outside = far.serve(8080, [Step::ExpectEnd])?;
        let mut inside = pod.serve(8080, [Step::ExpectEnd])?;
        let first = stage.kernel().instance().said()?;

        let both = |to: &Pod| Family::BOTH.map(|family| to.at(family, 8080));
        // They speak: Linux tells nobody about a connection whose last ACK meets
        // a listener that is being closed on another CPU. Its client learns that
        // it is alone when it sends, and a silent one never does.
        let load = |to: &Pod| {
            let speak = [Step::Say("ask".into()), Step::ExpectEnd];
            Connect::to(to.at(Family::V4, 8080), speak)
                .to_each(&both(to))
                .many(10_000, 8)
        };
        let out = pod.connect_as(load(&far))?;
        let inward = far.connect_as(load(&pod))?;
        let mut restarts = 0;
        while judged(&mut stage)? < 15_000 {
            post.close();
            stage.stop();
            stage.start()?;
            let slots = stage.enrol_only(&pod, &post.netns, |_| {})?;
            post.listen(&mut stage, &slots)?;
            // More replacements than restarts: a gap would be short.
            for _ in 0..20 {
                stage.kernel().attach().said()?;
                stage.enrol_only(&pod, &post.netns, |_| {})?;
            }
            restarts += 1;
        }
        post.close();
        for load in [out, inward] {
            let ended = load.ended_all()?;
            ensure_eq(ended.len(), 10_000, "connections that ended")?;
            let through = ended.iter().filter(|ended| ended.is_well()).count();
            ensure_eq(through, 0, "connections that got through")?;
        }
        ensure(restarts >= 3, || format!("only {restarts} restarts"))?;
        // Nor was there a gap behind which the gates stood.
        for hook in [Hook::Ingress, Hook::Egress] {
            let caught = stage.count(hook, Outcome::Dropped)?;
            ensure_eq(caught, 0, &format!("caught by the {hook:?} gate"))?;
        }
        for server in [&mut outside, &mut inside] {
            ensure(server.has_nothing_to_tell()?, || "something got through")?;
        }
        // The counters are of the pins, not of a daemon.
        let instance = stage.kernel().instance().said()?;
        ensure_eq(instance, first + restarts, "instances")
    })
}

/// Connections out of and into pods that the hooks have judged.
fn judged(stage: &mut Stage) -> Result<u64> {
    let mut sum = stage.count(Hook::SkLookup, Outcome::RefusedPlaintext)?;
    for hook in [Hook::Connect4, Hook::Connect6] {
        for outcome in [Outcome::Captured, Outcome::RefusedNoListener] {
            sum += stage.count(hook, outcome)?;
        }
    }
    Ok(sum)
}

/// What a daemon knew its successor knows, and a listener is all it takes.
#[test]
fn kernel_remembers_across_daemons() -> Result {
    play("kernel-remembers", |scene| {
        let (a, b) = two_nodes(scene)?;
        let (client, others, server) = (a.pod("client")?, a.pod("others")?, b.pod("server")?);
        let mut stage = Stage::attached(&a)?;
        let mut post = stage.enrol(&client)?;
        let cookie = others.netns().cookie()?;
        stage.kernel().not_enrolled(cookie).said()?;
        post.close();
        stage.stop();

        let (ask, answer) = chat();
        let _listening = server.serve(8080, answer)?;
        let to = server.at(Family::V4, 8080);
        let ended = others.connect(to, ask.clone())?;
        ensure(ended.is_well(), || format!("not ours: {ended:?}"))?;
        ensure_refused(&client.connect(to, ask.clone())?, "without a daemon")?;

        stage.start()?;
        let known = stage.kernel().known();
        let found_at = FoundAt::BESIDE;
        for expected in [
            (cookie, Standing::NotEnrolled),
            (post.cookie, Standing::Enrolled(found_at)),
        ] {
            ensure(known.contains(&expected), || {
                format!("{expected:?} is not among {known:?}")
            })?;
        }
        let slots = stage.enrol_only(&client, &post.netns, |_| {})?;
        post.listen(&mut stage, &slots)?;
        let mut running = client.connect_as(Connect::to(to, ask))?;
        let (accepted, original) = post.accept_captured(&mut stage, ListenerKind::CaptureV4)?;
        ensure_eq(original, Some(OriginalDst(to)), "after a restart")?;
        accepted.talk("ask", "answer")?;
        ensure(running.ended()?.is_well(), || "after a restart")
    })
}

#[test]
fn kernel_refuses_a_second_daemon_and_foreign_pins() -> Result {
    play("kernel-second", |scene| {
        let (a, _) = two_nodes(scene)?;
        let mut stage = Stage::attached(&a)?;
        match Kernel::open(stage.options()) {
            Err(KernelError::Held { .. }) => {}
            other => return Err(Error::Unexpected(format!("a second daemon: {other:?}"))),
        }
        stage.stop();
        // The maps of an older version, by what it says of itself.
        let maps = stage.pins().join("maps");
        for (layout, is_known) in [(LAYOUT - 1, false), (LAYOUT, true)] {
            set_layout(&maps, layout)?;
            match (Kernel::open(stage.options()), is_known) {
                (Err(KernelError::Layout { .. }), false) | (Ok(_), true) => {}
                (other, _) => return Err(Error::Unexpected(format!("{layout}: {other:?}"))),
            }
        }
        // One of them is of another form.
        let (from, to) = (maps.join("PORTS"), maps.join("ADDRESSES"));
        fs::rename(from, to).doing(|| "exchanging maps")?;
        match Kernel::open(stage.options()) {
            Err(KernelError::Layout { .. }) => Ok(()),
            other => Err(Error::Unexpected(format!("foreign maps: {other:?}"))),
        }
    })
}

fn set_layout(maps: &Path, layout: u32) -> Result {
    let wrong = |error: &dyn Display| Error::Unexpected(format!("map NODE: {error}"));
    let map = MapData::from_pin(maps.join("NODE")).map_err(|e| wrong(&e))?;
    let mut map: Array<_, Node> = Array::try_from(Map::Array(map)).map_err(|e| wrong(&e))?;
    let mut node = map.get(&0, 0).map_err(|e| wrong(&e))?;
    node.layout = layout;
    map.set(0, node, 0).map_err(|e| wrong(&e))
}

/// `detach` opens, and a running daemon does not close again by itself; removing
/// the pins opens where none runs.
#[test]
fn kernel_is_detached_for_good() -> Result {
    play("kernel-detached", |scene| {
        let (a, b) = two_nodes(scene)?;
        let (client, server) = (a.pod("client")?, b.pod("server")?);
        let mut stage = Stage::attached(&a)?;
        let (ask, answer) = chat();
        let _listening = server.serve(8080, answer)?;
        let to = server.at(Family::V4, 8080);
        let passes = |what: &str| -> Result {
            let ended = client.connect(to, ask.clone())?;
            ensure(ended.is_well(), || format!("{what}: {ended:?}"))
        };

        let mut post = stage.enrol(&client)?;
        post.close();
        ensure_refused(&client.connect(to, ask.clone())?, "attached")?;
        let detached = kernel::detach(stage.pins()).said()?;
        ensure(detached.daemon_running, || format!("{detached:?}"))?;
        // The cgroup's hooks and one pod's.
        ensure_eq(detached.links, 13, "links removed")?;
        passes("detached")?;
        let attached = stage.kernel().attached();
        ensure(attached.iter().all(|(_, attached)| !attached), || {
            format!("{attached:?}")
        })?;
        let repaired = stage.kernel().repair().said()?;
        ensure_eq(repaired, vec![], "hooks that were attached again")?;
        let restored = stage.kernel().keep_pins().said()?;
        ensure_eq(restored, 0, "pins that were put back")?;
        let again = stage.kernel().attach();
        ensure(matches!(again, Err(KernelError::Removed { .. })), || {
            format!("{again:?}")
        })?;
        passes("not repaired")?;

        // A new daemon starts over.
        stage.stop();
        stage.start()?;
        stage.kernel().attach().said()?;
        let mut post = stage.enrol(&client)?;
        post.close();
        ensure_refused(&client.connect(to, ask.clone())?, "attached again")?;
        stage.stop();
        fs::remove_dir_all(stage.pins()).doing(|| "removing the pins by hand")?;
        // The kernel lets go of what was pinned a moment after the pin.
        wait_for(
            Deadline::default(),
            || "connections to pass",
            || {
                let ended = client.connect(to, ask.clone())?;
                Ok(ended.is_well().then_some(()))
            },
        )
    })
}

/// The attached cgroup is removed and made again.
#[test]
fn kernel_follows_a_cgroup_that_is_made_again() -> Result {
    play("kernel-remade", |scene| {
        let (a, b) = two_nodes(scene)?;
        let server = b.pod("server")?;
        let mut stage = Stage::attached(&a)?;
        let mut news = stage.news()?;
        let (ask, answer) = chat();
        let _listening = server.serve(8080, answer)?;
        a.cgroup().remake()?;
        news.wait("news of the attach point", |event| {
            (event == Event::AttachPoint).then_some(())
        })?;
        wait_for(
            Deadline::default(),
            || "all hooks to be repaired",
            || {
                stage.kernel().repair().said()?;
                let attached = stage.kernel().attached();
                Ok(attached.iter().all(|(_, attached)| *attached).then_some(()))
            },
        )?;
        // They are where they should be: a stray is refused.
        let pods = a.cgroup().path().join("pods");
        fs::create_dir(&pods).doing(|| "making the pods' cgroup again")?;
        let stray = a.pod_at("stray", 77)?;
        let ended = stray.connect(server.at(Family::V4, 8080), ask)?;
        ensure_refused(&ended, "a stray in the new cgroup")
    })
}

/// A pod's network namespace goes: nothing is left of it.
#[test]
fn kernel_forgets_the_dead() -> Result {
    play("kernel-forgets", |scene| {
        let (a, _) = two_nodes(scene)?;
        let pod = a.pod("pod")?;
        let mut stage = Stage::attached(&a)?;
        let mut post = stage.enrol_as(&pod, |enrolment| {
            enrolment.excluded_outbound_ports = vec![1];
            enrolment.excluded = vec!["192.0.2.0/24".parse().expect("a constant network")];
        })?;
        let cookie = post.cookie;
        let pin = stage.pins().join(format!("netns/{cookie}"));
        ensure(pin.exists(), || "its link is not pinned")?;
        let networks = stage.entries("NETWORKS")?;

        // Nobody told the daemon, which dies at the same time.
        post.close();
        drop(post);
        stage.stop();
        drop(pod);
        wait_for(
            Deadline::default(),
            || "the daemon's successor to notice",
            || {
                stage.start()?;
                let known = stage.kernel().known();
                let known = known.iter().any(|(known, _)| *known == cookie);
                if known {
                    stage.stop();
                }
                Ok((!known).then_some(()))
            },
        )?;
        ensure(!pin.exists(), || "its link is still pinned")?;
        ensure_eq(stage.entries("ADDRESSES")?, 0, "addresses left")?;
        ensure_eq(stage.entries("PORTS")?, 0, "ports left")?;
        ensure_eq(stage.entries("NETWORKS")?, networks - 1, "networks left")
    })
}

/// Workloads and listeners have places of their own.
#[test]
fn kernel_keeps_workloads_apart() -> Result {
    play("kernel-apart", |scene| {
        let (a, b) = two_nodes(scene)?;
        let server = b.pod("server")?;
        let mut stage = Stage::attached(&a)?;
        let mut posts = Vec::new();
        for name in ["one", "two", "three"] {
            let pod = a.pod(name)?;
            let netns = Netns::open(pod.netns().path()).doing(|| "opening a pod's namespace")?;
            let slots = stage.enrol_only(&pod, &netns, |enrolment| enrolment.spread = 3)?;
            let listeners: Vec<_> = (0..3)
                .map(|_| netns.loopback_listener(mtls_daemon::netns::Family::V4))
                .collect::<std::io::Result<_>>()
                .doing(|| "listening")?;
            for (nth, listener) in (0..3).zip(&listeners).rev() {
                stage
                    .kernel()
                    .put_listener(&slots, ListenerKind::CaptureV4, nth, listener.as_fd())
                    .said()?;
            }
            posts.push((pod, netns, listeners));
        }
        for (pod, netns, listeners) in &posts {
            let to = server.at(Family::V4, 8080);
            let mut running = pod.connect_as(Connect::to(to, [Step::Hold]).many(120, 120))?;
            ensure_eq(running.held()?, 120, "connections")?;
            for (nth, listener) in listeners.iter().enumerate() {
                let mut share = 0;
                while let Ok((socket, peer)) = listener.accept() {
                    share += 1;
                    let (Some(peer), Some(local)) = (
                        peer.as_socket(),
                        socket.local_addr().ok().and_then(|local| local.as_socket()),
                    ) else {
                        return Err(Error::Unexpected("an address of no family".into()));
                    };
                    let original = stage
                        .kernel()
                        .handoff()
                        .take_original_dst(netns.cookie().0, peer, local)
                        .doing(|| "taking an original destination")?;
                    ensure_eq(original, Some(OriginalDst(to)), "where it went")?;
                }
                ensure((20..80).contains(&share), || {
                    format!("listener {nth} got {share} of 120")
                })?;
            }
        }
        Ok(())
    })
}
