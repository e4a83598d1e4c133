//! Two nodes with real kubelets and containerd: what runs in a labelled
//! namespace speaks mutual TLS, whoever started it and however it ends,
//! through a Service that nobody else on the nodes carries. The daemon is
//! installed by its chart, with the network plug-in that holds pods back until
//! they are enrolled.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mtls_tests::cluster::{ControlPlane, Installed, Kubelets, Prometheus, Worker, manifest};
use mtls_tests::deadline::{Deadline, wait_for};
use mtls_tests::mesh::Ca;
use mtls_tests::{Error, Node, Result, ensure, ensure_eq, play, two_nodes};
use serde_json::{Value, json};

/// So long news may take on a busy machine.
const POD: Duration = Duration::from_secs(60);
const SERVICE: &str = "http://10.96.0.80/";

#[test]
fn cluster() -> Result {
    play("cluster", |scene| {
        let (a, b) = two_nodes(scene)?;
        // The kubelet of b and the API server on a speak TLS as well.
        let wire = a.capture_wire()?;
        let plane = ControlPlane::start(&a, Kubelets::Real)?;
        let mut workers = Worker::start_both([&a, &b], &plane)?;
        let ca = Ca::create(scene.dir(), "ca", "example.org")?;
        let plugin = json!({"cni": {"enabled": true}});
        let daemons = Installed::install(&plane, &ca, &a, &plugin)?;
        for worker in &workers {
            wait_for(
                Deadline::after(POD),
                || "the network plug-in to be in its place",
                || Ok((worker.network_plugins()? == ["bridge", "mtls-daemon"]).then_some(())),
            )?;
        }
        plane.apply_file(&manifest("shop.yaml"))?;
        for (what, condition) in [
            ("deployment/web", "Available"),
            ("deployment/client", "Available"),
            ("job/job", "Complete"),
            ("pod/restarted", "Ready"),
            // Its probes are gRPC's.
            ("pod/health", "Ready"),
        ] {
            plane.wait("shop", what, condition)?;
        }
        plane.wait("other", "pod/stranger", "Ready")?;

        // Through the Service, to both nodes, under the pods' own identities.
        let mut heard = BTreeSet::new();
        wait_for(
            Deadline::after(POD),
            || "answers from both nodes",
            || {
                heard.insert(plane.ask("shop", "deploy/client", SERVICE)?);
                Ok((heard.len() == 2).then_some(()))
            },
        )?;
        ensure_eq(
            heard,
            BTreeSet::from(["web on a".to_owned(), "web on b".to_owned()]),
            "who answers",
        )?;
        wait_for(
            Deadline::after(POD),
            || "the server's line in the access log",
            || {
                let lines = daemons.access_log(&b)?;
                Ok(lines
                    .iter()
                    .any(|line| {
                        line["direction"] == "inbound"
                            && line["source"] == "spiffe://example.org/ns/shop/sa/client"
                            && line["bytes_to_client"].as_u64() > Some(0)
                    })
                    .then_some(()))
            },
        )?;
        // The one that ended came back, and its pod's identity with it.
        let restarted = plane.get(&["pod", "-n", "shop", "restarted"])?;
        let restarts = &restarted["status"]["containerStatuses"][0]["restartCount"];
        ensure_eq(restarts.as_u64(), Some(1), "restarts")?;
        wait_for(
            Deadline::after(POD),
            || "the restarted container to have its answer",
            || {
                let log = plane.kubectl(&["logs", "-n", "shop", "restarted"])?;
                Ok(log.contains("web on").then_some(()))
            },
        )?;

        // Who asks with its first instruction, once, has its answer.
        plane.apply(&at_once())?;
        plane.wait("shop", "job/at-once", "Complete")?;

        // The daemon's account may do what it has to, and the source knows whom it
        // is asked for.
        let checked = daemons.check(&a)?;
        ensure(
            checked.contains("good: spiffe://example.org/ns/shop/sa/client, until"),
            || checked.clone(),
        )?;

        // Nobody comes in in clear, and nobody without an identity is reached.
        let web = url(&plane.address("shop", "app=web", &b)?);
        let stranger = url(&plane.address("other", "", &a)?);
        plane.refuses("other", "stranger", &web)?;
        plane.refuses("shop", "deploy/client", &stranger)?;
        // Nor in the words of a kubelet that asks a pod how it is.
        let health = plane.address("shop", "app=health", &b)?;
        ensure(
            is_healthy(&plane, "shop", "deploy/client", &health)?,
            || format!("{health} does not answer a client of its mesh"),
        )?;
        ensure(!is_healthy(&plane, "other", "stranger", &health)?, || {
            format!("{health} answers a stranger")
        })?;
        wire.finish()?.ensure_only_tls()?;
        handshakes_are_scraped(&plane, &daemons, [&a, &b])?;

        // The trust bundle is a ConfigMap's, and follows it.
        let other = Ca::create(scene.dir(), "other", "example.org")?;
        daemons.trust(&[&ca, &other])?;
        for node in [&a, &b] {
            wait_for(
                Deadline::after(POD),
                || "the second root",
                || {
                    let domain = [("trust_domain", "example.org")];
                    let metrics = daemons.metrics(node)?;
                    let roots = metrics.count("mtls_trust_bundle_roots", &domain);
                    Ok((roots == 2).then_some(()))
                },
            )?;
        }
        plane.ask("shop", "deploy/client", SERVICE)?;

        // The operator's own ways into a pod.
        let log = plane.kubectl(&["logs", "-n", "shop", "deploy/web"])?;
        ensure(log.contains("serving"), || format!("logs said {log}"))?;
        forwarded(&a, &plane)?;

        // Kubelets come and go; what runs goes on.
        for worker in &mut workers {
            worker.stop_kubelet()?;
            worker.start_kubelet()?;
        }
        wait_for(
            Deadline::after(POD),
            || "an answer after the kubelets' restart",
            || Ok(plane.ask("shop", "deploy/client", SERVICE).ok()),
        )?;

        pods_wait_for_a_daemon(&plane, &daemons)?;

        // Without daemons nobody gets in, but for the kubelets' probes.
        daemons.uninstall_without_hooks()?;
        for worker in &workers {
            ensure_eq(
                worker.network_plugins()?,
                vec!["bridge".to_owned()],
                "what an uninstalled daemon leaves behind",
            )?;
        }
        plane.refuses("other", "stranger", &web)?;
        plane.refuses("shop", "deploy/client", SERVICE)?;
        let before = probes(&plane)?;
        wait_for(
            Deadline::after(POD),
            || "a probe of each server, with no daemon",
            || {
                let now = probes(&plane)?;
                let more = before.iter().zip(&now).all(|(before, now)| now > before);
                Ok((now.len() == 2 && more).then_some(()))
            },
        )
    })
}

