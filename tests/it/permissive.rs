//! A permissive workload takes tunnels and plain text, and plain text only past
//! its policies; it reaches in clear whom it knows to have no daemon. When it
//! turns strict, what is open in clear is cut, and tunnels go on.

use mtls_tests::mesh::{Daemon, Metrics};
use mtls_tests::player::Client;
use mtls_tests::script::{Connect, Ended, Step};
use mtls_tests::two_nodes;
use mtls_tests::{
    AddressChecks, Family, Mesh, Node, Pair, Plan, Pod, Result, Scene, ensure, ensure_eq, play,
};

const PORT: u16 = 8080;

#[test]
fn permissive() -> Result {
    play("permissive", |scene| {
        let mut cast = Cast::start(scene)?;
        let mut server = cast.server.serve(PORT, [Step::Echo])?;
        let _legacy = cast.legacy.serve(PORT, [Step::Echo])?;
        for family in Family::BOTH {
            for client in [&cast.client, &cast.legacy] {
                well(
                    client.connect(cast.server.at(family, PORT), hello())?,
                    "inbound",
                )?;
                let seen = server.ended_well(1)?.remove(0);
                let ip = seen.peer.map(|peer| peer.ip());
                ensure_eq(ip, Some(client.address(family)), "whom the server sees")?;
            }
            // Outbound: whom the directory knows to have no daemon.
            well(
                cast.server.connect(cast.legacy.at(family, PORT), hello())?,
                "outbound",
            )?;
            // A strict workload does not call it.
            let refused = cast.client.connect(cast.legacy.at(family, PORT), hello())?;
            ensure_eq(refused.error(), "ECONNREFUSED", "a strict client's call")?;
        }
        let daemon = cast.mesh.daemon(&cast.b)?;
        daemon.wait_for_metrics("what went in clear", |metrics| {
            in_clear(metrics, "inbound", "permissive") == 2
                && in_clear(metrics, "outbound", "not_enrolled") == 2
                && callers(metrics, "not_enrolled", "established") == 2
        })?;
        let record =
            daemon.wait_for_access("plain text", |record| record["in_clear"] == "permissive")?;
        let told = (&record["tunnel"], &record["source"], &record["rule"]);
        let expected = (
            &"none".into(),
            &serde_json::Value::Null,
            &"no_policy".into(),
        );
        ensure_eq(told, expected, "its line")?;
        let daemon = cast.mesh.daemon(&cast.a)?;
        daemon.wait_for_access("a strict client's refusal", |record| {
            record["reason"] == "not_enrolled"
        })?;

        ready_for_strict(cast.mesh.daemon(&cast.b)?, &cast.legacy, false)?;

        // Policies are asked: whoever comes in clear has proved nothing.
        let mut tunnelled = cast.hold(&cast.client, hello())?;
        let mut plain = cast.hold(&cast.legacy, vec![Step::ExpectEnd])?;
        plain.go()?;
        cast.reload_server(ALLOW)?;
        let cut = plain.ended()?;
        ensure_eq(
            cut.error(),
            "ECONNRESET",
            "what is open in clear, by a policy",
        )?;
        let refused = cast
            .legacy
            .connect(cast.server.at(Family::V4, PORT), hello())?;
        ensure(
            !refused.is_well(),
            || "a policy of principals let plain text in",
        )?;
        let daemon = cast.mesh.daemon(&cast.b)?;
        daemon.wait_for_access("plain text that a policy refuses", |record| {
            record["in_clear"] == "permissive"
                && record["reason"] == "not_authorised"
                && record["rule"] == "no_rule"
        })?;
        well(
            cast.client
                .connect(cast.server.at(Family::V4, PORT), hello())?,
            "a principal",
        )?;

        // Strict: plain text is cut and refused, tunnels go on.
        cast.reload_server("")?;
        let mut plain = cast.hold(&cast.legacy, vec![Step::ExpectEnd])?;
        plain.go()?;
        cast.mode = "strict";
        cast.reload_server("")?;
        ensure_eq(
            plain.ended()?.error(),
            "ECONNRESET",
            "what is open in clear",
        )?;
        for family in Family::BOTH {
            let refused = cast.legacy.connect(cast.server.at(family, PORT), hello())?;
            ensure_eq(refused.error(), "ECONNREFUSED", "plain text to strict")?;
            let refused = cast.server.connect(cast.legacy.at(family, PORT), hello())?;
            let told = matches!(refused.error(), "ECONNREFUSED" | "ECONNRESET");
            ensure(told, || format!("plain text from strict: {refused:?}"))?;
        }
        tunnelled.go()?;
        well(tunnelled.ended()?, "a tunnel from before")?;
        well(
            cast.client
                .connect(cast.server.at(Family::V4, PORT), hello())?,
            "strict",
        )?;
        ready_for_strict(cast.mesh.daemon(&cast.b)?, &cast.legacy, true)?;
        let daemon = cast.mesh.daemon(&cast.b)?;
        daemon.wait_for_metrics("what strict refused", |metrics| {
            let labels = [("direction", "inbound"), ("reason", "plaintext_refused")];
            callers(metrics, "not_enrolled", "refused") >= 2
                && metrics.count("mtls_connections_ended_total", &labels) == 1
        })?;
        let report = cast.mesh.wire()?;
        ensure(report.tls_connections() > 0, || report.to_string())?;
        for connection in &report.connections {
            let ends = [connection.client.ip(), connection.server.ip()];
            let legacy = cast.legacy.addresses().iter().any(|ip| ends.contains(ip));
            ensure(legacy || connection.outside == 0, || {
                format!("{connection:?}")
            })?;
        }
        Ok(())
    })
}

