//! Raw sockets can write TCP past every hook that looks at connections.

use mtls_daemon::kernel::{Hook, Outcome};
use mtls_tests::{Family, Pod, Result, ensure_eq, play, two_nodes};

use super::stage::Stage;

#[test]
fn kernel_refuses_raw_tcp() -> Result {
    play("kernel-raw", |scene| {
        let (a, b) = two_nodes(scene)?;
        let (pod, server) = (a.pod("pod")?, b.pod("server")?);
        let mut stage = Stage::attached(&a)?;
        let free = a.outsider("free")?;
        let _post = stage.enrol(&pod)?;
        // AF_INET and AF_INET6; TCP, any protocol, ICMP of each.
        for (family, protocol, refused) in [
            (2, 6, true),
            (2, 255, true),
            (2, 1, false),
            (10, 6, true),
            (10, 255, true),
            (10, 58, false),
        ] {
            let script = format!(
                "use Socket; socket(S, {family}, SOCK_RAW, {protocol}) or do {{ print $!{{EACCES}} ? 'EACCES' : $!; exit }}; print 'made'"
            );
            let said = perl(&pod, &script)?;
            let expected = if refused { "EACCES" } else { "made" };
            ensure_eq(said.as_str(), expected, &format!("{family}/{protocol}"))?;
            ensure_eq(
                perl(&free, &script)?.as_str(),
                "made",
                "outside of the cgroup",
            )?;
        }
        ensure_eq(
            stage.count(Hook::SockCreate, Outcome::RefusedRaw)?,
            4,
            "counted",
        )?;

        // An ICMP socket that writes its own IP header can write any protocol.
        let to = server.address(Family::V4);
        let from = pod.address(Family::V4);
        for (protocol, leaves) in [(1, true), (6, false)] {
            let script = format!(
                "use Socket; socket(S, AF_INET, SOCK_RAW, 1) or die $!; \
                 setsockopt(S, 0, 3, pack('i', 1)) or die $!; \
                 my $to = inet_aton('{to}'); \
                 my $ip = pack('CCnnnCCna4a4', 0x45, 0, 40, 0, 0, 64, {protocol}, 0, inet_aton('{from}'), $to); \
                 my $tcp = pack('nnNNCCnnn', 40000, 8080, 1, 0, 0x50, 2, 1024, 0, 0); \
                 send(S, $ip . $tcp, 0, pack_sockaddr_in(0, $to)) or do {{ print $!{{EPERM}} ? 'EPERM' : $!; exit }}; print 'sent'"
            );
            let said = perl(&pod, &script)?;
            let expected = if leaves { "sent" } else { "EPERM" };
            ensure_eq(said.as_str(), expected, &format!("protocol {protocol}"))?;
        }
        ensure_eq(
            stage.count(Hook::Egress, Outcome::RefusedRaw)?,
            1,
            "counted at the gate",
        )?;
        Ok(())
    })
}

fn perl(pod: &Pod, script: &str) -> Result<String> {
    pod.run("perl", ["-MErrno", "-e", script])?.success()
}
