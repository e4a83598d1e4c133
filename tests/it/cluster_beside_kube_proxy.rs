//! A cluster whose nodes have a kube-proxy each, one by iptables and one by
//! nftables: it goes on serving whom nobody enrolled, and brings nobody past
//! strict, though its NAT makes strangers look like the node. What it would do for
//! a Service's clients the daemon does for the enrolled.

use std::collections::BTreeSet;
use std::time::Duration;

use mtls_tests::cluster::{
    ControlPlane, Installed, KubeProxy, Kubelets, Worker, manifest, namespace,
};
use mtls_tests::deadline::{Deadline, wait_for};
use mtls_tests::mesh::Ca;
use mtls_tests::{Family, Node, Result, ensure, ensure_eq, play, two_nodes};
use serde_json::{Value, json};

const SERVICE: &str = "http://10.96.0.80/";
const STICKY: &str = "http://10.96.0.81/";
const NEAR: &str = "http://10.96.0.82/";
const NEIGHBOUR: &str = "http://10.96.0.90/";
/// Ports of every node, into the strict Deployment and the neighbour.
const INTO_STRICT: u16 = 30080;
const INTO_NEIGHBOUR: u16 = 30090;
/// So long news may take on a busy machine.
const POD: Duration = Duration::from_secs(60);

#[test]
fn cluster_beside_kube_proxy() -> Result {
    play("cluster-beside-kube-proxy", |scene| {
        let (a, b) = two_nodes(scene)?;
        let wire = a.capture_wire()?;
        let plane = ControlPlane::start(&a, Kubelets::Real)?;
        let workers = Worker::start_both([&a, &b], &plane)?;
        let _proxies = [
            KubeProxy::start(&workers[0], &plane, "iptables")?,
            KubeProxy::start(&workers[1], &plane, "nftables")?,
        ];
        namespace(&plane, "other", &json!({}))?;
        for object in neighbour() {
            plane.apply(&object)?;
        }
        let ca = Ca::create(scene.dir(), "ca", "example.org")?;
        // The API server is where a pod looks for it: behind its Service.
        let daemons = Installed::install(&plane, &ca, &a, &json!({"apiServer": null}))?;
        plane.apply_file(&manifest("shop.yaml"))?;
        plane.apply(&json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "web-outside", "namespace": "shop"},
            "spec": {
                "type": "NodePort", "selector": {"app": "web"},
                "ports": [{"port": 80, "targetPort": 8080, "nodePort": INTO_STRICT}],
            },
        }))?;
        for (node, mode) in [(&a, "iptables"), (&b, "nftables")] {
            let said = daemons.check(node)?;
            ensure(
                said.contains(&format!("kube-proxy of this node runs in mode {mode}:")),
                || said.clone(),
            )?;
        }

        // What nobody enrolled notices nothing.
        plane.wait("other", "pod/stranger", "Ready")?;
        plane.wait("other", "pod/neighbour", "Ready")?;
        let ways = [
            NEIGHBOUR.to_owned(),
            port_of(&a, INTO_NEIGHBOUR),
            port_of(&b, INTO_NEIGHBOUR),
        ];
        for way in &ways {
            wait_for(
                Deadline::after(POD),
                || format!("kube-proxy to lead {way} to the neighbour"),
                || {
                    let said = plane.ask("other", "stranger", way);
                    Ok(said.is_ok_and(|said| said == "neighbour").then_some(()))
                },
            )?;
        }

        // The enrolled do without.
        for deployment in ["deployment/web", "deployment/client"] {
            plane.wait("shop", deployment, "Available")?;
        }
        everybody_answers(&plane, "shop", "deploy/client", SERVICE)?;
        a_client_keeps_to_one(&plane)?;
        traffic_stays_in_its_zone(&plane, [&a, &b])?;
        let strict = [
            SERVICE.to_owned(),
            port_of(&a, INTO_STRICT),
            port_of(&b, INTO_STRICT),
        ];
        for way in &strict {
            let before = refused(&daemons, [&a, &b])?;
            wait_for(
                Deadline::after(POD),
                || format!("both nodes to refuse a stranger by {way}"),
                || {
                    plane.refuses("other", "stranger", way)?;
                    let now = refused(&daemons, [&a, &b])?;
                    Ok((now[0] > before[0] && now[1] > before[1]).then_some(()))
                },
            )?;
        }
        // Nor does an enrolled client's own way through a node's port.
        plane.refuses("shop", "deploy/client", &strict[1])?;
        // What the neighbour says is seen, what the enrolled say is not.
        let wire = wire.finish()?;
        ensure_eq(
            wire.contains(&[b"neighbour", b"web on"])?,
            vec![true, false],
            "what is on the wire in clear",
        )?;

        // The same ways lead in where plain text is taken.
        let mode = json!({"mtls-daemon.io/mode": "permissive"});
        namespace(&plane, "shop", &mode)?;
        for way in &strict[1..] {
            everybody_answers(&plane, "other", "stranger", way)?;
        }
        Ok(())
    })
}

