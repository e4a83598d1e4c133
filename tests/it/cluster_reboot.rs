//! A node of a real cluster loses its power and boots: the unit that arms the
//! gate runs first, then containerd and the kubelet, which starts every pod of
//! the node again. Until the daemon runs, pods are refused, each of them and in
//! both directions. Then all is as it was, and nobody was asked to help.

use std::time::Duration;

use mtls_tests::capture::Capture;
use mtls_tests::cluster::{ControlPlane, Installed, Kubelets, Worker, namespace};
use mtls_tests::deadline::{Deadline, wait_for};
use mtls_tests::mesh::Ca;
use mtls_tests::{Error, Node, Result, ensure, ensure_eq, play, two_nodes};
use serde_json::{Value, json};

/// So long news may take on a busy machine.
const POD: Duration = Duration::from_secs(90);
/// What workloads say to one another; the kubelet asks for something else.
const PAYLOAD: [&[u8]; 2] = [b"GET /payload", b"payload of "];
const PROBE: &[u8] = b"GET /alive";
/// A folder that the daemon's pod needs on its node, as that of a SPIRE agent,
/// and that a boot empties with all of /run: until it is there again, the
/// daemon is held back and the other pods are not.
const AGENT: &str = "/run/agent";
/// The network plug-in's words where no daemon is.
const HELD_BACK: &str = "mtls-daemon does not answer on this node";
const FAR: &str = "http://10.96.0.81/payload";
const NEAR: &str = "http://10.96.0.82/payload";

#[test]
fn cluster_reboot() -> Result {
    play("cluster-reboot", |scene| {
        let (a, b) = two_nodes(scene)?;
        // Of connections that outlast the reboot it has to see the beginning.
        let wire = a.capture_wire()?;
        let plane = ControlPlane::start(&a, Kubelets::Real)?;
        let mut workers = Worker::start_both([&a, &b], &plane)?;
        for worker in &workers {
            agent_starts(worker)?;
        }
        let [_, worker] = &mut workers;
        let ca = Ca::create(scene.dir(), "ca", "example.org")?;
        let daemons = Installed::install(&plane, &ca, &a, &needs_agent())?;
        let stranger = set_up(&plane, &a, &b)?;
        for (client, server) in [("client-a", "web-b"), ("client-b", "web-a")] {
            wait_until_heard(&plane, client, server, 1)?;
        }

        let mut bridge = None;
        worker.reboot(|worker| {
            let said = worker.arm_gate()?;
            ensure(said.starts_with("armed"), || said)?;
            bridge = Some(capture_pods(&b)?);
            Ok(())
        })?;
        for (namespace, pod) in [("shop", "web-b"), ("shop", "client-b"), ("other", "local")] {
            wait_until_restarted(&plane, namespace, pod)?;
        }

        // They have tried from their first instruction on.
        wait_for(
            Deadline::after(POD),
            || "attempts of the client that was started again",
            || {
                let tried = said(&plane, "client-b", "tried")?;
                Ok((tried.lines().count() >= 8).then_some(()))
            },
        )?;
        let web = url(&plane.address("shop", "app=web-b", &b)?);
        ensure(daemons.readiness(&b).is_err(), || "the daemon runs already")?;
        for (namespace, from, to) in [
            ("shop", "client-b", FAR),
            ("shop", "client-b", &stranger),
            ("shop", "client-b", &web),
            ("other", "local", &stranger),
        ] {
            is_refused_at_once(&plane, namespace, from, to)?;
        }
        plane.refuses("other", "stranger", &web)?;
        plane.refuses("shop", "client-a", NEAR)?;
        ensure_eq(said(&plane, "client-b", "heard")?, String::new(), "heard")?;
        // The gate knows of no probes: those wait as well.
        let web_b = plane.get(&["pod", "-n", "shop", "web-b"])?;
        let ready = &web_b["status"]["containerStatuses"][0]["ready"];
        ensure_eq(ready.as_bool(), Some(false), "whether probes come in")?;
        let before = heard(&plane, "client-a", "web-b")?;

        // By itself, though it has no pass at the gate.
        agent_starts(worker)?;
        wait_for(
            Deadline::after(POD),
            || "the daemon to be ready",
            || Ok(daemons.readiness(&b).ok().filter(|(code, _)| *code == 200)),
        )?;
        wait_until_heard(&plane, "client-b", "web-a", 1)?;
        wait_until_heard(&plane, "client-a", "web-b", before + 1)?;
        // The kubelet's probes come in, and nobody else in clear.
        plane.wait("shop", "pod/web-b", "Ready")?;
        plane.refuses("other", "stranger", &web)?;
        plane.refuses("shop", "client-b", &stranger)?;
        for node in [&a, &b] {
            as_themselves(&daemons, node)?;
        }
        let heard = said(&plane, "client-b", "heard")?;
        ensure(!heard.contains("stranger"), || heard)?;

        let wire = wire.finish()?;
        wire.ensure_absent(&PAYLOAD)?;
        wire.ensure_only_tls()?;
        if let Some(report) = bridge.map(Capture::finish).transpose()? {
            report.ensure_absent(&PAYLOAD)?;
            // It sees what there is to see.
            let probes = report.contains(&[PROBE])?;
            ensure_eq(probes, vec![true], "the kubelet's probes, in clear")?;
        }
        // Who is not enrolled is known as that again.
        let answer = plane.ask("other", "local", &stranger)?;
        ensure_eq(answer, "payload of stranger".to_owned(), "in clear")
    })
}

