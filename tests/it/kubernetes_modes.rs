//! Istio's PeerAuthentications, as people have them in their clusters: they say
//! what pods that are enrolled take in clear, by namespace, pod and port, from
//! the moment at which the API server tells of them. What is open in clear is
//! cut where they turn strict, and tunnels go on.

use std::time::Duration;

use mtls_tests::cluster::{ControlPlane, Kubelets, Kubepod, StandIn, namespace, plan};
use mtls_tests::deadline::{Deadline, wait_for};
use mtls_tests::mesh::Daemon;
use mtls_tests::player::{Client, Server};
use mtls_tests::script::{Connect, Ended, Step};
use mtls_tests::{Family, Mesh, Node, Result, Scene, ensure, ensure_eq, play, two_nodes};
use serde_json::{Value, json};

use crate::kubernetes::{account, pod, wait_for_mode};
use crate::kubernetes_policies::{define, wait_for_event, wait_for_standing, wait_until_saved};

const KIND: &str = "PeerAuthentication";
const DEFINITION: &str = "peerauthentications.security.istio.io";
const PORT: u16 = 8080;
const OTHER_PORT: u16 = 8081;
/// From a change at the API server to the cut, and room for a busy machine.
const CUT_WITHIN: Duration = Duration::from_secs(10);

#[test]
fn kubernetes_modes() -> Result {
    play("kubernetes-modes", |scene| {
        let mut cast = Cast::start(scene)?;

        // The label enrols, and says strict.
        cast.refused(PORT)?;

        // What is said of the namespace goes before its label.
        define(&cast.plane, &cast.b, DEFINITION)?;
        cast.apply("default", &json!({"mtls": {"mode": "PERMISSIVE"}}))?;
        cast.wait_for("permissive", "PeerAuthentication shop/default")?;
        for port in [PORT, OTHER_PORT] {
            cast.passes(&cast.legacy, port)?;
            cast.passes(&cast.client, port)?;
        }

        // A port of pods with a label.
        let mut plain = cast.hold_in_clear()?;
        cast.apply(
            "strict-port",
            &json!({
                "selector": {"matchLabels": {"app": "server"}},
                "portLevelMtls": {"8080": {"mode": "STRICT"}, "8081": {"mode": "UNSET"}},
            }),
        )?;
        cast.is_cut(&mut plain)?;
        cast.refused(PORT)?;
        cast.passes(&cast.legacy, OTHER_PORT)?;
        cast.is_allowed(OTHER_PORT, true)?;
        cast.wait_for("permissive", "PeerAuthentication shop/default")?;

        // A daemon that starts while the API server is away holds to it, too.
        wait_until_saved(&cast.b, "strict-port")?;
        cast.plane.stop_api_server()?;
        let server = cast.mesh.daemon(&cast.b)?;
        server.kill()?;
        server.start()?;
        cast.passes(&cast.legacy, OTHER_PORT)?;
        cast.refused(PORT)?;
        cast.plane.start_api_server()?;
        cast.delete("strict-port")?;
        cast.passes(&cast.legacy, PORT)?;

        // All of the namespace strict: tunnels do not notice.
        let mut tunnelled_since = cast.hold(&cast.client, hello())?;
        let mut plain = cast.hold_in_clear()?;
        cast.apply("default", &json!({"mtls": {"mode": "STRICT"}}))?;
        cast.is_cut(&mut plain)?;
        for port in [PORT, OTHER_PORT] {
            cast.refused(port)?;
            cast.passes(&cast.client, port)?;
        }
        tunnelled_since.go()?;
        well(tunnelled_since.ended()?, "a tunnel from before")?;

        // What is not taken as it is written is told.
        cast.apply("default", &json!({"mtls": {"mode": "DISABLE"}}))?;
        cast.passes(&cast.legacy, PORT)?;
        cast.passes(&cast.client, PORT)?;
        wait_for_event(&cast.plane, (KIND, "default"), "NotAsWritten")?;
        let server = cast.mesh.daemon(&cast.b)?;
        wait_for_standing(server, (KIND, "default"), "in_part")?;

        // Without any the label says it again.
        cast.delete("default")?;
        cast.wait_for("strict", "its namespace")?;
        cast.refused(PORT)?;
        cast.passes(&cast.client, PORT)?;
        cast.ensure_only_legacy_in_clear()
    })
}

/// A server on one node, and on the other a client that is enrolled and one
/// that is not.
struct Cast {
    plane: ControlPlane,
    mesh: Mesh,
    client: Kubepod,
    legacy: Kubepod,
    server: Kubepod,
    b: Node,
    _listening: [Server; 2],
    _stand_ins: [StandIn; 2],
}

