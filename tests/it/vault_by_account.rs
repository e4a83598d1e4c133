//! A real OpenBao that knows the daemons by their service account: it has a
//! real API server judge the tokens that they show.

use std::fs;
use std::path::Path;

use mtls_tests::authorities::{Api, OpenBao};
use mtls_tests::cluster::{ControlPlane, Kubelets, StandIn, namespace, plan};
use mtls_tests::mesh::{Daemon, Position};
use mtls_tests::script::Step;
use mtls_tests::{Doing, Family, Mesh, Result, ensure, play, two_nodes};
use serde_json::{Value, json};

use crate::kubernetes::{account, answers, pod, wait_for_mode};

const AUDIENCE: &str = "vault";

#[test]
fn vault_by_account() -> Result {
    play("vault-by-account", |scene| {
        let (a, b) = two_nodes(scene)?;
        let plane = ControlPlane::start(&a, Kubelets::Played)?;
        for name in ["shop", "vault"] {
            namespace(&plane, name, &json!({"mtls-daemon.io/mode": "strict"}))?;
        }
        for (namespace, name) in [("shop", "client"), ("shop", "server"), ("vault", "judge")] {
            account(&plane, namespace, name)?;
        }
        let vault = OpenBao::start(&a)?;
        let api = vault.api();
        let roots = api.make_pki()?;
        api.make_role("workloads", "example.org")?;
        let token = scene.dir().join("token");
        let section = "identity.vault";
        let plan = plan(&plane, &[&a, &b])?
            .set(section, "address", &format!("{:?}", vault.url()))
            .set(section, "server_ca", &path(vault.server_ca()))
            .set(section, "bundle", &path(&roots))
            .set(section, "role", "\"workloads\"")
            .set(section, "svid_ttl", "\"20s\"")
            .set(section, "auth_role", "\"daemons\"")
            .set(section, "account_token_file", &path(&token));
        let mut mesh = Mesh::prepare(plan, Position::default())?;
        let (on_a, on_b) = (
            StandIn::register(&a, &plane)?,
            StandIn::register(&b, &plane)?,
        );
        let client = on_a.pod(&plane, &pod("shop", "client", "client"))?;
        let server = on_b.pod(&plane, &pod("shop", "server", "server"))?;
        let _server = server.pod.serve(8080, [Step::Say("server".into())])?;
        for pod in [&client, &server] {
            pod.report(&plane, true)?;
        }

        // One thing after another, each told with its remedy.
        let daemon = mesh.daemon(&a)?;
        told(daemon, "No such file")?;
        make_token(&plane, &token, AUDIENCE)?;
        told(daemon, "nothing is at auth/kubernetes")?;
        let method = json!({"type": "kubernetes"});
        api.post("sys/auth/kubernetes", &method)?;
        know_cluster(&api, &plane, "not a token")?;
        told(daemon, "there is no role daemons at auth/kubernetes")?;
        let_in(&api, "somebody")?;
        told(daemon, "the role daemons is not for the daemon's account")?;
        let_in(&api, "mtls-daemon")?;
        told(daemon, "the right to make TokenReviews")?;
        let judge = plane.kubectl(&["create", "token", "-n", "vault", "judge"])?;
        know_cluster(&api, &plane, judge.trim())?;
        told(daemon, "the right to make TokenReviews")?;
        plane.apply(&delegator())?;
        make_token(&plane, &token, "somebody-else")?;
        told(daemon, "compare its `audience` with the role's")?;
        make_token(&plane, &token, AUDIENCE)?;
        let said = check(daemon)?;
        ensure(
            said.contains("good: spiffe://example.org/ns/shop/sa/client, until"),
            || said.clone(),
        )?;

        mesh.start_all()?;
        for (node, pod) in [(&a, &client), (&b, &server)] {
            wait_for_mode(mesh.daemon(node)?, pod, "strict")?;
        }
        let to = server.pod.at(Family::V4, 8080);
        answers(&client, to, "server")?;
        // Past the end of both first logins.
        for daemon in mesh.daemons() {
            daemon.wait_for_metrics("renewals", |metrics| {
                metrics.count("mtls_certificate_renewals_total", &[("result", "ok")]) > 2
            })?;
        }
        answers(&client, to, "server")?;
        mesh.wire()?.ensure_only_tls()
    })
}

/// The daemons' account's, as a kubelet writes it.
fn make_token(plane: &ControlPlane, file: &Path, audience: &str) -> Result {
    let audience = format!("--audience={audience}");
    let words = [
        "create",
        "token",
        "-n",
        "mtls-daemon",
        "mtls-daemon",
        &audience,
    ];
    let token = plane.kubectl(&words)?;
    fs::write(file, token).doing(|| format!("writing {}", file.display()))
}

/// Where it has tokens judged, and by what right.
fn know_cluster(api: &Api<'_>, plane: &ControlPlane, judge: &str) -> Result {
    let roots = plane.get(&["configmap", "-n", "vault", "kube-root-ca.crt"])?;
    let config = json!({
        "kubernetes_host": plane.server(), "token_reviewer_jwt": judge,
        "kubernetes_ca_cert": roots["data"]["ca.crt"],
    });
    api.post("auth/kubernetes/config", &config).map(drop)
}

/// One account of the daemons' namespace, with a login that ends soon.
fn let_in(api: &Api<'_>, account: &str) -> Result {
    let role = json!({
        "bound_service_account_names": account,
        "bound_service_account_namespaces": "mtls-daemon",
        "audience": AUDIENCE, "token_policies": "workloads",
        "token_ttl": "6s", "token_max_ttl": "9s",
    });
    api.post("auth/kubernetes/role/daemons", &role).map(drop)
}

fn delegator() -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": "judge"},
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
            "name": "system:auth-delegator",
        },
        "subjects": [{"kind": "ServiceAccount", "name": "judge", "namespace": "vault"}],
    })
}

fn told(daemon: &Daemon, remedy: &str) -> Result {
    let said = check(daemon)?;
    ensure(said.contains(remedy), || {
        format!("{remedy:?} is not in {said}")
    })
}

fn check(daemon: &Daemon) -> Result<String> {
    let config = daemon.config().to_string_lossy().into_owned();
    let said = daemon.command(&["check", "--config", &config])?;
    Ok(said.stdout + &said.stderr)
}

fn path(path: &Path) -> String {
    format!("{:?}", path.display().to_string())
}