/// On a node whose units nobody may write: the entry of the network plug-in,
/// which outlasts the boot, holds every pod back until the daemon runs.
#[test]
fn cluster_reboot_behind_the_plugin() -> Result {
    play("cluster-reboot-plugin", |scene| {
        let (a, b) = two_nodes(scene)?;
        let wire = a.capture_wire()?;
        let plane = ControlPlane::start(&a, Kubelets::Real)?;
        let mut workers = Worker::start_both([&a, &b], &plane)?;
        for worker in &workers {
            agent_starts(worker)?;
        }
        let [_, worker] = &mut workers;
        let ca = Ca::create(scene.dir(), "ca", "example.org")?;
        let mut values = needs_agent();
        values["cni"] = json!({"enabled": true});
        let daemons = Installed::install(&plane, &ca, &a, &values)?;
        let stranger = set_up(&plane, &a, &b)?;
        for (client, server) in [("client-a", "web-b"), ("client-b", "web-a")] {
            wait_until_heard(&plane, client, server, 1)?;
        }
        let pods = ["shop/web-b", "shop/client-b", "other/local"];
        let pods = pods.map(|pod| pod.split_once('/').unwrap_or_default());
        let uids: Vec<String> = pods
            .map(|(namespace, pod)| uid(&plane, namespace, pod))
            .into_iter()
            .collect::<Result<_>>()?;

        let mut bridge = None;
        worker.reboot(|_| {
            bridge = Some(capture_pods(&b)?);
            Ok(())
        })?;
        for (_, pod) in pods {
            wait_for(
                Deadline::after(POD),
                || format!("the network plug-in to hold {pod} back"),
                || {
                    let said = worker.runtime_log()?;
                    let of_pod = said.lines().filter(|line| line.contains(pod));
                    let mut held = of_pod.filter(|line| line.contains(HELD_BACK));
                    Ok(held.next().map(drop))
                },
            )?;
        }
        for uid in &uids {
            let begun = worker.processes(uid, "sh");
            ensure(begun.is_empty(), || format!("{uid} has begun: {begun:?}"))?;
        }
        ensure(daemons.readiness(&b).is_err(), || "the daemon runs already")?;
        let before = heard(&plane, "client-a", "web-b")?;

        agent_starts(worker)?;
        for (namespace, pod) in pods {
            wait_until_restarted(&plane, namespace, pod)?;
        }
        wait_until_heard(&plane, "client-b", "web-a", 1)?;
        wait_until_heard(&plane, "client-a", "web-b", before + 1)?;
        plane.wait("shop", "pod/web-b", "Ready")?;
        for node in [&a, &b] {
            as_themselves(&daemons, node)?;
        }
        let heard = said(&plane, "client-b", "heard")?;
        ensure(!heard.contains("stranger"), || heard)?;
        wire.finish()?.ensure_only_tls()?;
        if let Some(report) = bridge.map(Capture::finish).transpose()? {
            report.ensure_absent(&PAYLOAD)?;
        }
        wait_for(
            Deadline::after(POD),
            || "who is not enrolled to be let begin, too",
            || {
                let answer = plane.ask("other", "local", &stranger);
                Ok(answer
                    .is_ok_and(|it| it == "payload of stranger")
                    .then_some(()))
            },
        )
    })
}

