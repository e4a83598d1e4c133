//! `--kubernetes`: a cluster of two nodes, the chart, a label, and what may be
//! seen of it.

use mtls_tests::cluster::{ControlPlane, Installed, Kubelets, Worker, manifest};
use mtls_tests::deadline::{Deadline, wait_for};
use mtls_tests::mesh::Ca;
use mtls_tests::{Error, Node, Result, Scene, two_nodes};
use serde_json::json;

use crate::screen::Screen;

const SHOP: &str = "shop";
const SERVICE: &str = "http://10.96.0.80/";

pub(crate) fn show(scene: &Scene, screen: &mut Screen) -> Result {
    let (a, b) = two_nodes(scene)?;
    // From the first connection between them on.
    let wire = a.capture_wire()?;
    screen.heading("A cluster: API server, etcd, controllers, scheduler, two kubelets, containerd");
    let plane = ControlPlane::start(&a, Kubelets::Real)?;
    let mut workers = [Worker::start(&a, &plane)?, Worker::start(&b, &plane)?];
    screen.fact("both nodes are ready", || {
        for worker in &mut workers {
            worker.wait_until_ready(&plane)?;
        }
        let version = plane.kubectl(&[
            "get",
            "node",
            "a",
            "-o",
            "jsonpath={.status.nodeInfo.kubeletVersion}",
        ])?;
        Ok(format!("Kubernetes {version}"))
    })?;
    let ca = Ca::create(scene.dir(), "ca", "example.org")?;
    let mut daemons = None;
    screen.fact("helm install deploy/chart", || {
        daemons = Some(Installed::install(&plane, &ca, &a, &json!({}))?);
        Ok("a daemon is ready on each".to_owned())
    })?;
    let Some(daemons) = daemons else {
        return Ok(());
    };

    screen.heading("A namespace with a label, two Deployments in it, a Service between them");
    plane.apply_file(&manifest("shop.yaml"))?;
    screen.fact("the pods run, init containers and Jobs too", || {
        for (what, condition) in [
            ("deployment/web", "Available"),
            ("deployment/client", "Available"),
            ("job/job", "Complete"),
        ] {
            plane.wait(SHOP, what, condition)?;
        }
        Ok("client -> Service web -> web on a and b".to_owned())
    })?;
    screen.fact("they talk, as their service accounts", || {
        identities(&plane, &daemons, &b)
    })?;
    screen.fact("between the nodes: nothing but TLS 1.3", || {
        let report = wire.finish()?;
        report.ensure_only_tls()?;
        Ok(format!("{} connections", report.connections.len()))
    })?;
    for node in [&a, &b] {
        screen.fact(
            &format!("what Prometheus scrapes of node {}", node.name()),
            || {
                let count = |result| {
                    let metrics = daemons.metrics(node)?;
                    Ok(metrics.count("mtls_handshakes_total", &[("result", result)]))
                };
                Ok(format!(
                    "{} handshakes, {} failed",
                    count("ok")?,
                    count("error")?
                ))
            },
        )?;
    }
    screen.fact("who has no label is refused", || {
        plane.wait("other", "pod/stranger", "Ready")?;
        let words = [
            "exec", "-n", "other", "stranger", "--", "timeout", "5", "wget", "-qO-",
        ];
        let web = plane.kubectl(&[
            "get",
            "pod",
            "-n",
            SHOP,
            "-l",
            "app=web",
            "-o",
            "jsonpath={.items[0].status.podIP}",
        ])?;
        let url = format!("http://{web}:8080/");
        match plane.kubectl(&[&words[..], &[&url]].concat()) {
            Err(Error::Command { .. }) => Ok("by the pod's own address".to_owned()),
            other => Err(Error::Unexpected(format!("it was let in: {other:?}"))),
        }
    })?;
    screen.done();
    Ok(())
}

/// Asks until a server of node b has answered, and reads there who came.
fn identities(plane: &ControlPlane, daemons: &Installed<'_>, b: &Node) -> Result<String> {
    let words = [
        "exec",
        "-n",
        SHOP,
        "deploy/client",
        "--",
        "timeout",
        "5",
        "wget",
        "-qO-",
        SERVICE,
    ];
    let line = wait_for(
        Deadline::default(),
        || "an answer from node b",
        || {
            plane.kubectl(&words)?;
            let lines = daemons.access_log(b)?;
            Ok(lines
                .into_iter()
                .find(|line| line["direction"] == "inbound"))
        },
    )?;
    let name = |key: &str| {
        let id = line[key].as_str().unwrap_or_default();
        id.trim_start_matches("spiffe://example.org").to_owned()
    };
    Ok(format!("{} -> {}", name("source"), name("destination")))
}