impl Cast {
    fn start(scene: &Scene) -> Result<Self> {
        let (a, b) = two_nodes(scene)?;
        let plane = ControlPlane::start(&a, Kubelets::Played)?;
        namespace(&plane, "shop", &json!({"mtls-daemon.io/mode": "strict"}))?;
        namespace(&plane, "legacy", &json!({}))?;
        for (namespace, name) in [("shop", "client"), ("shop", "server"), ("legacy", "legacy")] {
            account(&plane, namespace, name)?;
        }
        let on_a = StandIn::register(&a, &plane)?;
        let on_b = StandIn::register(&b, &plane)?;
        let mut mesh = Mesh::start_as(plan(&plane, &[&a, &b])?)?;
        let client = on_a.pod(&plane, &pod("shop", "client", "client"))?;
        let legacy = on_a.pod(&plane, &pod("legacy", "legacy", "legacy"))?;
        let server = on_b.pod(&plane, &pod("shop", "server", "server"))?;
        let listening = [
            server.pod.serve(PORT, [Step::Echo])?,
            server.pod.serve(OTHER_PORT, [Step::Echo])?,
        ];
        for pod in [&client, &legacy, &server] {
            pod.report(&plane, true)?;
        }
        wait_for_mode(mesh.daemon(&a)?, &client, "strict")?;
        wait_for_mode(mesh.daemon(&b)?, &server, "strict")?;
        Ok(Self {
            plane,
            mesh,
            client,
            legacy,
            server,
            b,
            _listening: listening,
            _stand_ins: [on_a, on_b],
        })
    }

    fn call(&self, from: &Kubepod, port: u16) -> Result<Ended> {
        from.pod
            .connect(self.server.pod.at(Family::V4, port), hello())
    }

    /// An open connection that does something later.
    fn hold(&self, from: &Kubepod, then: Vec<Step>) -> Result<Client> {
        let script = [hello(), vec![Step::Hold], then].concat();
        let to = self.server.pod.at(Family::V4, PORT);
        let mut held = from.pod.connect_as(Connect::to(to, script))?;
        held.held()?;
        Ok(held)
    }

    fn hold_in_clear(&self) -> Result<Client> {
        let mut held = self.hold(&self.legacy, vec![Step::ExpectEnd])?;
        held.go()?;
        Ok(held)
    }

    fn is_cut(&self, held: &mut Client) -> Result {
        let cut = held.ended_within(Deadline::after(CUT_WITHIN))?;
        ensure_eq(cut.error(), "ECONNRESET", "what is open in clear")
    }

    /// Sooner or later: news take their time.
    fn passes(&self, from: &Kubepod, port: u16) -> Result {
        wait_for(
            Deadline::default(),
            || format!("{} to be let in at {port}", from.name),
            || Ok(self.call(from, port)?.is_well().then_some(())),
        )
    }

    /// What comes in clear, with a reset that answers its SYN: the daemon, which
    /// hears of a change before its hooks do, resets in between what it took.
    fn refused(&mut self, port: u16) -> Result {
        wait_for(
            Deadline::default(),
            || format!("plain text to be refused at {port}"),
            || {
                let refused = self.call(&self.legacy, port)?.error() == "ECONNREFUSED";
                Ok(refused.then_some(()))
            },
        )?;
        self.is_allowed(port, false)
    }

    /// A caller that has proved nothing, by `policy test`.
    fn is_allowed(&mut self, port: u16, allowed: bool) -> Result {
        let daemon = self.mesh.daemon(&self.b)?;
        let to = format!("shop/server:{port}");
        let socket = daemon.admin_socket();
        let words = ["policy", "test", "--to", &to, "--socket", &socket];
        let told = daemon.command(&words)?.stdout;
        let expected = match allowed {
            true => "allowed: no ALLOW policy",
            false => "denied: the workload is strict at that port",
        };
        ensure(told.contains(expected), || {
            format!("policy test of port {port}: {told}")
        })
    }

    /// The server to have a mode, by that word.
    fn wait_for(&mut self, mode: &str, because: &str) -> Result {
        let (server, daemon) = (&self.server, self.mesh.daemon(&self.b)?);
        wait_for(
            Deadline::default(),
            || format!("{mode} by {because}"),
            || {
                let told = wait_for_mode(daemon, server, mode)?;
                Ok((told["because"] == because).then_some(()))
            },
        )?;
        let listed = listed(daemon)?;
        ensure(listed.contains(mode) && listed.contains(because), || {
            format!("workloads: {listed}")
        })
    }

    fn apply(&self, name: &str, spec: &Value) -> Result {
        self.plane.apply(&json!({
            "apiVersion": "security.istio.io/v1", "kind": KIND,
            "metadata": {"namespace": "shop", "name": name}, "spec": spec,
        }))
    }

    fn delete(&self, name: &str) -> Result {
        let words = ["delete", "peerauthentication", "-n", "shop", name];
        self.plane.kubectl(&words).map(drop)
    }

    fn ensure_only_legacy_in_clear(&mut self) -> Result {
        let report = self.mesh.wire()?;
        ensure(report.tls_connections() > 0, || report.to_string())?;
        for connection in &report.connections {
            let ends = [connection.client.ip(), connection.server.ip()];
            let legacy = self.legacy.pod.addresses();
            let of_legacy = legacy.iter().any(|ip| ends.contains(ip));
            ensure(of_legacy || connection.outside == 0, || {
                format!("{connection:?}")
            })?;
        }
        Ok(())
    }
}

/// What `mtls-daemon workloads` says.
fn listed(daemon: &Daemon) -> Result<String> {
    let output = daemon.command(&["workloads", "--socket", &daemon.admin_socket()])?;
    Ok(output.stdout)
}

fn hello() -> Vec<Step> {
    vec![Step::Say("hi".into()), Step::Hear("hi".into())]
}

fn well(ended: Ended, what: &str) -> Result {
    ensure(ended.is_well(), || format!("{what}: {ended:?}"))
}
