//! Somebody wants to come in as the kubelet does: in clear, to a port that it
//! probes. It is known by its cgroup and by each connection that it opens, so
//! whoever has its address, and even the ports of its last probe, is refused,
//! also with the kernel's checks of addresses off.

use mtls_tests::cgroup::Cgroup;
use mtls_tests::cluster::{ControlPlane, Kubelets, Kubepod, StandIn, namespace, plan};
use mtls_tests::deadline::{Deadline, wait_for};
use mtls_tests::mesh::Metrics;
use mtls_tests::player::{Client, Server};
use mtls_tests::script::{Connect, Step};
use mtls_tests::{
    AddressChecks, Error, Family, Mesh, Node, Pod, Result, Scene, ensure, ensure_eq, play,
    two_nodes,
};
use serde_json::json;

use crate::kubernetes::{account, pod, wait_for_mode};

const PORT: u16 = 8080;
const PROBED: u16 = 8081;

/// Says a word and hears it; tells its own port, or what went wrong.
const PROBE: &str = r#"
    use Socket qw(:all);
    my ($to, $port) = @ARGV;
    my $failed = sub { for (keys %!) { if ($!{$_}) { print $_; exit } } };
    my $v6 = $to =~ /:/;
    my $ip = inet_pton($v6 ? AF_INET6 : AF_INET, $to);
    socket(my $s, $v6 ? AF_INET6 : AF_INET, SOCK_STREAM, 0) or die "socket: $!";
    connect($s, $v6 ? pack_sockaddr_in6($port, $ip) : pack_sockaddr_in($port, $ip)) or $failed->();
    syswrite($s, 'hi') or $failed->();
    sysread($s, my $heard, 2) or $failed->();
    my $own = getsockname($s);
    print +($v6 ? unpack_sockaddr_in6($own) : unpack_sockaddr_in($own))[0];
"#;

#[test]
fn forged_probes() -> Result {
    play("forged-probes", |scene| {
        let mut cast = Cast::start(scene)?;
        for checks in AddressChecks::BOTH {
            let pods = [&cast.server.pod, &cast.impostor];
            let pods = pods.map(Pod::netns).into_iter();
            checks.set(pods.chain([cast.b.netns(), cast.a.netns()]))?;

            // The kubelet at other ports, and others at its own.
            for family in Family::BOTH {
                let refused = cast.ask(&cast.kubelet, family, PORT)?;
                ensure_eq(refused.as_str(), "ECONNREFUSED", "the kubelet elsewhere")?;
                let refused = cast.ask(&cast.somebody, family, PROBED)?;
                ensure_eq(refused.as_str(), "ECONNREFUSED", "from its address")?;
            }

            // Who looks at the pod finds what to configure.
            cast.wait_until_told()?;

            let before = cast.probes()?;
            let ports = Family::BOTH.map(|family| cast.probe(family));
            ensure(cast.probes()? >= before + 2, || "no probe was counted")?;
            cast.listening.ended_well(2)?;

            // A pod that took the node's address, and made the server's
            // neighbour table believe it: the answers come to it.
            cast.give_way()?;
            let mut begun = Vec::new();
            for (family, port) in Family::BOTH.into_iter().zip(ports) {
                // The very connection that ended a moment ago.
                begun.push(cast.pretend(family, port?, PROBED)?);
                begun.push(cast.pretend(family, 0, PROBED)?);
                begun.push(cast.pretend(family, 0, PORT)?);
            }
            for mut attempt in begun {
                let ended = attempt.ended()?;
                ensure(ended.failed_to_connect(), || {
                    format!("{checks:?}: {ended:?}")
                })?;
                ensure_eq(ended.error(), "ECONNREFUSED", "an impostor's connection")?;
            }
            cast.come_back()?;
            ensure(
                cast.listening.has_nothing_to_tell()?,
                || "an impostor was heard",
            )?;
        }
        cast.mesh.wire()?.ensure_nothing_in_clear()
    })
}

struct Cast {
    mesh: Mesh,
    listening: Server,
    _other: Server,
    server: Kubepod,
    impostor: Pod,
    /// The kubelet's, and somebody else's on the node.
    kubelet: Cgroup,
    somebody: Cgroup,
    a: Node,
    b: Node,
    _stand_in: StandIn,
    plane: ControlPlane,
}

