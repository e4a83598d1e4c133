//! Two nodes of a Kubernetes cluster: a namespace's label enrols its pods, a
//! Service's address leads to those that are ready, a pod is its service
//! account and nobody else, and what is known outlives the API server.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use mtls_tests::cluster::{ControlPlane, Kubelets, Kubepod, StandIn, namespace, plan, state};
use mtls_tests::deadline::{Deadline, wait_for};
use mtls_tests::mesh::{Daemon, workloads};
use mtls_tests::script::{Connect, Ended, Step};
use mtls_tests::{Doing, Error, Family, Mesh, Node, Result, ensure, ensure_eq, play, two_nodes};
use serde_json::{Value, json};

#[test]
fn kubernetes() -> Result {
    play("kubernetes", |scene| {
        let (a, b) = two_nodes(scene)?;
        let mut plane = ControlPlane::start(&a, Kubelets::Played)?;
        namespace(&plane, "shop", &json!({"mtls-daemon.io/mode": "strict"}))?;
        namespace(&plane, "other", &json!({}))?;
        for (namespace, name) in [("shop", "client"), ("shop", "web"), ("other", "web")] {
            account(&plane, namespace, name)?;
        }
        let vips = service(&plane)?;
        let (on_a, on_b) = (
            StandIn::register(&a, &plane)?,
            StandIn::register(&b, &plane)?,
        );
        let mut mesh = Mesh::start_as(plan(&plane, &[&a, &b])?)?;

        let client = on_a.pod(&plane, &pod("shop", "client", "client"))?;
        let one = on_b.pod(&plane, &pod("shop", "one", "web"))?;
        let two = on_b.pod(&plane, &pod("shop", "two", "web"))?;
        let stranger = on_a.pod(&plane, &pod("other", "stranger", "web"))?;
        let _stranger = stranger.pod.serve(8080, [Step::Say("stranger".into())])?;
        let _one = one.pod.serve(8080, [Step::Say("one".into())])?;
        let _two = two.pod.serve(8080, [Step::Say("two".into())])?;
        let expected = [
            (
                &a,
                &client,
                "spiffe://example.org/ns/shop/sa/client",
                "strict",
            ),
            (&b, &one, "spiffe://example.org/ns/shop/sa/web", "strict"),
            (&b, &two, "spiffe://example.org/ns/shop/sa/web", "strict"),
            (&a, &stranger, "spiffe://example.org/ns/other/sa/web", "off"),
        ];
        for (node, pod, identity, mode) in expected {
            let status = wait_for_mode(mesh.daemon(node)?, pod, mode)?;
            ensure_eq(status["identity"].as_str(), Some(identity), "identity")?;
        }

        // As long as nobody is ready, nobody answers.
        for pod in [&client, &one, &two, &stranger] {
            pod.report(&plane, false)?;
        }
        refused(&client, vips[0], "one")?;
        // Then whoever is, in both families, also by the pod's own address.
        one.report(&plane, true)?;
        for vip in vips {
            let ended = answers(&client, vip, "one")?;
            ensure_eq(ended.peer, Some(vip), "whom the client sees")?;
        }
        for family in Family::BOTH {
            answers(&client, one.pod.at(family, 8080), "one")?;
        }
        let line = mesh
            .daemon(&b)?
            .wait_for_access("of the server", |line| line["direction"] == "inbound")?;
        let source = line["source"].as_str();
        ensure_eq(
            source,
            Some("spiffe://example.org/ns/shop/sa/client"),
            "who came",
        )?;
        two.report(&plane, true)?;
        answers(&client, vips[0], "two")?;
        one.report(&plane, false)?;
        for _ in 0..5 {
            answers(&client, vips[0], "two")?;
        }

        // Nobody gets in in clear, and nobody without an identity is reached.
        refused(&stranger, one.pod.at(Family::V4, 8080), "one")?;
        refused(&client, stranger.pod.at(Family::V4, 8080), "stranger")?;

        // A pod that the cluster has deleted is nobody, whatever still runs.
        one.force_delete(&plane)?;
        let gone = one.pod.at(Family::V4, 8080);
        wait_for(
            Deadline::default(),
            || "the deleted pod to be unknown",
            || Ok((!one_connection(&client, gone, "one")?.is_well()).then_some(())),
        )?;

        // Without the API server what is known goes on.
        plane.stop_api_server()?;
        let new = b.pod("new")?;
        let _new = new.serve(8080, [Step::Say("new".into())])?;
        for _ in 0..3 {
            let ended = one_connection(&client, vips[0], "two")?;
            ensure(ended.is_well(), || {
                format!("without the API server: {ended:?}")
            })?;
        }
        refused(&client, new.at(Family::V4, 8080), "new")?;
        wait_for_trouble(mesh.daemon(&b)?, true)?;

        // A daemon that starts meanwhile and knows nothing refuses everything,
        // also what is not in the mesh's own networks by its file.
        let saved = state(&a).with_extension("aside");
        wait_until_saved(&a, &two)?;
        mesh.daemon(&a)?.kill()?;
        move_file(&state(&a), &saved)?;
        mesh.daemon(&a)?.launch()?;
        wait_until_serving(mesh.daemon(&a)?)?;
        refused(&client, vips[0], "two")?;
        refused(&client, stranger.pod.at(Family::V4, 8080), "stranger")?;
        // With what its predecessor saved it goes on.
        mesh.daemon(&a)?.kill()?;
        move_file(&saved, &state(&a))?;
        mesh.daemon(&a)?.start()?;
        answers(&client, vips[0], "two")?;
        refused(&client, new.at(Family::V4, 8080), "new")?;

        plane.start_api_server()?;
        wait_for_trouble(mesh.daemon(&b)?, false)?;
        answers(&client, vips[0], "two")?;
        mesh.wire()?.ensure_only_tls()?;

        // A permissive pod reaches those of whom the labels say that they have no
        // daemon, on either node; the others as ever.
        wait_for_trouble(mesh.daemon(&a)?, false)?;
        let elsewhere = on_b.pod(&plane, &pod("other", "elsewhere", "web"))?;
        let _elsewhere = elsewhere.pod.serve(8080, [Step::Say("elsewhere".into())])?;
        elsewhere.report(&plane, true)?;
        wait_for_mode(mesh.daemon(&b)?, &elsewhere, "off")?;
        refused(&client, elsewhere.pod.at(Family::V4, 8080), "elsewhere")?;
        mesh.daemon(&a)?
            .wait_for_access("whom a strict pod does not call", |line| {
                line["reason"] == "not_enrolled"
            })?;
        namespace(
            &plane,
            "shop",
            &json!({"mtls-daemon.io/mode": "permissive"}),
        )?;
        wait_for_mode(mesh.daemon(&a)?, &client, "permissive")?;
        for family in Family::BOTH {
            answers(&client, elsewhere.pod.at(family, 8080), "elsewhere")?;
            answers(&client, stranger.pod.at(family, 8080), "stranger")?;
        }
        mesh.daemon(&a)?.wait_for_metrics(
            "whom the permissive pod called in clear",
            |metrics| {
                let labels = [("direction", "outbound"), ("reason", "not_enrolled")];
                metrics.count("mtls_plaintext_connections_total", &labels) >= 4
            },
        )?;
        answers(&client, vips[0], "two")?;

        // Who is not labelled, or not any more, is left alone.
        namespace(&plane, "shop", &json!({"mtls-daemon.io/mode": "off"}))?;
        wait_for_mode(mesh.daemon(&a)?, &client, "off")?;
        wait_for_mode(mesh.daemon(&b)?, &two, "off")?;
        answers(&client, two.pod.at(Family::V4, 8080), "two")?;
        answers(&stranger, two.pod.at(Family::V6, 8080), "two")?;

        // Whoever is enrolled while he talks in clear loses that connection,
        // and hears why.
        let _patient = two
            .pod
            .serve(9090, [Step::Say("hello".into()), Step::ExpectEnd])?;
        let script = [Step::Hear("hello".into()), Step::Hold, Step::ExpectEnd];
        let mut open = client
            .pod
            .connect_as(Connect::to(two.pod.at(Family::V4, 9090), script))?;
        ensure_eq(open.held()?, 1, "connections in clear")?;
        namespace(&plane, "shop", &json!({"mtls-daemon.io/mode": "strict"}))?;
        wait_for_event(&plane, "ConnectionsCut", &["client", "two"])?;
        open.go()?;
        let ended = open.ended()?;
        ensure(
            ["ECONNABORTED", "ECONNRESET"].contains(&ended.error()),
            || format!("from before the enrolment: {ended:?}"),
        )?;
        let mut cut = 0;
        for daemon in mesh.daemons() {
            let ended = [("result", "ok")];
            cut += daemon
                .metrics()?
                .count("mtls_earlier_connections_total", &ended);
        }
        ensure(cut > 0, || "nothing was counted")
    })
}

