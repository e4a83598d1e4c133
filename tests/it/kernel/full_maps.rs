//! A map that is full refuses: what cannot be known about a network namespace
//! makes it an unknown one, and what does not fit changes nothing for those
//! that are there.

use mtls_common::maps::capacity;
use mtls_daemon::kernel::{Hook, KernelError, Outcome};
use mtls_tests::{Error, Family, Result, ensure, ensure_eq, play, two_nodes};

use super::stage::{Said, Stage, chat, ensure_refused, mesh};

#[test]
fn kernel_refuses_when_a_map_is_full() -> Result {
    play("kernel-full-maps", |scene| {
        let (a, b) = two_nodes(scene)?;
        let (known, late) = (a.pod("known")?, a.pod("late")?);
        let server = b.outsider("server")?;
        let mut stage = Stage::attached(&a)?;
        let post = stage.enrol(&known)?;
        let (ask, answer) = chat();
        let mut listening = server.serve(8080, answer)?;

        // Network namespaces that never were take all places.
        let first = 1 << 40;
        let filled = (first..first + capacity::NETNS as u64)
            .find_map(|cookie| stage.kernel().not_enrolled(cookie).err());
        ensure_full(filled, "NETNS")?;
        let enrolled = stage.enrol(&late);
        ensure(enrolled.is_err(), || "enrolled without a place")?;
        for family in Family::BOTH {
            let ended = late.connect(server.at(family, 8080), ask.clone())?;
            ensure_refused(&ended, "a pod that found no place")?;
        }
        let unknown = stage.count(Hook::Connect4, Outcome::RefusedUnknown)?;
        ensure(unknown >= 1, || "not counted")?;
        ensure(listening.has_nothing_to_tell()?, || "reached in clear")?;

        // More exclusions than there is room for: nothing is excluded halfway.
        let many: Vec<_> = (0xb000_0000..)
            .take(capacity::NETWORKS + 1)
            .map(std::net::Ipv4Addr::from_bits)
            .map(|ip| ipnet::IpNet::from(std::net::IpAddr::from(ip)))
            .collect();
        ensure_full(
            stage.kernel().set_networks(&mesh(), &many).err(),
            "NETWORKS",
        )?;
        stage.kernel().set_networks(&mesh(), &[]).said()?;

        // Who was there before is captured as before.
        let to = server.at(Family::V4, 8080);
        let mut running = known.connect_as(mtls_tests::script::Connect::to(to, ask))?;
        let kind = super::stage::capture_kind(Family::V4, false);
        let (accepted, original) = post.accept_captured(&mut stage, kind)?;
        ensure_eq(original.map(|dst| dst.0), Some(to), "where it went")?;
        accepted.talk("ask", "answer")?;
        ensure(running.ended()?.is_well(), || "who was there before")
    })
}

fn ensure_full(error: Option<KernelError>, map: &str) -> Result {
    match error {
        Some(error) if error.to_string().contains(map) => Ok(()),
        other => Err(Error::Unexpected(format!("filling {map}: {other:?}"))),
    }
}