#[test]
fn ports_have_modes_of_their_own() -> Result {
    play("port-modes", |scene| {
        let (a, b) = two_nodes(scene)?;
        let (client, server) = (a.pod("client")?, b.pod("server")?);
        let legacy = a.outsider("legacy")?;
        let modes = "[{ port = 8081, mode = \"PERMISSIVE\" }, { port = 8082, mode = \"DISABLE\" }]";
        let plan = Plan::of([&client, &server])
            .set_workload(&server, "port_modes", modes)
            .append(&b, SELECTED);
        let mut mesh = Mesh::start_as(plan)?;
        let _listening: Vec<_> = [8080, 8081, 8082, 8083]
            .iter()
            .map(|&port| server.serve(port, [Step::Echo]))
            .collect::<Result<_>>()?;
        for family in Family::BOTH {
            let refused = legacy.connect(server.at(family, 8080), hello())?;
            ensure_eq(refused.error(), "ECONNREFUSED", "the strict port")?;
            for port in [8081, 8082, 8083] {
                well(
                    legacy.connect(server.at(family, port), hello())?,
                    "an open port",
                )?;
            }
            for port in [8080, 8081, 8082, 8083] {
                well(
                    client.connect(server.at(family, port), hello())?,
                    "a tunnel",
                )?;
            }
        }
        mesh.daemon(&b)?
            .wait_for_metrics("which ways plain text went", |metrics| {
                in_clear(metrics, "inbound", "permissive") == 4
                    && in_clear(metrics, "inbound", "excluded") == 2
            })?;
        Ok(())
    })
}

/// What the workload says of its own ports goes before it.
const SELECTED: &str = r#"
[[peer-authentication]]
name = "selected"
workloads = ["spiffe://example.org/ser*"]
mode = "strict"
port_modes = [{ port = 8081, mode = "strict" }, { port = 8083, mode = "permissive" }]
"#;

