//! A workload takes the tunnel's port before the daemon comes, and then tries
//! to share the daemon's own listeners by SO_REUSEPORT. Tunnels and captured
//! connections go to the daemon all the same, and the workload hears of none.

use std::net::IpAddr;
use std::time::Duration;

use mtls_tests::deadline::Deadline;
use mtls_tests::mesh::Position;
use mtls_tests::script::Step;
use mtls_tests::talker::Talker;
use mtls_tests::{Error, Family, Mesh, Pair, Plan, Pod, Result, ensure, play, two_nodes};

const TUNNEL_PORT: u16 = 15008;

/// Listens at pairs of address and port, shared with whoever wants to share;
/// tells what came of each, then of every connection that comes.
const SQUAT: &str = r#"
    use Socket qw(:all);
    $| = 1;
    my @listeners;
    while (my ($ip, $port) = splice(@ARGV, 0, 2)) {
        my $v6 = $ip =~ /:/;
        socket(my $s, $v6 ? AF_INET6 : AF_INET, SOCK_STREAM, 0) or die "socket: $!";
        setsockopt($s, SOL_SOCKET, $_, pack('I', 1)) or die "sharing: $!" for 2, 15;
        setsockopt($s, 41, 26, pack('I', 1)) or die "IPV6_V6ONLY: $!" if $v6;
        my $packed = inet_pton($v6 ? AF_INET6 : AF_INET, $ip);
        my $at = $v6 ? pack_sockaddr_in6($port, $packed) : pack_sockaddr_in($port, $packed);
        my $taken = bind($s, $at) && listen($s, 16);
        print $taken ? 'taken' : (grep { $!{$_} } keys %!)[0], "\n";
        push @listeners, $s if $taken;
    }
    my $all = '';
    vec($all, fileno($_), 1) = 1 for @listeners;
    while (1) {
        select(my $some = $all, undef, undef, undef);
        for (@listeners) {
            next unless vec($some, fileno($_), 1);
            accept(my $connection, $_);
            print "heard\n";
        }
    }
"#;

#[test]
fn daemons_ports_taken() -> Result {
    play("ports-taken", |scene| {
        let (a, b) = two_nodes(scene)?;
        let (client, server) = (a.pod("client")?, b.pod("server")?);
        let mut squatters = Vec::new();
        for pod in [&client, &server] {
            let everywhere = Family::BOTH.map(|family| (family.any(0).ip(), TUNNEL_PORT));
            let (squatter, said) = squat(pod, &everywhere)?;
            let taken = said.iter().all(|word| word == "taken");
            ensure(taken, || format!("before the daemon: {said:?}"))?;
            squatters.push(squatter);
        }
        let mut mesh = Mesh::prepare(Plan::of([&client, &server]), Position::default())?;
        mesh.start_all()?;
        for pod in [&client, &server] {
            let daemons = daemons_listeners(pod)?;
            ensure(daemons.len() >= 6, || {
                format!("the daemon listens at {daemons:?}")
            })?;
            let (squatter, said) = squat(pod, &daemons)?;
            let refused = said.iter().all(|word| word == "EADDRINUSE");
            ensure(refused, || format!("at the daemon's listeners: {said:?}"))?;
            squatters.push(squatter);
        }

        let mut server_app = server.serve(8080, [Step::Echo])?;
        let mut pair = Pair {
            mesh,
            client,
            server,
            a,
            b,
        };
        let hello = [Step::Say("hi".into()), Step::Hear("hi".into())];
        for family in Family::BOTH {
            let to = pair.server.at(family, 8080);
            let ended = pair.client.connect(to, hello.clone())?;
            ensure(ended.is_well(), || format!("{ended:?}"))?;
        }
        server_app.ended_well(2)?;
        for squatter in &mut squatters {
            match squatter.line(Deadline::after(Duration::ZERO)) {
                Err(Error::TimedOut { .. }) => {}
                other => return Err(Error::Unexpected(format!("a squatter: {other:?}"))),
            }
        }
        pair.ensure_private().map(drop)
    })
}

fn squat(pod: &Pod, at: &[(IpAddr, u16)]) -> Result<(Talker, Vec<String>)> {
    let words = at
        .iter()
        .flat_map(|(ip, port)| [ip.to_string(), port.to_string()]);
    let perl = pod.spawn("perl")?.args(["-MErrno", "-e", SQUAT]);
    let mut squatter = perl.args(words).start_talking()?;
    let mut said = Vec::new();
    for _ in at {
        said.extend(squatter.line(Deadline::default())?);
    }
    Ok((squatter, said))
}

/// In the pod's namespace, on its loopback.
fn daemons_listeners(pod: &Pod) -> Result<Vec<(IpAddr, u16)>> {
    let sockets = pod.netns().sockets()?.into_iter();
    let listeners = sockets.filter(|it| it.listens && it.port != TUNNEL_PORT);
    Ok(listeners.map(|it| (it.local, it.port)).collect())
}
