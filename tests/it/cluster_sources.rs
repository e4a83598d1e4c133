//! A cluster whose certificates come from Secrets, then from cert-manager, then
//! from SPIRE, all below one root: an upgrade of the release each time, of which
//! the workloads notice nothing but that a daemon is replaced.

use std::time::Duration;

use mtls_tests::authorities::{Agent, Entry, Spire};
use mtls_tests::cluster::{
    Approver, CertManager, ControlPlane, Installed, Kubelets, Worker, manifest, namespace,
    tls_secret,
};
use mtls_tests::deadline::{Deadline, wait_for};
use mtls_tests::mesh::Ca;
use mtls_tests::{Node, Result, ensure, ensure_eq, play, two_nodes};
use serde_json::{Value, json};

const SERVICE: &str = "http://10.96.0.80/";
/// So long news may take on a busy machine.
const POD: Duration = Duration::from_secs(60);
const ACCOUNTS: [&str; 2] = ["client", "web"];

#[test]
fn cluster_sources() -> Result {
    play("cluster-sources", |scene| {
        let (a, b) = two_nodes(scene)?;
        let wire = a.capture_wire()?;
        let plane = ControlPlane::start(&a, Kubelets::Real)?;
        let workers = Worker::start_both([&a, &b], &plane)?;
        let ca = Ca::create(scene.dir(), "ca", "example.org")?;
        // The daemon is let read Secrets in a namespace that is there.
        namespace(&plane, "shop", &json!({}))?;
        for account in ACCOUNTS {
            let leaf = ca.leaf(account, &identity(account))?;
            let name = format!("{account}-tls");
            tls_secret(&plane, ["shop", &name], &leaf.certificate, &leaf.key)?;
        }
        let bundle = "/trust/trust-bundle.pem";
        let secrets = json!({"namespaces": ["shop"], "bundle": bundle});
        let identity = json!({"config": {"identity": {"disk-ca": null, "secrets": secrets}}});
        let daemons = Installed::install(&plane, &ca, &a, &identity)?;
        plane.apply_file(&manifest("shop.yaml"))?;
        for deployment in ["deployment/web", "deployment/client"] {
            plane.wait("shop", deployment, "Available")?;
        }
        let before = workloads(&plane)?;
        the_chart_mounts_a_bpffs(&plane, &workers[1])?;
        identities_come_from("secrets", &daemons, &plane, [&a, &b])?;

        CertManager::define(&plane)?;
        CertManager::issuer(&plane, "shop")?;
        CertManager::give_key(&plane, "shop", &ca)?;
        let _controllers = CertManager::start(&plane, Approver::Own)?;
        let manager = json!({"issuer": "mesh", "bundle": bundle});
        let identity = json!({"secrets": null, "cert-manager": manager});
        daemons.upgrade(&json!({"config": {"identity": identity}}))?;
        identities_come_from("cert-manager", &daemons, &plane, [&a, &b])?;

        let spire = Spire::start_below(&a, &ca)?;
        let _agents = [agent(&spire, &workers[0])?, agent(&spire, &workers[1])?];
        let socket = json!({"socket": "/run/spire/agent.sock"});
        let folder = json!({"path": "/run/spire", "type": "Directory"});
        daemons.upgrade(&json!({
            "config": {"identity": {"cert-manager": null, "spire": socket}},
            "extraVolumes": [{"name": "spire", "hostPath": folder}],
            "extraVolumeMounts": [
                {"name": "spire", "mountPath": "/run/spire", "readOnly": true},
            ],
        }))?;
        identities_come_from("spire", &daemons, &plane, [&a, &b])?;

        ensure_eq(workloads(&plane)?, before, "the pods, with their restarts")?;
        wire.finish()?.ensure_only_tls()
    })
}

