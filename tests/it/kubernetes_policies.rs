//! Istio's AuthorizationPolicies, as people have them in their clusters: they
//! hold from the moment at which the API server tells of them, what is open
//! included, by their own names; what goes beyond connections lets nobody in.

use std::fs;
use std::time::Duration;

use mtls_tests::cluster::{ControlPlane, Kubelets, Kubepod, StandIn, namespace, plan, state};
use mtls_tests::deadline::{Deadline, wait_for};
use mtls_tests::mesh::Daemon;
use mtls_tests::player::{Client, Server};
use mtls_tests::script::{Connect, Ended, Step};
use mtls_tests::{Doing, Family, Mesh, Node, Result, Scene, ensure, play, programs, two_nodes};
use serde_json::{Value, json};

use crate::kubernetes::{account, pod, wait_for_mode};

const KIND: &str = "AuthorizationPolicy";
const DEFINITION: &str = "authorizationpolicies.security.istio.io";
const PORT: u16 = 8080;
/// From a change at the API server to the cut, and room for a busy machine.
const CUT_WITHIN: Duration = Duration::from_secs(10);

#[test]
fn kubernetes_policies() -> Result {
    play("kubernetes-policies", |scene| {
        let mut cast = Cast::start(scene)?;

        // Nobody has defined policies, and nothing is the worse for it.
        cast.passes(&cast.client)?;
        let mut held = cast.hold(&cast.stranger)?;

        // Then somebody does, while the daemons run.
        define(&cast.plane, &cast.b, DEFINITION)?;
        cast.plane.apply(&policy(
            "not-the-stranger",
            &json!({
                "action": "DENY", "selector": {"matchLabels": {"app": "server"}},
                "rules": [{"from": [{"source": {
                    "principals": ["cluster.local/ns/shop/sa/stranger"],
                }}]}],
            }),
        ))?;
        held.go()?;
        let cut = held.ended_within(Deadline::after(CUT_WITHIN))?;
        ensure(cut.error() == "ECONNRESET", || {
            format!("the stranger's open connection: {cut:?}")
        })?;
        cast.refused(&cast.stranger)?;
        cast.passes(&cast.client)?;
        let rule = "shop/not-the-stranger[0]";
        let server = cast.server_daemon()?;
        server.wait_for_metrics("a refusal by its name", |metrics| {
            let labels = [("rule", rule), ("decision", "denied")];
            metrics.count("mtls_policy_decisions_total", &labels) >= 1
        })?;
        server.wait_for_access("a refusal by its name", |record| record["rule"] == rule)?;
        let told = policy_test(server, "stranger")?;
        ensure(
            told.contains("AuthorizationPolicy shop/not-the-stranger") && told.contains(rule),
            || format!("policy test: {told}"),
        )?;

        // A daemon that starts while the API server is away holds to them, too.
        wait_until_saved(&cast.b, "not-the-stranger")?;
        cast.plane.stop_api_server()?;
        let server = cast.server_daemon()?;
        server.kill()?;
        server.start()?;
        cast.passes(&cast.client)?;
        cast.refused(&cast.stranger)?;
        cast.plane.start_api_server()?;
        cast.delete("not-the-stranger")?;
        cast.passes(&cast.stranger)?;

        // Of HTTP nothing is known here, so nobody can be let in by it.
        cast.plane.apply(&policy(
            "readers",
            &json!({"rules": [{
                "from": [{"source": {"namespaces": ["shop"]}}],
                "to": [{"operation": {"methods": ["GET"]}}],
            }]}),
        ))?;
        cast.is_refused_soon(&cast.client)?;
        cast.is_told("readers", "StricterThanWritten", "in_part")?;
        // Whom another rule lets in, it lets in.
        cast.plane.apply(&policy(
            "callers",
            &json!({"rules": [{"from": [{"source": {"serviceAccounts": ["client"]}}]}]}),
        ))?;
        cast.passes(&cast.client)?;
        cast.refused(&cast.stranger)?;
        // One that nobody here can read denies everything to whom it selects.
        cast.plane.apply(&policy(
            "odd",
            &json!({"targetRefs": [{"kind": "Pod", "name": "server"}], "rules": [{}]}),
        ))?;
        cast.is_refused_soon(&cast.client)?;
        cast.is_told("odd", "Unreadable", "unreadable")?;
        cast.delete("odd")?;
        cast.passes(&cast.client)?;

        // Without their definition there are none any more.
        cast.plane.kubectl(&["delete", "crd", DEFINITION])?;
        cast.passes(&cast.stranger)?;
        cast.mesh.wire()?.ensure_only_tls()
    })
}

/// A server on one node, and two callers on the other, of one namespace.
struct Cast {
    plane: ControlPlane,
    mesh: Mesh,
    client: Kubepod,
    stranger: Kubepod,
    server: Kubepod,
    b: Node,
    _listening: Server,
    _stand_ins: [StandIn; 2],
}

impl Cast {
    fn start(scene: &Scene) -> Result<Self> {
        let (a, b) = two_nodes(scene)?;
        let plane = ControlPlane::start(&a, Kubelets::Played)?;
        namespace(&plane, "shop", &json!({"mtls-daemon.io/mode": "strict"}))?;
        for name in ["client", "stranger", "server"] {
            account(&plane, "shop", name)?;
        }
        let on_a = StandIn::register(&a, &plane)?;
        let on_b = StandIn::register(&b, &plane)?;
        let mut mesh = Mesh::start_as(plan(&plane, &[&a, &b])?)?;
        let client = on_a.pod(&plane, &pod("shop", "client", "client"))?;
        let stranger = on_a.pod(&plane, &pod("shop", "stranger", "stranger"))?;
        let server = on_b.pod(&plane, &pod("shop", "server", "server"))?;
        let listening = server.pod.serve(PORT, [Step::Echo])?;
        for (node, pod) in [(&a, &client), (&a, &stranger), (&b, &server)] {
            pod.report(&plane, true)?;
            wait_for_mode(mesh.daemon(node)?, pod, "strict")?;
        }
        Ok(Self {
            plane,
            mesh,
            client,
            stranger,
            server,
            b,
            _listening: listening,
            _stand_ins: [on_a, on_b],
        })
    }