pub(crate) fn account(plane: &ControlPlane, namespace: &str, name: &str) -> Result {
    plane.apply(&json!({
        "apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"namespace": namespace, "name": name},
    }))
}

/// `web` in front of the pods of that account; its addresses.
fn service(plane: &ControlPlane) -> Result<[SocketAddr; 2]> {
    plane.apply(&json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {
            "selector": {"app": "web"}, "ipFamilyPolicy": "RequireDualStack",
            "ports": [{"name": "http", "port": 80, "targetPort": 8080}],
        },
    }))?;
    let made = plane.get(&["service", "-n", "shop", "web"])?;
    let address = |n: usize| {
        let ip = made["spec"]["clusterIPs"][n]
            .as_str()
            .unwrap_or_default()
            .parse();
        ip.map(|ip| SocketAddr::new(ip, 80)).map_err(|error| {
            Error::Unexpected(format!("a Service without addresses: {error}: {made}"))
        })
    };
    Ok([address(0)?, address(1)?])
}

pub(crate) fn pod(namespace: &str, name: &str, account: &str) -> Value {
    json!({
        "metadata": {"namespace": namespace, "name": name, "labels": {"app": account}},
        "spec": {"serviceAccountName": account},
    })
}

/// That somebody is known to be there, as whom.
pub(crate) fn wait_until_saved(node: &Node, peer: &Kubepod) -> Result {
    let known = format!("\"{}\":{{\"Workload\"", peer.pod.address(Family::V4));
    wait_for(
        Deadline::default(),
        || format!("{known} to be saved"),
        || {
            let saved = fs::read_to_string(state(node)).unwrap_or_default();
            Ok(saved.contains(&known).then_some(()))
        },
    )
}