/// On both nodes, and peers accept them.
fn identities_come_from(
    source: &str,
    daemons: &Installed<'_>,
    plane: &ControlPlane,
    [a, b]: [&Node; 2],
) -> Result {
    wait_for(
        Deadline::after(POD),
        || format!("an answer across the nodes with certificates from {source}"),
        || {
            let said = plane.ask("shop", "deploy/client", SERVICE);
            Ok(said.is_ok_and(|said| said == "web on b").then_some(()))
        },
    )?;
    for node in [a, b] {
        let shown = daemons.ask(node, "certificates")?;
        let all = shown["certificates"].as_array();
        let all: Vec<&Value> = all.into_iter().flatten().collect();
        let is_so = |one: &&Value| one["source"] == source && one["svid"]["serial"].is_string();
        ensure(!all.is_empty() && all.iter().all(is_so), || {
            format!("not from {source} on {}: {shown}", node.name())
        })?;
    }
    let lines = daemons.access_log(b)?;
    let is_it = |line: &Value| {
        line["direction"] == "inbound" && line["source"] == identity("client").as_str()
    };
    ensure(lines.iter().any(is_it), || {
        format!("the client's identity from {source} is not among {lines:?}")
    })?;
    let checked = daemons.check(a)?;
    ensure(
        checked.contains(&format!("good: {}, until", identity("client"))),
        || checked.clone(),
    )
}

/// By its own container, in a folder of a node that has none: it reaches the
/// node, and stays there when the container is gone.
fn the_chart_mounts_a_bpffs(plane: &ControlPlane, worker: &Worker) -> Result {
    let set = plane.get(&["daemonset", "-n", "mtls-daemon", "mtls-daemon"])?;
    let spec = &set["spec"]["template"]["spec"];
    let mounts = spec["initContainers"].as_array().into_iter().flatten();
    let mut mounts = mounts.filter(|it| it["name"] == "mount-bpffs");
    let container = mounts.next().cloned().unwrap_or_default();
    let folder = "/run/no-bpffs";
    worker.spawn("mkdir")?.arg(folder).output()?.success()?;
    let name = "mounts";
    plane.apply(&json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "mtls-daemon"},
        "spec": {
            "nodeName": worker.node().name(), "restartPolicy": "Never", "hostNetwork": true,
            "containers": [container],
            "volumes": [{"name": "bpffs", "hostPath": {"path": folder, "type": "Directory"}}],
        },
    }))?;
    let pod = format!("pod/{name}");
    let ended = "--for=jsonpath={.status.phase}=Succeeded";
    plane.kubectl(&["wait", "-n", "mtls-daemon", &pod, ended, "--timeout=60s"])?;
    let said = plane.kubectl(&["logs", "-n", "mtls-daemon", name])?;
    ensure_eq(
        said.trim(),
        "mounted a bpffs at /sys/fs/bpf",
        "what it says",
    )?;
    plane.kubectl(&["delete", "-n", "mtls-daemon", &pod])?;
    let stat = worker.spawn("stat")?.args(["-f", "-c", "%T", folder]);
    let kind = stat.output()?.success()?;
    ensure_eq(kind.trim(), "bpf_fs", "what the node has there")
}

/// Of a node, where its daemon looks for one; with entries as the SPIRE
/// controller manager writes them.
fn agent(spire: &Spire, worker: &Worker) -> Result<Agent> {
    let folder = worker.run_folder().join("spire");
    let mut agent = spire.agent_for(worker.node().name(), &folder)?;
    for account in ACCOUNTS {
        let entry = Entry {
            id: &identity(account),
            selectors: &["k8s:ns:shop", &format!("k8s:sa:{account}")],
            ttl: 3600,
            federates_with: None,
        };
        spire.register(&agent, &entry)?;
    }
    agent.start()?;
    Ok(agent)
}

fn identity(account: &str) -> String {
    format!("spiffe://example.org/ns/shop/sa/{account}")
}

/// The pods of the Deployments, each with its containers' restarts.
fn workloads(plane: &ControlPlane) -> Result<Vec<Value>> {
    let pods = plane.get(&["pods", "-n", "shop", "-l", "app in (web, client)"])?;
    let pods = pods["items"].as_array().into_iter().flatten();
    let restarts = |pod: &Value| pod["status"]["containerStatuses"][0]["restartCount"].clone();
    Ok(pods
        .map(|pod| json!([pod["metadata"]["uid"], restarts(pod)]))
        .collect())
}