/// Prometheus finds both daemons, and what it has counted is what they have
/// written down, connection by connection.
fn handshakes_are_scraped(
    plane: &ControlPlane,
    daemons: &Installed<'_>,
    nodes: [&Node; 2],
) -> Result {
    let prometheus = Prometheus::start(plane)?;
    let by_node = |expression: &str| {
        let series = prometheus.ask(&format!("sum by (node) ({expression})"))?;
        let counted = series.into_iter().map(|(labels, value)| {
            let node = labels["node"].as_str().unwrap_or_default().to_owned();
            (node, value)
        });
        Ok::<_, Error>(counted.collect::<BTreeMap<String, f64>>())
    };
    wait_for(
        Deadline::after(POD),
        || "what is scraped to be what is logged",
        || {
            let mut seen = (0.0, 0.0);
            let made = by_node(r#"mtls_handshakes_total{direction="outbound",result="ok"}"#)?;
            let avoided = by_node("mtls_handshakes_avoided_total")?;
            for node in nodes {
                let log = daemons.access_log(node)?;
                let with = |tunnel: &str| {
                    let of_it = log
                        .iter()
                        .filter(|line| line["direction"] == "outbound" && line["tunnel"] == tunnel);
                    of_it.count() as f64
                };
                let logged = (with("new"), with("reused"));
                let counted = (made.get(node.name()), avoided.get(node.name()));
                if counted != (Some(&logged.0), Some(&logged.1)) {
                    return Ok(None);
                }
                seen = (seen.0 + logged.0, seen.1 + logged.1);
            }
            Ok((seen.0 > 0.0 && seen.1 > 0.0).then_some(()))
        },
    )?;
    wait_for(
        Deadline::after(POD),
        || "all alerts to be judged",
        || {
            let (judged, all) = prometheus.alerts()?;
            Ok((judged == all && all > 0).then_some(()))
        },
    )
}

/// Eight pods that ask the Service before anything else, and never again.
fn at_once() -> Value {
    json!({
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": {"name": "at-once", "namespace": "shop"},
        "spec": {
            "completions": 8, "parallelism": 8, "backoffLimit": 0,
            "template": {"spec": {
                "serviceAccountName": "client", "restartPolicy": "Never",
                "containers": [{
                    "name": "asks", "image": "local.test/app:1",
                    "command": ["wget", "-qO-", SERVICE],
                }],
            }},
        },
    })
}

/// While no daemon runs a pod begins only where its namespace never waits.
fn pods_wait_for_a_daemon(plane: &ControlPlane, daemons: &Installed<'_>) -> Result {
    daemons.run(false)?;
    for namespace in ["shop", "kube-system"] {
        plane.apply(&json!({
            "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": "late", "namespace": namespace},
        }))?;
        plane.apply(&json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "late", "namespace": namespace},
            "spec": {
                "serviceAccountName": "late", "terminationGracePeriodSeconds": 0,
                "containers": [{
                    "name": "shell", "image": "local.test/app:1", "command": ["sleep", "infinity"],
                }],
            },
        }))?;
    }
    plane.wait("kube-system", "pod/late", "Ready")?;
    wait_for(
        Deadline::after(POD),
        || "the pod's Event to say what it waits for",
        || {
            let about = "--field-selector=involvedObject.name=late,reason=FailedCreatePodSandBox";
            let events = plane.get(&["events", "-n", "shop", about])?;
            let mut events = events["items"].as_array().into_iter().flatten();
            let says = |event: &Value| {
                let message = event["message"].as_str().unwrap_or_default();
                message.contains("mtls-daemon does not answer on this node")
            };
            Ok(events.any(says).then_some(()))
        },
    )?;
    daemons.run(true)?;
    plane.wait("shop", "pod/late", "Ready")
}