    fn server_daemon(&mut self) -> Result<&mut Daemon> {
        self.mesh.daemon(&self.b)
    }

    fn call(&self, from: &Kubepod) -> Result<Ended> {
        let to = self.server.pod.at(Family::V4, PORT);
        from.pod
            .connect(to, [Step::Say("hi".into()), Step::Hear("hi".into())])
    }

    /// A connection that waits for its end.
    fn hold(&self, from: &Kubepod) -> Result<Client> {
        let script = [
            Step::Say("hi".into()),
            Step::Hear("hi".into()),
            Step::Hold,
            Step::ExpectEnd,
        ];
        let to = self.server.pod.at(Family::V4, PORT);
        let mut held = from.pod.connect_as(Connect::to(to, script))?;
        held.held()?;
        Ok(held)
    }

    /// Sooner or later: news take their time.
    fn passes(&self, from: &Kubepod) -> Result {
        wait_for(
            Deadline::default(),
            || format!("{} to be let in", from.name),
            || Ok(self.call(from)?.is_well().then_some(())),
        )
    }

    fn refused(&self, from: &Kubepod) -> Result {
        let ended = self.call(from)?;
        ensure(!ended.is_well() && ended.received == 0, || {
            format!("{} should be refused: {ended:?}", from.name)
        })
    }

    fn is_refused_soon(&self, from: &Kubepod) -> Result {
        wait_for(
            Deadline::default(),
            || format!("{} to be refused", from.name),
            || Ok((!self.call(from)?.is_well()).then_some(())),
        )
    }

    fn delete(&self, name: &str) -> Result {
        let words = ["delete", "authorizationpolicy", "-n", "shop", name];
        self.plane.kubectl(&words).map(drop)
    }

    fn is_told(&mut self, policy: &str, reason: &str, standing: &str) -> Result {
        wait_for_event(&self.plane, (KIND, policy), reason)?;
        wait_for_standing(self.server_daemon()?, (KIND, policy), standing)
    }
}

/// That an object is known.
pub(crate) fn wait_until_saved(node: &Node, name: &str) -> Result {
    let known = format!("\"shop/{name}\":");
    wait_for(
        Deadline::default(),
        || format!("{known} to be saved"),
        || {
            let saved = fs::read_to_string(state(node)).unwrap_or_default();
            Ok(saved.contains(&known).then_some(()))
        },
    )
}

pub(crate) fn wait_for_event(plane: &ControlPlane, of: (&str, &str), reason: &str) -> Result {
    wait_for(
        Deadline::default(),
        || format!("an Event {reason} on {of:?}"),
        || {
            let events = plane.get(&["events.events.k8s.io", "-n", "shop"])?;
            let mut events = events["items"].as_array().into_iter().flatten();
            let found = events.any(|event| {
                let regarding = &event["regarding"];
                event["reason"] == reason && regarding["kind"] == of.0 && regarding["name"] == of.1
            });
            Ok(found.then_some(()))
        },
    )
}

/// By the metric, and in the operator's view with what is wrong.
pub(crate) fn wait_for_standing(daemon: &Daemon, of: (&str, &str), standing: &str) -> Result {
    daemon.wait_for_metrics("how objects are taken", |metrics| {
        let labels = [("kind", of.0), ("standing", standing)];
        metrics.count("mtls_cluster_policies", &labels) == 1
    })?;
    let status = daemon.status()?;
    let mut policies = status["status"]["cluster"]["policies"]
        .as_array()
        .into_iter()
        .flatten();
    let name = format!("shop/{}", of.1);
    let told = policies.any(|it| {
        it["kind"] == of.0
            && it["name"] == name
            && it["standing"] == standing
            && it["complaints"][0].is_string()
    });
    ensure(told, || format!("{name} as {standing} in {status}"))
}

/// As Istio's chart would: their CustomResourceDefinition, served.
pub(crate) fn define(plane: &ControlPlane, node: &Node, definition: &str) -> Result {
    let file = programs::istio_definitions()?;
    let all = fs::read_to_string(&file).doing(|| format!("reading {}", file.display()))?;
    let name = format!("\n  name: {definition}\n");
    let one = all.split("\n---\n").find(|one| one.contains(&name));
    let path = node.scene().dir().join("definition.yaml");
    let written = fs::write(&path, one.unwrap_or_default());
    written.doing(|| format!("writing {}", path.display()))?;
    plane.apply_file(&path)?;
    plane.wait_until_served(definition)
}

fn policy(name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "security.istio.io/v1", "kind": KIND,
        "metadata": {"namespace": "shop", "name": name}, "spec": spec,
    })
}

fn policy_test(daemon: &Daemon, account: &str) -> Result<String> {
    let from = format!("spiffe://example.org/ns/shop/sa/{account}");
    let to = format!("shop/server:{PORT}");
    let socket = daemon.admin_socket();
    let words = ["policy", "test", "--from", &from, "--to", &to];
    let output = daemon.command(&[&words[..], &["--socket", &socket]].concat())?;
    Ok(output.stdout)
}
