//! A workload that owns its network namespace pretends to be somebody whom
//! other meshes leave alone: by a mark, by a user, by a route or a device of
//! its own, by a namespace that it has just made. It gets what everybody gets,
//! a tunnel or a refusal, also with the checks of addresses switched off.

use std::fs;

use mtls_tests::deadline::{Deadline, wait_for};
use mtls_tests::error::Doing;
use mtls_tests::script::Step;
use mtls_tests::{AddressChecks, Error, Family, Pair, Result, ensure, ensure_eq, play};

/// Opens a connection with a trick, says a word, and tells what came of it:
/// `well`, `silence`, or the name of the error.
const PLAY: &str = r#"
    use Socket qw(:all); use POSIX ();
    my ($to, $port, $trick, $value) = @ARGV;
    my $told = sub { print shift, "\n"; exit };
    my $failed = sub { for (keys %!) { $told->($_) if $!{$_} } $told->('?') };
    $SIG{ALRM} = sub { $told->('silence') };
    alarm 10;
    my $v6 = $to =~ /:/;
    if ($trick eq 'user') { POSIX::setgid($value); POSIX::setuid($value) or die "setuid: $!" }
    socket(my $s, $v6 ? AF_INET6 : AF_INET, SOCK_STREAM, 0) or die "socket: $!";
    my $set = sub { setsockopt($s, shift, shift, shift) or die "$trick: $!" };
    $set->(SOL_SOCKET, 36, pack('I', $value)) if $trick eq 'mark';
    $set->(SOL_SOCKET, 25, "$value\0") if $trick eq 'device';
    $set->(SOL_SOCKET, 12, pack('I', $value)) if $trick eq 'priority';
    $set->(IPPROTO_TCP, 31, "$value\0") if $trick eq 'ulp';
    my $ip = inet_pton($v6 ? AF_INET6 : AF_INET, $to);
    connect($s, $v6 ? pack_sockaddr_in6($port, $ip) : pack_sockaddr_in($port, $ip)) or $failed->();
    my $word = 'mtls-tests-plaintext-spoofed';
    defined syswrite($s, $word) or $failed->();
    my $heard = '';
    while (length $heard < length $word) {
        my $n = sysread($s, $heard, 64, length $heard);
        defined $n or $failed->();
        $n or $told->('end');
    }
    $told->($heard eq $word ? 'well' : 'other words');
"#;

/// Marks of Istio, Cilium, kube-proxy and Calico; users of Istio, Linkerd,
/// Consul and Kuma; what people try first.
const TRICKS: [(&str, &str); 13] = [
    ("mark", "1337"),
    ("mark", "1"),
    ("mark", "0x200"),
    ("mark", "0xe00"),
    ("mark", "0x4000"),
    ("mark", "0xffffffff"),
    ("user", "1337"),
    ("user", "2102"),
    ("user", "5995"),
    ("user", "5678"),
    ("priority", "7"),
    ("device", "eth0"),
    ("device", "lo"),
];

#[test]
fn spoofed_marks_users_and_routes() -> Result {
    play("spoofing", |scene| {
        let mut pair = Pair::start(scene)?;
        let mut server = pair.server.serve(8080, [Step::Echo])?;
        let mut told = 0;
        for checks in AddressChecks::BOTH {
            pair.check_addresses(checks)?;
            if checks == AddressChecks::Off {
                // Routes that mark-based proxies need, and one for all addresses.
                pair.client.netns().ip("rule add fwmark 1337 lookup 133\n\
                     route add local default dev lo table 133\n\
                     rule add fwmark 1 lookup 134\n\
                     route add default via 10.0.1.1 dev eth0 table 134\n\
                     route add 127.64.0.0/10 via 10.0.1.1 dev eth0\n")?;
            }
            for family in Family::BOTH {
                for (trick, value) in TRICKS {
                    let value = number(value);
                    let said = attempt(&pair, family, 8080, trick, &value)?;
                    let what = format!("{family:?}, {trick} {value}, checks {checks:?}: {said}");
                    if said == "well" {
                        let seen = server.ended_well(1)?[0].peer.map(|peer| peer.ip());
                        ensure_eq(seen, Some(pair.client.address(family)), &what)?;
                        told += 1;
                    } else {
                        // Its own routes may lead nowhere.
                        ensure(checks == AddressChecks::Off, || what.clone())?;
                    }
                    // Nobody listens there, and no trick changes that.
                    let said = attempt(&pair, family, 9, trick, &value)?;
                    ensure(said != "well" && said != "end", || what)?;
                }
            }
        }
        ensure(told >= 2 * TRICKS.len(), || {
            format!("{told} reached the server")
        })?;

        // A namespace of its own, with the pod's interface and address in it,
        // in the pod's cgroup.
        let moved = from_a_new_namespace(&pair)?;
        ensure_eq(
            moved.as_str(),
            "ECONNREFUSED",
            "from a namespace of its own",
        )?;
        ensure(
            server.has_nothing_to_tell()?,
            || "reached from a namespace of its own",
        )?;
        pair.ensure_private().map(drop)
    })
}

/// A process of the pod leaves its namespace, takes the interface along, and
/// tries again.
fn from_a_new_namespace(pair: &Pair) -> Result<String> {
    let dir = pair.a.scene().dir();
    let [left, go] = ["left", "go"].map(|name| dir.join(name).to_string_lossy().into_owned());
    let leave = r#"
        touch "$1"; until [ -e "$2" ]; do sleep 0.02; done
        ip link set lo up; ip link set eth0 up
        ip addr add "$3/24" dev eth0; ip route add default via "$4"
        exec perl -MErrno -e "$5" "$6" 8080 mark 1
    "#;
    let own = pair.client.address(Family::V4).to_string();
    let gateway = pair.a.address(Family::V4).to_string();
    let to = pair.server.address(Family::V4).to_string();
    let left_behind = pair
        .client
        .spawn("unshare")?
        .args(["-n", "sh", "-euc", leave, "sh"]);
    let mut gone = left_behind
        .args([left.as_str(), &go, &own, &gateway, PLAY, &to])
        .start_talking()?;
    wait_for(
        Deadline::default(),
        || "a process to leave its namespace",
        || Ok(fs::exists(&left).unwrap_or(false).then_some(())),
    )?;
    let pid = gone.process().pid();
    pair.client
        .netns()
        .ip(&format!("link set eth0 netns {pid}\n"))?;
    fs::write(&go, "").doing(|| "letting it go on")?;
    Ok(gone.line(Deadline::default())?.unwrap_or_default())
}

fn number(value: &str) -> String {
    match value
        .strip_prefix("0x")
        .map(|hex| u32::from_str_radix(hex, 16))
    {
        Some(Ok(number)) => number.to_string(),
        _ => value.to_owned(),
    }
}

fn attempt(pair: &Pair, family: Family, port: u16, trick: &str, value: &str) -> Result<String> {
    let to = pair.server.address(family).to_string();
    let said = pair
        .client
        .perl(PLAY, [&to, &port.to_string(), trick, value])?;
    match said.trim() {
        "" => Err(Error::Unexpected(format!(
            "{trick} {value}: nothing was told"
        ))),
        said => Ok(said.to_owned()),
    }
}
