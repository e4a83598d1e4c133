//! A workload with CAP_NET_RAW writes frames itself, or finds a way to make
//! sockets in another cgroup: neither is seen by the hooks of its own. The
//! gate at the node's end of its veth judges who sends, and nothing of it gets
//! on the wire, with a daemon or without.

use std::net::SocketAddr;

use mtls_tests::forge::{self, Segment};
use mtls_tests::mesh::Metrics;
use mtls_tests::script::Step;
use mtls_tests::{AddressChecks, Family, Pair, Plan, Pod, Result, ensure, ensure_eq, play};

/// As the harness marks what must not be read on the wire.
const SECRET: &[u8] = b"mtls-tests-plaintext-forged";

#[test]
fn frames_of_a_packet_socket() -> Result {
    play("veth-frames", |scene| {
        let mut pair = Pair::start(scene)?;
        wait_until_armed(&mut pair)?;
        let mut server = pair.server.serve(8080, [Step::Echo])?;
        let sent = frames(&pair)?.len() as u64;
        for checks in AddressChecks::BOTH {
            pair.check_addresses(checks)?;
            let dropped = |metrics: &Metrics| {
                let labels = [("hook", "veth"), ("outcome", "dropped")];
                metrics.count("mtls_hook_events_total", &labels)
            };
            let before = dropped(&pair.clients_daemon()?.metrics()?);
            inject_all(&pair)?;
            pair.clients_daemon()?
                .wait_for_metrics("frames at the gate", |metrics| {
                    dropped(metrics) >= before + sent
                })?;
        }

        let hello = [Step::Say("hi".into()), Step::Hear("hi".into())];
        for family in Family::BOTH {
            let ended = pair
                .client
                .connect(pair.server.at(family, 8080), hello.clone())?;
            ensure(ended.is_well(), || format!("through the daemon: {ended:?}"))?;
        }
        server.ended_well(2)?;

        // Nobody is there, and the gate is.
        pair.clients_daemon()?.kill()?;
        inject_all(&pair)?;
        pair.clients_daemon()?.start()?;
        inject_all(&pair)?;
        for family in Family::BOTH {
            let ended = pair
                .client
                .connect(pair.server.at(family, 8080), hello.clone())?;
            ensure(ended.is_well(), || format!("after a restart: {ended:?}"))?;
        }
        pair.ensure_private().map(drop)
    })
}

#[test]
fn sockets_of_another_cgroup() -> Result {
    play("veth-cgroups", |scene| {
        let mut pair = Pair::start(scene)?;
        wait_until_armed(&mut pair)?;
        let mut server = pair.server.serve(8080, [Step::Echo])?;
        let elsewhere = scene.cgroup_outside("elsewhere")?;
        for family in Family::BOTH {
            let to = pair.server.address(family).to_string();
            let said = pair
                .client
                .spawn("perl")?
                .cgroup(&elsewhere)
                .args(["-MErrno", "-e", CONNECT])
                .args([to.as_str(), "8080", "mtls-tests-plaintext-elsewhere"])
                .output()?
                .success()?;
            ensure_eq(said.as_str(), "silence", "a socket of another cgroup")?;
        }
        ensure(server.has_nothing_to_tell()?, || "the server was reached")?;
        pair.ensure_nothing_in_clear().map(drop)
    })
}

/// What it costs to switch it off, and what `detach` does.
#[test]
fn without_the_veth_gate() -> Result {
    play("veth-off", |scene| {
        let mut pair = Pair::start_as(scene, |plan: Plan, _, _| {
            plan.set("kernel", "veth_gate", "\"off\"")
        })?;
        pair.clients_daemon()?
            .wait_for_metrics("no gate", |metrics| {
                metrics.value("mtls_veth_gates", &[("state", "off")]) == Some(1.0)
            })?;
        inject_all(&pair)?;
        let heard = pair.mesh.wire()?.contains(&[SECRET])?;
        ensure_eq(heard, vec![true], "forged frames on the wire")
    })
}

#[test]
fn detach_takes_the_veth_gate_away() -> Result {
    play("veth-detach", |scene| {
        let mut pair = Pair::start(scene)?;
        wait_until_armed(&mut pair)?;
        let daemon = pair.clients_daemon()?;
        daemon.kill()?;
        daemon.detach()?;
        inject_all(&pair)?;
        let heard = pair.mesh.wire()?.contains(&[SECRET])?;
        ensure_eq(heard, vec![true], "forged frames on the wire")
    })
}

/// Connects and says a word; what came of it.
const CONNECT: &str = r#"
    use Socket qw(:all);
    my ($to, $port, $word) = @ARGV;
    $SIG{ALRM} = sub { print 'silence'; exit };
    alarm 3;
    my $v6 = $to =~ /:/;
    socket(my $s, $v6 ? AF_INET6 : AF_INET, SOCK_STREAM, 0) or die "socket: $!";
    my $ip = inet_pton($v6 ? AF_INET6 : AF_INET, $to);
    connect($s, $v6 ? pack_sockaddr_in6($port, $ip) : pack_sockaddr_in($port, $ip)) or do { print "$!"; exit };
    syswrite($s, $word);
    print 'connected';
"#;

fn wait_until_armed(pair: &mut Pair) -> Result {
    for daemon in pair.mesh.daemons() {
        daemon.wait_for_metrics("a gate at the veth", |metrics| {
            metrics.value("mtls_veth_gates", &[("state", "armed")]) == Some(1.0)
        })?;
    }
    Ok(())
}

fn inject_all(pair: &Pair) -> Result {
    for frame in frames(pair)? {
        pair.client.inject(&frame, 2)?;
    }
    Ok(())
}

/// What nobody but the daemon may say, in several disguises.
fn frames(pair: &Pair) -> Result<Vec<Vec<u8>>> {
    let from = pair.client.mac()?;
    let to = forge::mac(pair.a.netns(), "pods")?;
    let at = |pod: &Pod, family, port| -> SocketAddr { pod.at(family, port) };
    let mut frames = Vec::new();
    for family in Family::BOTH {
        let target = at(&pair.server, family, 8080);
        for source in [
            at(&pair.client, family, 40_000),
            // As if it answered a tunnel, or were the daemon.
            at(&pair.client, family, 15008),
            at(&pair.server, family, 40_000),
        ] {
            let mut syn = Segment::syn(source, target);
            frames.push(syn.frame(from, to));
            // TCP fast open.
            syn.payload = SECRET.to_vec();
            frames.push(syn.frame(from, to));
            let mut data = Segment::data(source, target, SECRET);
            frames.push(data.frame(from, to));
            // Where the kernel itself sends segments without bytes.
            for flags in [forge::RST, forge::SYN | forge::ACK] {
                data.flags = flags;
                frames.push(data.frame(from, to));
            }
        }
        let towards_tunnel = at(&pair.server, family, 15008);
        let source = at(&pair.client, family, 40_000);
        frames.push(Segment::data(source, towards_tunnel, SECRET).frame(from, to));
    }
    // A fragment of IPv4 that hides its ports, or that there are any.
    let plain = Segment::data(
        at(&pair.client, Family::V4, 40_000),
        at(&pair.server, Family::V4, 8080),
        SECRET,
    );
    for fragment in [[0x20, 0], [0, 1]] {
        let mut frame = plain.frame(from, to);
        frame[20..22].copy_from_slice(&fragment);
        frames.push(forge::with_ipv4_checksum(frame));
    }
    Ok(frames)
}
