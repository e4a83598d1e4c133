//! What a cluster is made of besides workloads: its API server behind a
//! Service, and pods that share their node's network. Enrolled clients reach
//! them without a tunnel, where the node lets them; whatever is not known to be
//! outside is refused.

use std::net::IpAddr;
use std::path::Path;

use mtls_tests::cluster::{ControlPlane, Kubelets, Kubepod, StandIn, namespace, plan};
use mtls_tests::deadline::{Deadline, wait_for};
use mtls_tests::mesh::{Daemon, workloads};
use mtls_tests::process::Output;
use mtls_tests::{Error, Family, Mesh, Result, ensure, ensure_eq, play, programs, two_nodes};
use serde_json::json;

use crate::kubernetes::{account, pod, wait_for_event, wait_for_mode};

#[test]
fn kubernetes_outside() -> Result {
    play("kubernetes-outside", |scene| {
        let (a, _b) = two_nodes(scene)?;
        let plane = ControlPlane::start(&a, Kubelets::Played)?;
        namespace(&plane, "shop", &json!({"mtls-daemon.io/mode": "strict"}))?;
        for name in ["client", "api-server"] {
            account(&plane, "shop", name)?;
        }
        let on_a = StandIn::register(&a, &plane)?;
        let mut mesh = Mesh::start_as(plan(&plane, &[&a])?)?;
        let client = on_a.pod(&plane, &pod("shop", "client", "client"))?;
        client.report(&plane, true)?;
        wait_for_mode(mesh.daemon(&a)?, &client, "strict")?;

        let token = plane.kubectl(&["create", "token", "-n", "shop", "client"])?;
        let login = plane.kubeconfig("client.kubeconfig", token.trim())?;

        // The API server's own Service, whose endpoint is no pod.
        let own = address(&plane, "default", "kubernetes")?;
        asks(&client, &login, own)?;
        let line = mesh
            .daemon(&a)?
            .wait_for_access("to the API server", |line| {
                line["original_dst"] == format!("{own}:443")
            })?;
        ensure_eq(line["tunnel"].as_str(), Some("none"), "how it went")?;
        let server = format!("{}:6443", a.wire_address(Family::V4));
        ensure_eq(line["peer"].as_str(), Some(&*server), "where it went")?;
        let in_clear = |mesh: &mut Mesh| {
            let labels = [("direction", "outbound"), ("reason", "outside")];
            let metrics = mesh.daemon(&a)?.metrics()?;
            Ok::<_, Error>(metrics.count("mtls_plaintext_connections_total", &labels))
        };
        let before = in_clear(&mut mesh)?;
        ensure(before > 0, || "not counted")?;

        // A pod in its node's network: the API server once more, as kubeadm runs it.
        let host = on_a.host_network_pod(&plane, &pod("shop", "api-server", "api-server"))?;
        plane.apply(&json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "api-server", "namespace": "shop"},
            "spec": {"selector": {"app": "api-server"}, "ports": [{"port": 443, "targetPort": 6443}]},
        }))?;
        host.report(&plane, &a)?;
        asks(&client, &login, address(&plane, "shop", "api-server")?)?;
        ensure(in_clear(&mut mesh)? > before, || "not counted")?;

        // It cannot be enrolled, and whoever labelled it hears of that; the
        // node is ready all the same.
        wait_for_event(&plane, "NotEnrolled", &["api-server"])?;
        let status = mesh.daemon(&a)?.status()?;
        let shown = workloads(&status).find(|it| it["name"] == "shop/api-server");
        let shown = shown.ok_or_else(|| Error::Unexpected(format!("it is not in {status}")))?;
        ensure_eq(shown["state"].as_str(), Some("not_enrolled"), "its state")?;
        ensure_eq(shown["reason"].as_str(), Some("cannot_enrol"), "why")?;
        ensure_eq(mesh.daemon(&a)?.get("/readyz")?.0, 200, "the node is ready")?;

        // An address of the mesh at which nobody is known stays that.
        let nobody = a.outsider("nobody")?;
        plane.apply(&json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "nobody", "namespace": "shop"}, "spec": {"ports": [{"port": 443}]},
        }))?;
        plane.apply(&json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {
                "name": "nobody", "namespace": "shop",
                "labels": {"kubernetes.io/service-name": "nobody"},
            },
            "ports": [{"port": 443}],
            "endpoints": [{"addresses": [nobody.address(Family::V4)]}],
        }))?;
        let unknown = address(&plane, "shop", "nobody")?;
        refused(
            mesh.daemon(&a)?,
            &client,
            &login,
            unknown,
            "unknown_destination",
        )?;

        // Where the node lets nothing go outside, that does not either.
        mesh.replan(|plan| plan.set("node", "outside", "\"refuse\""))?;
        mesh.daemon(&a)?.reload()?;
        refused(mesh.daemon(&a)?, &client, &login, own, "outside_refused")
    })
}

fn address(plane: &ControlPlane, namespace: &str, service: &str) -> Result<IpAddr> {
    let made = plane.get(&["service", "-n", namespace, service])?;
    let address = made["spec"]["clusterIP"].as_str().unwrap_or_default();
    let parsed = address.parse();
    parsed.map_err(|error| Error::Unexpected(format!("{service} at {address:?}: {error}")))
}

/// kubectl, as a program of the pod.
fn ask(client: &Kubepod, login: &Path, at: IpAddr) -> Result<Output> {
    let kubectl = programs::kubernetes("kubectl")?;
    client.pod.run(
        &kubectl.to_string_lossy(),
        [
            format!("--kubeconfig={}", login.display()),
            format!("--server=https://{at}:443"),
            "--tls-server-name=kubernetes.default".into(),
            "--request-timeout=10s".into(),
            "get".into(),
            "--raw=/version".into(),
        ],
    )
}

/// Sooner or later: news take their time.
fn asks(client: &Kubepod, login: &Path, at: IpAddr) -> Result {
    wait_for(
        Deadline::default(),
        || format!("the API server to answer at {at}"),
        || {
            let said = ask(client, login, at)?;
            Ok(said.stdout.contains("gitVersion").then_some(()))
        },
    )
}

fn refused(daemon: &Daemon, client: &Kubepod, login: &Path, at: IpAddr, reason: &str) -> Result {
    wait_for(
        Deadline::default(),
        || format!("{at} to be refused with {reason}"),
        || {
            ensure(!ask(client, login, at)?.status.success(), || {
                format!("{at} answered")
            })?;
            let line = daemon.access_log().into_iter().rev().find(|line| {
                line["original_dst"] == format!("{at}:443") && line["reason"] == reason
            });
            Ok(line.map(drop))
        },
    )
}