/// Values of a release whose daemons wait for that folder.
fn needs_agent() -> Value {
    let agent = json!({"name": "agent", "hostPath": {"path": AGENT, "type": "Directory"}});
    let mounted = json!({"name": "agent", "mountPath": AGENT, "readOnly": true});
    json!({"extraVolumes": [agent], "extraVolumeMounts": [mounted]})
}

fn uid(plane: &ControlPlane, namespace: &str, pod: &str) -> Result<String> {
    let pod = plane.get(&["pod", "-n", namespace, pod])?;
    let uid = pod["metadata"]["uid"].as_str().map(str::to_owned);
    uid.ok_or_else(|| Error::Unexpected(format!("no UID: {pod}")))
}

/// A server and a client on each node, and in a namespace without a label a
/// server on a, whose address this returns, and a client on b.
fn set_up(plane: &ControlPlane, a: &Node, b: &Node) -> Result<String> {
    namespace(plane, "shop", &json!({"mtls-daemon.io/mode": "strict"}))?;
    namespace(plane, "other", &json!({}))?;
    for (name, node, address) in [("web-a", a, "10.96.0.81"), ("web-b", b, "10.96.0.82")] {
        plane.apply(&server("shop", name, node))?;
        plane.apply(&json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name, "namespace": "shop"},
            "spec": {"clusterIP": address, "selector": {"app": name},
                     "ports": [{"port": 80, "targetPort": 8080}]},
        }))?;
    }
    plane.apply(&server("other", "stranger", a))?;
    plane.wait("other", "pod/stranger", "Ready")?;
    let stranger = url(&plane.address("other", "app=stranger", a)?);
    for (namespace, name, node, urls) in [
        ("shop", "client-a", a, NEAR.to_owned()),
        ("shop", "client-b", b, format!("{FAR} {stranger}")),
        ("other", "local", b, String::new()),
    ] {
        plane.apply(&client(namespace, name, node, &urls))?;
    }
    for pod in ["pod/web-a", "pod/web-b", "pod/client-a", "pod/client-b"] {
        plane.wait("shop", pod, "Ready")?;
    }
    plane.wait("other", "pod/local", "Ready")?;
    Ok(stranger)
}

fn server(namespace: &str, name: &str, node: &Node) -> Value {
    let serve = format!(
        "echo yes > /www/alive; echo payload of {name} > /www/payload; \
         exec httpd -f -p 8080 -h /www"
    );
    let mut pod = pod(namespace, name, node, &serve);
    pod["items"][1]["spec"]["containers"][0]["readinessProbe"] =
        json!({"httpGet": {"path": "/alive", "port": 8080}, "periodSeconds": 1});
    pod
}

/// Asks for as long as it runs, and keeps what it hears in its container.
fn client(namespace: &str, name: &str, node: &Node, urls: &str) -> Value {
    let ask = format!(
        ": > /tmp/heard; : > /tmp/tried; while true; do for url in {urls}; do \
         timeout 2 wget -qO- $url >> /tmp/heard; echo $url >> /tmp/tried; done; sleep 0.1; done"
    );
    pod(namespace, name, node, &ask)
}