impl Cast {
    fn start(scene: &Scene) -> Result<Self> {
        let (a, b) = two_nodes(scene)?;
        let plane = ControlPlane::start(&a, Kubelets::Played)?;
        namespace(&plane, "shop", &json!({"mtls-daemon.io/mode": "strict"}))?;
        account(&plane, "shop", "server")?;
        let stand_in = StandIn::register(&b, &plane)?;
        let kubelet = b.cgroup().child("kubelet")?;
        let folder = format!("{:?}", kubelet.path().display().to_string());
        let plan = plan(&plane, &[&b])?.set_on(&b, "kubernetes", "kubelet_cgroup", &folder);
        let mut mesh = Mesh::start_as(plan)?;
        let mut manifest = pod("shop", "server", "server");
        manifest["spec"]["containers"] = json!([{
            "name": "app", "image": "app", "readinessProbe": {"tcpSocket": {"port": PROBED}},
        }]);
        let server = stand_in.pod(&plane, &manifest)?;
        let impostor = b.outsider("impostor")?;
        let listening = server.pod.serve(PROBED, [Step::Echo])?;
        let other = server.pod.serve(PORT, [Step::Echo])?;
        server.report(&plane, true)?;
        wait_for_mode(mesh.daemon(&b)?, &server, "strict")?;
        Ok(Self {
            mesh,
            listening,
            _other: other,
            server,
            impostor,
            kubelet,
            somebody: b.cgroup().child("somebody")?,
            a,
            b,
            _stand_in: stand_in,
            plane,
        })
    }

    /// What a program of the node, in a cgroup, is told at a port of the server.
    fn ask(&self, cgroup: &Cgroup, family: Family, port: u16) -> Result<String> {
        let to = self.server.pod.address(family).to_string();
        self.b
            .spawn("perl")?
            .cgroup(cgroup)
            .args(["-MErrno", "-e", PROBE, to.as_str(), &port.to_string()])
            .output()?
            .success()
    }

    /// A probe that goes well; its source port.
    fn probe(&self, family: Family) -> Result<u16> {
        let told = self.ask(&self.kubelet, family, PROBED)?;
        told.parse()
            .map_err(|_not_a_port| Error::Unexpected(format!("a probe, {family:?}: {told}")))
    }

    /// Of many refused within a moment the daemon hears of one, so somebody
    /// asks again and again, as a prober does.
    fn wait_until_told(&self) -> Result {
        wait_for(
            Deadline::default(),
            || "an Event ProbeRefused on the server".to_owned(),
            || {
                let refused = self.ask(&self.somebody, Family::V4, PROBED)?;
                ensure_eq(refused.as_str(), "ECONNREFUSED", "from its address")?;
                let events = self.plane.get(&["events.events.k8s.io", "-n", "shop"])?;
                let mut events = events["items"].as_array().into_iter().flatten();
                let told = events.any(|event| {
                    let note = event["note"].as_str().unwrap_or_default();
                    event["reason"] == "ProbeRefused"
                        && event["regarding"]["name"] == "server"
                        && note.contains(&format!("port {PROBED} "))
                        && note.contains(&self.kubelet.path().display().to_string())
                });
                Ok(told.then_some(()))
            },
        )
    }

    /// Connections that came in as probes.
    fn probes(&mut self) -> Result<u64> {
        let metrics: Metrics = self.mesh.daemon(&self.b)?.metrics()?;
        let passed = [("hook", "sk_lookup"), ("outcome", "passed_probe")];
        Ok(metrics.count("mtls_hook_events_total", &passed))
    }

    fn give_way(&self) -> Result {
        let link = self.impostor.mac()?;
        let link = link.map(|byte| format!("{byte:02x}")).join(":");
        let [v4, v6] = Family::BOTH.map(|family| self.b.address(family));
        self.impostor.netns().ip(&format!(
            "addr add {v4}/24 dev eth0\naddr add {v6}/64 dev eth0 nodad\n"
        ))?;
        self.server.pod.netns().ip(&format!(
            "neigh replace {v4} lladdr {link} dev eth0\nneigh replace {v6} lladdr {link} dev eth0\n"
        ))
    }

    fn come_back(&self) -> Result {
        let [v4, v6] = Family::BOTH.map(|family| self.b.address(family));
        self.impostor.netns().ip(&format!(
            "addr del {v4}/24 dev eth0\naddr del {v6}/64 dev eth0\n"
        ))?;
        self.server.pod.netns().ip(&format!(
            "neigh del {v4} dev eth0\nneigh del {v6} dev eth0\n"
        ))
    }

    /// The impostor connects from the node's address.
    fn pretend(&self, family: Family, from: u16, to: u16) -> Result<Client> {
        let from = (self.b.address(family), from).into();
        let hello = [Step::Say("hi".into()), Step::Hear("hi".into())];
        let to = self.server.pod.at(family, to);
        self.impostor.connect_as(Connect::to(to, hello).bind(from))
    }
}
