//! What arrives at an enrolled pod from outside: tunnels go to the daemon,
//! plain text is refused, whatever the port.

use std::time::Duration;

use ipnet::IpNet;
use mtls_daemon::kernel::{Event, Hook, ListenerKind, Outcome};
use mtls_tests::bpf::take_off;
use mtls_tests::deadline::{Deadline, wait_for};
use mtls_tests::script::Connect;
use mtls_tests::{Family, Result, ensure, ensure_eq, play, two_nodes};

use super::stage::{Stage, TUNNEL_PORT, chat, ensure_refused, meet};

#[test]
fn kernel_refuses_plain_text_from_outside() -> Result {
    play("kernel-plain-text", |scene| {
        let (a, b) = two_nodes(scene)?;
        let (server, outsider) = (a.pod("server")?, b.pod("outsider")?);
        meet(&outsider, &server)?;
        let mut stage = Stage::attached(&a)?;
        let post = stage.enrol_as(&server, |enrolment| {
            enrolment.excluded_inbound_ports = vec![9090];
        })?;
        let mut news = stage.news()?;
        let (ask, answer) = chat();
        let mut listening = server.serve(8080, answer.clone())?;
        for family in Family::BOTH {
            for port in [8080, 8081, 29184] {
                let ended = outsider.connect(server.at(family, port), ask.clone())?;
                ensure_refused(&ended, &format!("plain text to port {port}"))?;
            }
            let source = news.wait("the report of plain text", |event| match event {
                Event::PlaintextRefused {
                    cookie,
                    source,
                    port: 8080,
                } if cookie == post.cookie => Some(source),
                _ => None,
            })?;
            ensure_eq(source.ip(), outsider.address(family), "who it was")?;
            // Reports are at most ten a second.
            news.count_for(Duration::from_millis(150));
        }
        ensure(listening.has_nothing_to_tell()?, || "it got through")?;
        let refused = stage.count(Hook::SkLookup, Outcome::RefusedPlaintext)?;
        ensure_eq(refused, 6, "counted")?;

        // Tunnels, whether or not an application wants that port.
        let mut own = server.serve(TUNNEL_PORT, answer.clone())?;
        for (family, kind) in [
            (Family::V4, ListenerKind::TunnelV4),
            (Family::V6, ListenerKind::TunnelV6),
        ] {
            let to = server.at(family, TUNNEL_PORT);
            let mut tunnel = outsider.connect_as(Connect::to(to, ask.clone()))?;
            let accepted = post.accept(kind)?;
            ensure_eq(accepted.local, to, "where the tunnel was dialled")?;
            let from = accepted.peer.ip();
            ensure_eq(from, outsider.address(family), "where it comes from")?;
            accepted.talk("ask", "answer")?;
            ensure(tunnel.ended()?.is_well(), || "the tunnel")?;
        }
        ensure(
            own.has_nothing_to_tell()?,
            || "a tunnel went to the application",
        )?;

        // An excluded port is the application's.
        let mut excluded = server.serve(9090, answer.clone())?;
        for family in Family::BOTH {
            let ended = outsider.connect(server.at(family, 9090), ask.clone())?;
            ensure(ended.is_well(), || format!("an excluded port: {ended:?}"))?;
            excluded.ended_well(1)?;
        }
        // So is what an excluded network sends.
        stage.enrol_only(&server, &post.netns, |enrolment| {
            enrolment.excluded = outsider.addresses().map(IpNet::from).to_vec();
        })?;
        for family in Family::BOTH {
            let ended = outsider.connect(server.at(family, 8080), ask.clone())?;
            ensure(ended.is_well(), || format!("an excluded client: {ended:?}"))?;
            listening.ended_well(1)?;
        }
        Ok(())
    })
}

/// Where the other hooks are missing, the gates hold both directions.
#[test]
fn kernel_gates_hold_what_the_hooks_miss() -> Result {
    play("kernel-gates", |scene| {
        let (a, b) = two_nodes(scene)?;
        let (pod, other) = (a.pod("pod")?, b.pod("other")?);
        let mut stage = Stage::attached(&a)?;
        let post = stage.enrol(&pod)?;
        let mut news = stage.news()?;
        let (ask, answer) = chat();
        let mut inside = pod.serve(8080, answer.clone())?;
        let mut outside = other.serve(8080, answer)?;
        for pin in [
            format!("netns/{}", post.cookie),
            "links/connect4".into(),
            "links/connect6".into(),
        ] {
            take_off(&stage.pins().join(pin))?;
        }
        for (nth, family) in (1..).zip(Family::BOTH) {
            let mut inward = other.connect_as(Connect::to(pod.at(family, 8080), ask.clone()))?;
            let mut outward = pod.connect_as(Connect::to(other.at(family, 8080), ask.clone()))?;
            for hook in [Hook::Ingress, Hook::Egress] {
                wait_for(
                    Deadline::default(),
                    || format!("a drop by the {hook:?} gate"),
                    || Ok((stage.count(hook, Outcome::Dropped)? >= nth).then_some(())),
                )?;
            }
            // Held: neither refused nor through.
            for held in [&mut inward, &mut outward] {
                let soon = Deadline::after(Duration::from_millis(200));
                let ended = held.ended_within(soon);
                ensure(ended.is_err(), || format!("not held: {ended:?}"))?;
            }
        }
        news.wait_for_log("the packet gate")?;
        ensure(inside.has_nothing_to_tell()?, || "the way in is open")?;
        ensure(outside.has_nothing_to_tell()?, || "the way out is open")?;
        let attached = stage.kernel().attached();
        let missing: Vec<_> = attached
            .iter()
            .filter(|(_, attached)| !attached)
            .map(|(hook, _)| *hook)
            .collect();
        ensure_eq(
            missing,
            vec![Hook::Connect4, Hook::Connect6],
            "hooks known to be missing",
        )
    })
}