/// What a pod's health service tells another pod; false, if that is refused.
fn is_healthy(plane: &ControlPlane, namespace: &str, from: &str, address: &str) -> Result<bool> {
    let ask = json!({"HealthAsk": {"to": format!("{address}:9000")}}).to_string();
    let words = [
        "exec",
        "-n",
        namespace,
        from,
        "--",
        "/bin/mtls-test-app",
        &ask,
    ];
    match plane.kubectl(&words) {
        Ok(said) => ensure_eq(said.trim(), "\"Healthy\"", "the health service").map(|()| true),
        Err(Error::Command { output, .. }) if output.contains("playing the task") => Ok(false),
        Err(error) => Err(error),
    }
}

/// How many answers each server has given by now.
fn probes(plane: &ControlPlane) -> Result<Vec<usize>> {
    let pods = plane.get(&["pods", "-n", "shop", "-l", "app=web"])?;
    let names = pods["items"].as_array().into_iter().flatten();
    names
        .filter_map(|pod| pod["metadata"]["name"].as_str())
        .map(|name| {
            let log = plane.kubectl(&["logs", "-n", "shop", name])?;
            Ok(log.matches("response:200").count())
        })
        .collect()
}

/// Port 8080 of a pod of the Deployment, through the API server.
fn forwarded(node: &Node, plane: &ControlPlane) -> Result {
    let mut forward = plane.start_kubectl(&[
        "port-forward",
        "--address=127.0.0.1",
        "-n",
        "shop",
        "deploy/web",
        "18080:8080",
    ])?;
    wait_for(
        Deadline::after(POD),
        || "port-forward to listen",
        || {
            forward.must_run()?;
            Ok(node.netns().listens(18080)?.then_some(()))
        },
    )?;
    let said = node
        .spawn("curl")?
        .args(["--silent", "--show-error", "http://127.0.0.1:18080/"])
        .output()?
        .success()?;
    ensure(said.starts_with("web on"), || {
        format!("port-forward gave {said}: {}", forward.log())
    })
}

fn url(address: &str) -> String {
    format!("http://{address}:8080/")
}
