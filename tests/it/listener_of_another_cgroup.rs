//! Somebody makes a listener in a workload's network namespace and hands it to
//! an application, as socket activation does. Made outside of the cgroup that
//! enforcement hangs on it is seen by no hook, and the application would take
//! the daemon for a client on its own machine: not a byte comes to it. Made
//! below it, by whomever, it is served, and shown its true client.

use mtls_tests::cgroup::Cgroup;
use mtls_tests::deadline::Deadline;
use mtls_tests::script::Step;
use mtls_tests::talker::Talker;
use mtls_tests::{Family, Pair, Result, ensure, ensure_eq, play};

/// Listens at a port, and tells of each connection who its client is and how
/// many bytes came.
const LISTEN: &str = r#"
    use Socket qw(:all);
    $| = 1;
    socket(my $s, AF_INET6, SOCK_STREAM, 0) or die "socket: $!";
    bind($s, pack_sockaddr_in6($ARGV[0], inet_pton(AF_INET6, '::'))) or die "bind: $!";
    listen($s, 16) or die "listen: $!";
    print "ready\n";
    while (my $peer = accept(my $c, $s)) {
        my (undef, $ip) = unpack_sockaddr_in6($peer);
        my $n = sysread($c, my $heard, 64) // 0;
        syswrite($c, $heard) if $n;
        print inet_ntop(AF_INET6, $ip), " $n\n";
        close $c;
    }
"#;

#[test]
fn listener_of_another_cgroup() -> Result {
    play("listener-elsewhere", |scene| {
        let mut pair = Pair::start(scene)?;
        let hello = [Step::Say("hi".into()), Step::Hear("hi".into())];
        let ask = |pair: &Pair, family, port| {
            let to = pair.server.at(family, port);
            pair.client.connect(to, hello.clone())
        };

        let cgroup_below = pair.b.cgroup().child("activator")?;
        let cgroup_outside = scene.cgroup_outside("activator")?;
        let mut below = listen(&pair, &cgroup_below, 8080)?;
        let mut outside = listen(&pair, &cgroup_outside, 8081)?;
        for family in Family::BOTH {
            let ended = ask(&pair, family, 8080)?;
            ensure(ended.is_well(), || format!("below: {ended:?}"))?;
            let client = match pair.client.address(family) {
                std::net::IpAddr::V4(v4) => v4.to_ipv6_mapped(),
                std::net::IpAddr::V6(v6) => v6,
            };
            let told = below.line(Deadline::default())?;
            ensure_eq(told, Some(format!("{client} 2")), "below")?;

            let ended = ask(&pair, family, 8081)?;
            let is_refused = matches!(ended.error(), "ECONNRESET" | "ECONNREFUSED");
            ensure(is_refused, || format!("outside: {ended:?}"))?;
            let told = outside.line(Deadline::default())?.unwrap_or_default();
            ensure(told.ends_with(" 0"), || format!("outside: {told}"))?;
        }
        pair.servers_daemon()?
            .wait_for_metrics("refused connections", |metrics| {
                let labels = [("direction", "inbound"), ("reason", "dial_failed")];
                metrics.count("mtls_connections_refused_total", &labels) == 2
            })?;
        pair.ensure_private().map(drop)
    })
}

fn listen(pair: &Pair, cgroup: &Cgroup, port: u16) -> Result<Talker> {
    let mut listener = pair
        .server
        .spawn("perl")?
        .cgroup(cgroup)
        .args(["-e", LISTEN, &port.to_string()])
        .start_talking()?;
    let said = listener.line(Deadline::default())?;
    ensure_eq(said.as_deref(), Some("ready"), "a listener")?;
    Ok(listener)
}