/// With its hooks in order, whatever it knows.
fn wait_until_serving(daemon: &Daemon) -> Result {
    wait_for(
        Deadline::default(),
        || "the daemon to serve",
        || {
            let status = daemon.status().unwrap_or_default();
            Ok((status["status"]["phase"] == "serving").then_some(()))
        },
    )
}

fn move_file(from: &Path, to: &Path) -> Result {
    fs::rename(from, to).doing(|| format!("moving {}", from.display()))
}

pub(crate) fn one_connection(from: &Kubepod, to: SocketAddr, who: &str) -> Result<Ended> {
    from.pod.connect(to, [Step::Hear(who.into())])
}

/// Sooner or later: news take their time.
pub(crate) fn answers(from: &Kubepod, to: SocketAddr, who: &str) -> Result<Ended> {
    wait_for(
        Deadline::default(),
        || format!("{who} to answer at {to}"),
        || Ok(Some(one_connection(from, to, who)?).filter(Ended::is_well)),
    )
}

pub(crate) fn refused(from: &Kubepod, to: SocketAddr, who: &str) -> Result {
    let ended = one_connection(from, to, who)?;
    ensure(!ended.is_well() && ended.received == 0, || {
        format!("{to} should refuse: {ended:?}")
    })
}

pub(crate) fn wait_for_mode(daemon: &Daemon, pod: &Kubepod, mode: &str) -> Result<Value> {
    let name = format!("{}/{}", pod.namespace, pod.name);
    wait_for(
        Deadline::default(),
        || format!("{name} to be {mode}"),
        || {
            let status = daemon.status()?;
            let found = workloads(&status).find(|workload| {
                workload["name"] == *name
                    && workload["mode"] == mode
                    && workload["state"] == "ready"
            });
            Ok(found.cloned())
        },
    )
}

/// On one of the pods.
pub(crate) fn wait_for_event(plane: &ControlPlane, reason: &str, pods: &[&str]) -> Result {
    wait_for(
        Deadline::default(),
        || format!("an Event {reason} on {pods:?}"),
        || {
            let events = plane.get(&["events.events.k8s.io", "-n", "shop"])?;
            let mut events = events["items"].as_array().into_iter().flatten();
            let found = events.any(|event| {
                let name = event["regarding"]["name"].as_str().unwrap_or_default();
                event["reason"] == reason && pods.contains(&name)
            });
            Ok(found.then_some(()))
        },
    )
}

fn wait_for_trouble(daemon: &Daemon, trouble: bool) -> Result {
    // It waits longer before each attempt, up to half a minute.
    wait_for(
        Deadline::after(Duration::from_secs(120)),
        || format!("trouble with the API server: {trouble}"),
        || {
            let status = daemon.status()?;
            Ok((status["status"]["cluster"]["error"].is_string() == trouble).then_some(()))
        },
    )
}