/// Connections from before the daemon had a part in them go on, past the veth's
/// gate, too, as long as their port takes plain text.
#[test]
fn ports_turn_strict() -> Result {
    play("ports-turn-strict", |scene| {
        let (a, b) = two_nodes(scene)?;
        let (client, server) = (a.pod("client")?, b.pod("server")?);
        let legacy = a.outsider("legacy")?;
        let plan = |mode: &str, strict: &[u16]| {
            let modes = strict
                .iter()
                .map(|port| format!("{{ port = {port}, mode = \"strict\" }}"));
            let modes = format!("[{}]", modes.collect::<Vec<_>>().join(", "));
            Plan::of([&client, &server])
                .set_workload(&server, "mode", &format!("{mode:?}"))
                .set_workload(&server, "port_modes", &modes)
        };
        let mut mesh = Mesh::start_as(plan("off", &[]))?;
        let _listening: Vec<_> = [8080, 8081]
            .iter()
            .map(|&port| server.serve(port, [Step::Echo]))
            .collect::<Result<_>>()?;
        let hold = |port| -> Result<Client> {
            let again = [vec![Step::Hold], hello()].concat();
            let script = [hello(), again.clone(), again.clone(), again].concat();
            let to = server.at(Family::V4, port);
            let mut held = legacy.connect_as(Connect::to(to, script))?;
            held.held()?;
            Ok(held)
        };
        let (mut first, mut second) = (hold(8080)?, hold(8081)?);

        put_in_force(&mut mesh, &b, |_| plan("permissive", &[]))?;
        mesh.daemon(&b)?
            .wait_for_metrics("the workload to be served", |metrics| {
                metrics.count("mtls_workloads", &[("state", "ready")]) == 1
                    && metrics.value("mtls_veth_gates", &[("state", "armed")]) == Some(1.0)
            })?;
        for held in [&mut first, &mut second] {
            held.go()?;
            held.held()?;
        }
        put_in_force(&mut mesh, &b, |_| plan("permissive", &[8080]))?;
        cut(&mut first)?;
        second.go()?;
        second.held()?;
        put_in_force(&mut mesh, &b, |_| plan("permissive", &[8080, 8081]))?;
        cut(&mut second)
    })
}

/// The client finds out when it speaks.
fn cut(held: &mut Client) -> Result {
    held.go()?;
    let cut = held.ended()?;
    let told = matches!(cut.error(), "ECONNRESET" | "EPIPE");
    ensure(told, || {
        format!("open at a port that turned strict: {cut:?}")
    })
}

/// The listener that takes plain text can be found and dialled by whoever is in
/// the workload's namespace. That leads nowhere, least of all back to itself.
#[test]
fn listeners_dialled_directly() -> Result {
    play("dialled-directly", |scene| {
        let mut pair = Pair::start_as(scene, |plan, _, server| {
            plan.set_workload(server, "mode", "\"permissive\"")
        })?;
        let sockets = pair.server.netns().sockets()?;
        let listeners: Vec<_> = sockets.iter().filter(|socket| socket.listens).collect();
        ensure_eq(listeners.len(), 6, "the daemon's listeners")?;
        for checks in AddressChecks::BOTH {
            pair.check_addresses(checks)?;
            for socket in &listeners {
                let at = std::net::SocketAddr::new(socket.local, socket.port);
                let ended = pair.server.connect(at, hello())?;
                ensure(!ended.is_well(), || format!("{at}, {checks:?}: {ended:?}"))?;
            }
        }
        let refused = |metrics: &Metrics, direction| {
            let labels = [("direction", direction), ("reason", "no_original_dst")];
            metrics.count("mtls_connections_refused_total", &labels)
        };
        let daemon = pair.servers_daemon()?;
        daemon.wait_for_metrics("what was dialled directly", |metrics| {
            refused(metrics, "outbound") == 4 && refused(metrics, "inbound") == 4
        })?;
        Ok(())
    })
}

/// Only the client may, by its principal.
const ALLOW: &str = r#"
[[authorization-policy]]
name = "callers"
workloads = ["server"]
rules = [{ from = [{ principals = ["spiffe://example.org/client"] }] }]
"#;

/// A strict client and a permissive server, and a pod that is known to both
/// daemons, and to have none.
struct Cast {
    mesh: Mesh,
    client: Pod,
    server: Pod,
    legacy: Pod,
    a: Node,
    b: Node,
    mode: &'static str,
}

impl Cast {
    fn start(scene: &Scene) -> Result<Self> {
        let (a, b) = two_nodes(scene)?;
        let (client, server) = (a.pod("client")?, b.pod("server")?);
        let legacy = a.outsider("legacy")?;
        let plan = plan(&client, &server, &legacy, "permissive");
        Ok(Self {
            mesh: Mesh::start_as(plan.append(&b, &peer(&legacy)))?,
            client,
            server,
            legacy,
            a,
            b,
            mode: "permissive",
        })
    }