fn pod(namespace: &str, name: &str, node: &Node, script: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "ServiceAccount",
         "metadata": {"name": name, "namespace": namespace}},
        {"apiVersion": "v1", "kind": "Pod",
         "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}},
         "spec": {
             "serviceAccountName": name, "nodeName": node.name(),
             "terminationGracePeriodSeconds": 0,
             "containers": [{
                 "name": "app", "image": "local.test/app:1", "command": ["sh", "-c", script],
             }],
         }},
    ]})
}

fn agent_starts(worker: &Worker) -> Result {
    let mkdir = worker.spawn("mkdir")?.arg(AGENT).output()?;
    mkdir.success().map(drop)
}

/// What pods send to one another across the bridge, too: the bridge itself
/// hears that once it listens to everything.
fn capture_pods(node: &Node) -> Result<Capture> {
    node.netns().ip("link set pods promisc on\n")?;
    Capture::start(node.netns(), "pods", &node.scene().logs().join("pods.pcap"))
}

/// The kubelet has made its containers anew, and told the API server where.
fn wait_until_restarted(plane: &ControlPlane, namespace: &str, pod: &str) -> Result {
    wait_for(
        Deadline::after(POD),
        || format!("{pod} to run again"),
        || {
            let pod = plane.get(&["pod", "-n", namespace, pod])?;
            let container = &pod["status"]["containerStatuses"][0];
            let again = container["restartCount"].as_u64() > Some(0);
            Ok((again && container["state"]["running"].is_object()).then_some(()))
        },
    )
}

/// One of the files that a client writes.
fn said(plane: &ControlPlane, client: &str, file: &str) -> Result<String> {
    let file = format!("/tmp/{file}");
    plane.kubectl(&["exec", "-n", "shop", client, "--", "cat", &file])
}

fn heard(plane: &ControlPlane, client: &str, server: &str) -> Result<usize> {
    let heard = said(plane, client, "heard")?;
    Ok(heard.matches(&format!("payload of {server}\n")).count())
}

fn wait_until_heard(plane: &ControlPlane, client: &str, server: &str, times: usize) -> Result {
    wait_for(
        Deadline::after(POD),
        || format!("{client} to hear from {server}"),
        || Ok((heard(plane, client, server)? >= times).then_some(())),
    )
}

/// Not by a network that is not there.
fn is_refused_at_once(plane: &ControlPlane, namespace: &str, from: &str, to: &str) -> Result {
    match plane.ask(namespace, from, to) {
        Err(Error::Command { output, .. }) if output.contains("Connection refused") => Ok(()),
        other => Err(Error::Unexpected(format!(
            "{from} should be refused at {to}: {other:?}"
        ))),
    }
}

/// Whoever was carried is who the access log says, on both ends.
fn as_themselves(daemons: &Installed<'_>, node: &Node) -> Result {
    let own = |name: String| format!("spiffe://example.org/ns/shop/sa/{name}");
    let (here, there) = match node.name() {
        "a" => ("a", "b"),
        _ => ("b", "a"),
    };
    let mut both = [false; 2];
    for line in daemons.access_log(node)? {
        if line["bytes_to_client"].as_u64() == Some(0) {
            continue;
        }
        let inbound = line["direction"] == "inbound";
        let (client, server) = if inbound {
            (there, here)
        } else {
            (here, there)
        };
        let right = line["source"] == own(format!("client-{client}"))
            && line["destination"] == own(format!("web-{server}"));
        ensure(right, || format!("on {}: {line}", node.name()))?;
        both[usize::from(inbound)] = true;
    }
    ensure_eq(both, [true; 2], "carried, outbound and inbound")
}

fn url(address: &str) -> String {
    format!("http://{address}:8080/payload")
}
