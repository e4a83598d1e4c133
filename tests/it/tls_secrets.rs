//! Certificates that lie in Secrets beside the pods: read where a Role lets the
//! daemon, taken if they are the pod's own, followed as they change.

use std::path::Path;

use mtls_tests::cluster::{ControlPlane, Kubelets, Kubepod, StandIn, namespace, plan, tls_secret};
use mtls_tests::deadline::{Deadline, wait_for};
use mtls_tests::mesh::{Ca, Daemon, Leaf, workloads};
use mtls_tests::script::Step;
use mtls_tests::{Family, Mesh, Result, ensure, play, two_nodes};
use serde_json::{Value, json};

use crate::kubernetes::{account, answers, pod, refused, wait_for_mode};

const RBAC: &str = "templates/rbac.yaml";
const ACCOUNT: &str = "--as=system:serviceaccount:mtls-daemon:mtls-daemon";

#[test]
fn tls_secrets() -> Result {
    play("tls-secrets", |scene| {
        let (a, b) = two_nodes(scene)?;
        let plane = ControlPlane::start(&a, Kubelets::Played)?;
        for name in ["shop", "other"] {
            namespace(&plane, name, &json!({"mtls-daemon.io/mode": "strict"}))?;
        }
        for (namespace, name) in [("shop", "client"), ("shop", "server"), ("other", "server")] {
            account(&plane, namespace, name)?;
        }
        let ca = Ca::create(scene.dir(), "issuer", "example.org")?;
        let source = "identity.secrets";
        let plan = plan(&plane, &[&a, &b])?;
        let token = plane.kubectl(&["create", "token", "-n", "mtls-daemon", "mtls-daemon"])?;
        let login = plane.kubeconfig("secrets.kubeconfig", token.trim())?;
        let plan = plan
            .set(source, "namespaces", r#"["shop"]"#)
            .set(source, "bundle", &quoted(&ca.certificate))
            .set(source, "kubeconfig", &quoted(&login));
        let (on_a, on_b) = (
            StandIn::register(&a, &plane)?,
            StandIn::register(&b, &plane)?,
        );
        let mut mesh = Mesh::start_as(plan)?;
        let client = on_a.pod(&plane, &pod("shop", "client", "client"))?;
        let server = on_b.pod(&plane, &pod("shop", "server", "server"))?;
        let elsewhere = on_b.pod(&plane, &pod("other", "elsewhere", "server"))?;
        let _server = server.pod.serve(8080, [Step::Say("server".into())])?;
        for pod in [&client, &server, &elsewhere] {
            pod.report(&plane, true)?;
        }
        let to = server.pod.at(Family::V4, 8080);

        // One thing after another, each with its remedy, and nobody is let
        // through meanwhile.
        told(mesh.daemon(&a)?, &client, "list and watch Secrets in shop")?;
        let values = [r"config.identity.secrets.namespaces={shop}"];
        plane.apply_chart(RBAC, &values)?;
        ensure(may_list(&plane, "shop")?, || "a Role without rights")?;
        ensure(
            !may_list(&plane, "other")?,
            || "a Role beyond its namespace",
        )?;
        told(
            mesh.daemon(&a)?,
            &client,
            "there is no Secret shop/client-tls",
        )?;
        let add = "add it to `identity.secrets.namespaces`";
        told(mesh.daemon(&b)?, &elsewhere, add)?;
        let servers = ca.leaf("server", "spiffe://example.org/ns/shop/sa/server")?;
        put(&plane, "server-tls", &servers)?;
        wait_for_mode(mesh.daemon(&b)?, &server, "strict")?;
        refused(&client, to, "server")?;
        // Somebody else's, given away under this account's name.
        put(&plane, "client-tls", &servers)?;
        let given = "is for spiffe://example.org/ns/shop/sa/server";
        told(mesh.daemon(&a)?, &client, given)?;
        refused(&client, to, "server")?;
        let clients = ca.leaf("client", "spiffe://example.org/ns/shop/sa/client")?;
        put(&plane, "client-tls", &clients)?;
        wait_for_mode(mesh.daemon(&a)?, &client, "strict")?;
        answers(&client, to, "server")?;

        // Another takes its place, and whoever has it goes on when it is gone.
        let before = serial(mesh.daemon(&b)?, &server)?;
        let next = ca.leaf("next", "spiffe://example.org/ns/shop/sa/server")?;
        put(&plane, "server-tls", &next)?;
        wait_for(
            Deadline::default(),
            || "the next certificate",
            || Ok(Some(serial(mesh.daemon(&b)?, &server)?).filter(|now| *now != before)),
        )?;
        answers(&client, to, "server")?;
        plane.kubectl(&["delete", "secret", "-n", "shop", "client-tls"])?;
        told(
            mesh.daemon(&a)?,
            &client,
            "there is no Secret shop/client-tls",
        )?;
        answers(&client, to, "server")?;
        // But nobody gets it from then on.
        let late = on_a.pod(&plane, &pod("shop", "late", "client"))?;
        late.report(&plane, true)?;
        told(
            mesh.daemon(&a)?,
            &late,
            "there is no Secret shop/client-tls",
        )?;
        refused(&late, to, "server")?;
        mesh.wire()?.ensure_only_tls()
    })
}

fn put(plane: &ControlPlane, name: &str, leaf: &Leaf) -> Result {
    tls_secret(plane, ["shop", name], &leaf.certificate, &leaf.key)
}

/// What the daemon says of a pod's certificate.
fn told(daemon: &Daemon, pod: &Kubepod, why: &str) -> Result {
    wait_for(
        Deadline::default(),
        || format!("{why:?} to be said of {}", pod.name),
        || {
            let said = of(daemon, pod)?["renewal_error"].clone();
            Ok(said.as_str().filter(|said| said.contains(why)).map(drop))
        },
    )
}

fn serial(daemon: &Daemon, pod: &Kubepod) -> Result<String> {
    let shown = of(daemon, pod)?;
    let serial = shown["svid"]["serial"].as_str().map(str::to_owned);
    ensure(serial.is_some(), || format!("no certificate: {shown}"))?;
    Ok(serial.unwrap_or_default())
}

fn of(daemon: &Daemon, pod: &Kubepod) -> Result<Value> {
    let name = format!("{}/{}", pod.namespace, pod.name);
    let status = daemon.status()?;
    let found = workloads(&status).find(|workload| workload["name"] == *name);
    Ok(found.cloned().unwrap_or_default())
}

fn may_list(plane: &ControlPlane, namespace: &str) -> Result<bool> {
    let words = ["auth", "can-i", "list", "secrets", "-n", namespace, ACCOUNT];
    // Its answer is its exit code, too.
    Ok(plane.kubectl(&words).is_ok_and(|said| said.trim() == "yes"))
}

fn quoted(path: &Path) -> String {
    format!("{:?}", path.display().to_string())
}
