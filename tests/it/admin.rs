//! The doors for operators are no doors for workloads: the admin socket
//! answers root alone, the metrics listen where no pod reaches them, and what
//! peers say about themselves never becomes a label.

use mtls_tests::script::Step;
use mtls_tests::{Family, Pair, Result, ensure, ensure_eq, play};

/// Asks a socket for the status, as another user, without our own program.
const ASK: &str = r#"
    use Socket; use POSIX ();
    my ($path, $user) = @ARGV;
    if ($user) { POSIX::setgid($user); POSIX::setuid($user) or die }
    socket(my $s, AF_UNIX, SOCK_STREAM, 0) or die;
    connect($s, pack_sockaddr_un($path)) or do { print $!{EACCES} ? 'EACCES' : $!; exit };
    syswrite($s, "GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n");
    sysread($s, my $said, 64);
    print substr($said, 9, 3);
"#;

#[test]
fn admin_socket_from_a_pod() -> Result {
    play("admin-from-a-pod", |scene| {
        let mut pair = Pair::start(scene)?;
        let daemon = pair.clients_daemon()?;
        let socket = daemon.admin_socket();
        ensure_eq(
            pair.client.perl(ASK, [socket.as_str(), "0"])?.as_str(),
            "200",
            "root",
        )?;
        let shut_out = pair.client.perl(ASK, [socket.as_str(), "1337"])?;
        ensure_eq(shut_out.as_str(), "EACCES", "a user, by the folder's mode")?;
        // Somebody has opened the folder: who asks is still asked who it is.
        let open = "chmod 755 \"$(dirname \"$1\")\"; chmod 666 \"$1\"";
        pair.client
            .run("sh", ["-c", open, "sh", &socket])?
            .success()?;
        let refused = pair.client.perl(ASK, [socket.as_str(), "1337"])?;
        let refused = refused.trim();
        ensure(refused == "403" || refused == "EACCES", || {
            format!("a user: {refused}")
        })?;

        // The metrics' port, at every address that a pod can think of.
        let node = [Family::V4, Family::V6].map(|family| pair.a.address(family));
        for ip in node.into_iter().chain(pair.client.addresses()) {
            let ended = pair
                .client
                .connect(std::net::SocketAddr::new(ip, 15020), [Step::ExpectEnd])?;
            ensure(!ended.is_well(), || format!("metrics at {ip}: {ended:?}"))?;
        }
        for family in Family::BOTH {
            let to = family.loopback(15020);
            let ended = pair.client.connect(to, [Step::ExpectEnd])?;
            ensure_eq(ended.error(), "ECONNREFUSED", "at its own loopback")?;
        }
        pair.ensure_nothing_in_clear().map(drop)
    })
}

#[test]
fn label_cardinality() -> Result {
    play("labels", |scene| {
        let mut pair = Pair::start(scene)?;
        let stranger = pair.a.outsider("stranger")?;
        let _server = pair.server.serve(8080, [Step::Echo])?;
        let hello = [Step::Say("hi".into()), Step::Hear("hi".into())];
        // Both have counted something of each kind before.
        let to = pair.server.at(Family::V4, 8080);
        pair.client.connect(to, hello)?;
        let handshake = r#"
            openssl s_client -quiet -tls1_3 -alpn h2 -servername "$1.example" \
                -connect "$2" -cert "$3" -key "$4" -CAfile "$5" </dev/null
        "#;
        let at = pair.server.at(Family::V4, 15008).to_string();
        let attempt = |pair: &Pair, name: &str| -> Result {
            let identity = format!("spiffe://example.org/{name}");
            let leaf = pair.mesh.ca().leaf(name, &identity)?;
            let peer = stranger
                .spawn("sh")?
                .args(["-c", handshake, "sh", name, &at]);
            peer.args([&leaf.certificate, &leaf.key, &leaf.bundle])
                .output()
                .map(drop)
        };
        attempt(&pair, "somebody")?;
        let reason = [("reason", "identity_not_at_address")];
        let refused = |pair: &mut Pair, times: u64| {
            pair.servers_daemon()?
                .wait_for_metrics("refused identities", |metrics| {
                    metrics.count("mtls_connections_refused_total", &reason) >= times
                })
        };
        refused(&mut pair, 1)?;
        let (_, before) = pair.servers_daemon()?.get("/metrics")?;
        for n in 0..8 {
            attempt(&pair, &format!("unheard-of-{n}"))?;
        }
        refused(&mut pair, 9)?;
        let (_, after) = pair.servers_daemon()?.get("/metrics")?;
        ensure_eq(names(&after), names(&before), "the series")?;
        ensure(!after.contains("unheard-of"), || "a peer's word is a label")
    })
}

/// All series, without their values.
fn names(metrics: &str) -> Vec<&str> {
    let series = metrics.lines().filter(|line| !line.starts_with('#'));
    series
        .filter_map(|line| Some(line.rsplit_once(' ')?.0))
        .collect()
}