/// Whoever balances leads to either node in time.
fn everybody_answers(plane: &ControlPlane, namespace: &str, from: &str, way: &str) -> Result {
    let all = BTreeSet::from(["web on a".to_owned(), "web on b".to_owned()]);
    let mut heard = BTreeSet::new();
    wait_for(
        Deadline::after(POD),
        || format!("answers to {from} by {way} from both nodes"),
        || {
            heard.extend(plane.ask(namespace, from, way).ok());
            Ok((heard == all).then_some(()))
        },
    )
}

/// Where a Service wants that, until it goes.
fn a_client_keeps_to_one(plane: &ControlPlane) -> Result {
    plane.apply(&json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "web-sticky", "namespace": "shop"},
        "spec": {
            "clusterIP": "10.96.0.81", "selector": {"app": "web"},
            "sessionAffinity": "ClientIP", "ports": [{"port": 80, "targetPort": 8080}],
        },
    }))?;
    let ask = || plane.ask("shop", "deploy/client", STICKY);
    let kept = wait_for(
        Deadline::after(POD),
        || "the sticky Service to answer",
        || Ok(ask().ok()),
    )?;
    for _ in 0..8 {
        ensure_eq(ask()?, kept.clone(), "who answers once more")?;
    }
    // With its endpoint gone from the Service there is the other one.
    let node = kept.rsplit(' ').next().unwrap_or_default();
    let on = format!("--field-selector=spec.nodeName={node}");
    plane.kubectl(&["label", "pod", "-n", "shop", "-l", "app=web", &on, "app-"])?;
    wait_for(
        Deadline::after(POD),
        || format!("somebody else than {kept} to answer"),
        || Ok(ask().ok().filter(|said| *said != kept)),
    )
    .map(drop)
}

/// Where a Service wants that, from when the client's node has one.
fn traffic_stays_in_its_zone(plane: &ControlPlane, nodes: [&Node; 2]) -> Result {
    for node in nodes {
        let zone = format!("topology.kubernetes.io/zone=zone-{}", node.name());
        plane.kubectl(&["label", "node", node.name(), &zone])?;
    }
    everybody_answers(plane, "shop", "deploy/client", SERVICE)?;
    plane.apply(&json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "web-near", "namespace": "shop"},
        "spec": {
            "clusterIP": "10.96.0.82", "selector": {"app": "web"},
            "trafficDistribution": "PreferClose", "ports": [{"port": 80, "targetPort": 8080}],
        },
    }))?;
    let mut in_a_row = 0;
    wait_for(
        Deadline::after(POD),
        || "eight answers in a row from the client's own zone",
        || {
            let said = plane.ask("shop", "deploy/client", NEAR);
            in_a_row = match said.as_deref() {
                Ok("web on a") => in_a_row + 1,
                _ => 0,
            };
            Ok((in_a_row == 8).then_some(()))
        },
    )
}

/// Connections in clear that each node's daemon has turned away.
fn refused(daemons: &Installed<'_>, nodes: [&Node; 2]) -> Result<[u64; 2]> {
    let labels = [("hook", "sk_lookup"), ("outcome", "refused_plaintext")];
    let [a, b] = nodes.map(|node| {
        let metrics = daemons.metrics(node)?;
        Ok(metrics.count("mtls_hook_events_total", &labels))
    });
    Ok([a?, b?])
}

fn port_of(node: &Node, port: u16) -> String {
    format!("http://{}:{port}/", node.wire_address(Family::V4))
}

/// A server that no label enrols, on the other node than the stranger.
fn neighbour() -> [Value; 2] {
    let labels = json!({"app": "neighbour"});
    let serves = "echo neighbour > /www/index.html; exec httpd -f -p 8080 -h /www";
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "neighbour", "namespace": "other", "labels": labels},
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": "b"},
            "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "httpd", "image": "local.test/app:1", "command": ["sh", "-c", serves],
            }],
        },
    });
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "neighbour", "namespace": "other"},
        "spec": {
            "type": "NodePort", "clusterIP": "10.96.0.90", "selector": labels,
            "ports": [{"port": 80, "targetPort": 8080, "nodePort": INTO_NEIGHBOUR}],
        },
    });
    [pod, service]
}