    /// With these policies at its node, and waits until they are in force.
    fn reload_server(&mut self, policies: &str) -> Result {
        let sections = peer(&self.legacy) + policies;
        let new = plan(&self.client, &self.server, &self.legacy, self.mode);
        let new = new.append(&self.b, &sections);
        put_in_force(&mut self.mesh, &self.b, |_| new)
    }

    /// An open connection to the server, that does something later.
    fn hold(&self, from: &Pod, then: Vec<Step>) -> Result<Client> {
        let script = [hello(), vec![Step::Hold], then].concat();
        let to = self.server.at(Family::V4, PORT);
        let mut held = from.connect_as(Connect::to(to, script))?;
        held.held()?;
        Ok(held)
    }
}

/// Changes the plan, and waits until the node's daemon has taken it.
pub(crate) fn put_in_force(
    mesh: &mut Mesh,
    node: &Node,
    change: impl FnOnce(Plan) -> Plan,
) -> Result {
    mesh.replan(change)?;
    let daemon = mesh.daemon(node)?;
    let reloads =
        |metrics: &Metrics| metrics.count("mtls_config_reloads_total", &[("result", "ok")]);
    let before = reloads(&daemon.metrics()?);
    daemon.reload()?;
    let done = |metrics: &Metrics| reloads(metrics) > before;
    daemon.wait_for_metrics("the reload", done).map(drop)
}

fn plan(client: &Pod, server: &Pod, legacy: &Pod, mode: &str) -> Plan {
    Plan::of([client, server])
        .set_workload(server, "mode", &format!("{mode:?}"))
        .append(client.node(), &peer(legacy))
}

/// As both directories know it.
fn peer(legacy: &Pod) -> String {
    let addresses = legacy.addresses().map(|ip| format!("\"{ip}\"")).join(", ");
    format!(
        "[[peer]]\nname = \"legacy\"\nspiffe_id = \"spiffe://example.org/legacy\"\n\
         addresses = [{addresses}]\nenrolled = false\n"
    )
}

fn hello() -> Vec<Step> {
    vec![Step::Say("hi".into()), Step::Hear("hi".into())]
}

fn well(ended: Ended, what: &str) -> Result {
    ensure(ended.is_well(), || format!("{what}: {ended:?}"))
}

/// What `readiness-for-strict` and its metric say of the server: that it would
/// lose a caller and a server of each family, or nobody.
fn ready_for_strict(daemon: &mut Daemon, legacy: &Pod, ready: bool) -> Result {
    let answer = daemon.ask("readiness-for-strict")?;
    let server = &answer["workloads"][0];
    let standing = if ready { "strict" } else { "not_ready" };
    ensure_eq(server["standing"].as_str(), Some(standing), "standing")?;
    let losses = server["losses"].as_array().cloned().unwrap_or_default();
    let mut told: Vec<_> = losses
        .iter()
        .filter_map(|loss| {
            ensure_eq(&loss["port"], &PORT.into(), "port").ok()?;
            Some((loss["direction"].as_str()?, loss["address"].as_str()?))
        })
        .collect();
    told.sort_unstable();
    let addresses = legacy.addresses().map(|ip| ip.to_string());
    let mut expected = Vec::new();
    for direction in ["inbound", "outbound"].into_iter().filter(|_| !ready) {
        expected.extend(addresses.iter().map(|ip| (direction, ip.as_str())));
    }
    ensure_eq(told, expected, "whom it would lose")?;
    let count = u64::try_from(losses.len()).unwrap_or(0);
    let metric = "mtls_strict_readiness_losses";
    let metrics = daemon.metrics()?;
    ensure_eq(
        metrics.count(metric, &[("workload", "server")]),
        count,
        metric,
    )?;
    let socket = daemon.admin_socket();
    let exit = daemon.command(&["readiness-for-strict", "--socket", &socket])?;
    ensure_eq(exit.status.success(), ready, "its exit status")
}

fn in_clear(metrics: &Metrics, direction: &str, reason: &str) -> u64 {
    let labels = [("direction", direction), ("reason", reason)];
    metrics.count("mtls_plaintext_connections_total", &labels)
}

fn callers(metrics: &Metrics, caller: &str, result: &str) -> u64 {
    let labels = [("caller", caller), ("result", result)];
    metrics.count("mtls_plaintext_callers_total", &labels)
}
