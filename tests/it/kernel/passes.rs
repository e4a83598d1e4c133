//! What is left alone: no daemon stands in the path of these connections.

use ipnet::IpNet;
use mtls_daemon::kernel::{Hook, Outcome};
use mtls_tests::{Family, Pod, Result, ensure, ensure_eq, play, two_nodes};

use super::stage::{Said, Stage, chat, mesh};

/// Whether a chat with the server comes about in plain text, in both families,
/// and for what reason it did, by the counters.
fn chats(stage: &mut Stage, client: &Pod, server: &Pod, why: Outcome) -> Result {
    let (ask, answer) = chat();
    let mut listening = server.serve(8080, answer)?;
    for (family, hook) in [(Family::V4, Hook::Connect4), (Family::V6, Hook::Connect6)] {
        let before = stage.count(hook, why)?;
        let ended = client.connect(server.at(family, 8080), ask.clone())?;
        ensure(ended.is_well(), || format!("{why:?}: {ended:?}"))?;
        let served = listening.ended_well(1)?;
        let peer = served
            .first()
            .and_then(|served| served.peer)
            .map(|peer| peer.ip());
        ensure_eq(peer, Some(client.address(family)), "the client's address")?;
        let counted = stage.count(hook, why)? - before;
        ensure_eq(counted, 1, &format!("{why:?} counted by {hook:?}"))?;
    }
    Ok(())
}

#[test]
fn kernel_passes_what_is_excluded_outside_or_the_daemons() -> Result {
    play("kernel-passes", |scene| {
        let (a, b) = two_nodes(scene)?;
        let (client, server) = (a.pod("client")?, b.pod("server")?);
        let mut stage = Stage::attached(&a)?;
        let whole: Vec<IpNet> = server.addresses().map(IpNet::from).to_vec();

        let post = stage.enrol_as(&client, |enrolment| {
            enrolment.excluded_outbound_ports = vec![8080];
        })?;
        chats(&mut stage, &client, &server, Outcome::PassedExcluded)?;

        // What is enrolled can be enrolled otherwise.
        stage.enrol_only(&client, &post.netns, |enrolment| {
            enrolment.excluded = whole.clone();
        })?;
        chats(&mut stage, &client, &server, Outcome::PassedExcluded)?;
        ensure_eq(stage.entries("PORTS")?, 0, "ports left")?;

        stage.enrol_only(&client, &post.netns, |_| {})?;
        stage.kernel().set_networks(&mesh(), &whole).said()?;
        chats(&mut stage, &client, &server, Outcome::PassedExcluded)?;

        stage.kernel().set_networks(&[], &[]).said()?;
        chats(&mut stage, &client, &server, Outcome::PassedOutside)?;

        // Below the attach point, but the daemon's: a child of it, say.
        stage.kernel().set_networks(&mesh(), &[]).said()?;
        let id = client.cgroup().id()?;
        stage.kernel().exempt_cgroup(id).said()?;
        chats(&mut stage, &client, &server, Outcome::PassedExempt)?;
        // Neither gate stops it.
        ensure_eq(
            stage.count(Hook::Egress, Outcome::PassedExempt)?,
            2,
            "the daemon's SYNs at the gate",
        )?;
        ensure_eq(
            stage.count(Hook::Egress, Outcome::Dropped)?,
            0,
            "dropped at the gate",
        )
    })
}

/// The daemon's cgroup is known from the kernel, not from a path.
#[test]
fn kernel_knows_the_daemons_own_cgroup() -> Result {
    play("kernel-own-cgroup", |scene| {
        let (a, _) = two_nodes(scene)?;
        let pod = a.pod("pod")?;
        let mut stage = Stage::attached(&a)?;
        // This process, which opened it, runs where /proc says.
        let path = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let path = path
            .lines()
            .find_map(|line| line.strip_prefix("0::/"))
            .unwrap_or_default();
        let folder = mtls_tests::cgroup::mount_point()?.join(path);
        use std::os::unix::fs::MetadataExt;
        let own = std::fs::metadata(folder)
            .map_err(|e| mtls_tests::Error::Unexpected(e.to_string()))?
            .ino();
        let netns = mtls_daemon::netns::Netns::open(pod.netns().path())
            .map_err(|e| mtls_tests::Error::Unexpected(e.to_string()))?;
        let shared = stage.enrol_only(&pod, &netns, |enrolment| {
            enrolment.cgroup_id = Some(own);
        });
        match shared {
            Err(error) if error.to_string().contains("the daemon's own cgroup") => Ok(()),
            other => Err(mtls_tests::Error::Unexpected(format!("{other:?}"))),
        }
    })
}
