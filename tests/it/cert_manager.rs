//! Certificates from cert-manager: its own controllers sign what the daemons
//! ask for, and whoever keeps them from it is named with what to do.

use std::fs;
use std::path::{Path, PathBuf};

use mtls_tests::cluster::{
    Approver, CertManager, ControlPlane, Kubelets, StandIn, namespace, plan,
};
use mtls_tests::deadline::{Deadline, wait_for};
use mtls_tests::mesh::Ca;
use mtls_tests::script::Step;
use mtls_tests::{Doing, Family, Mesh, Node, Result, ensure, play, programs, two_nodes};
use serde_json::{Value, json};

use crate::kubernetes::{account, pod, wait_for_mode};

const RBAC: &str = "templates/rbac.yaml";
const ACCOUNT: &str = "system:serviceaccount:mtls-daemon:mtls-daemon";

#[test]
fn cert_manager() -> Result {
    play("cert-manager", |scene| {
        let (a, b) = two_nodes(scene)?;
        let plane = ControlPlane::start(&a, Kubelets::Played)?;
        namespace(&plane, "shop", &json!({"mtls-daemon.io/mode": "strict"}))?;
        for name in ["client", "server"] {
            account(&plane, "shop", name)?;
        }
        let ca = Ca::create(scene.dir(), "issuer", "example.org")?;
        let plan = plan(&plane, &[&a, &b])?;
        let token = plane.kubectl(&["create", "token", "-n", "mtls-daemon", "mtls-daemon"])?;
        let login = plane.kubeconfig("certificates.kubeconfig", token.trim())?;

        let controllers = what_keeps_a_certificate(&plane, &a, &ca, &login)?;

        // From here on everything is as it should be, and nobody helps.
        let source = "identity.cert-manager";
        let plan = plan
            .set(source, "issuer", "\"mesh\"")
            .set(source, "svid_ttl", "\"30s\"")
            .set(source, "bundle", &quoted(&ca.certificate))
            .set(source, "kubeconfig", &quoted(&login));
        let stand_ins = [
            StandIn::register(&a, &plane)?,
            StandIn::register(&b, &plane)?,
        ];
        let mut mesh = Mesh::start_as(plan)?;
        let client = stand_ins[0].pod(&plane, &pod("shop", "client", "client"))?;
        let server = stand_ins[1].pod(&plane, &pod("shop", "server", "server"))?;
        let mut listening = server.pod.serve(8080, [Step::Echo])?;
        for (node, pod) in [(&a, &client), (&b, &server)] {
            pod.report(&plane, true)?;
            wait_for_mode(mesh.daemon(node)?, pod, "strict")?;
        }
        let to = server.pod.at(Family::V4, 8080);
        let call = || -> Result {
            let hello = [Step::Say("hi".into()), Step::Hear("hi".into())];
            let ended = client.pod.connect(to, hello)?;
            ensure(ended.is_well(), || format!("{ended:?}"))
        };
        call()?;
        listening.ended_well(1)?;

        // Certificates of 30 s are renewed, and no request is left behind.
        for daemon in mesh.daemons() {
            daemon.wait_for_metrics("a renewal", |metrics| {
                metrics.count("mtls_certificate_renewals_total", &[("result", "ok")]) > 1
            })?;
        }
        call()?;
        wait_for(
            Deadline::default(),
            || "all requests to be deleted",
            || {
                let left = CertManager::requests(&plane, "shop")?;
                Ok(left.is_empty().then_some(()))
            },
        )?;
        drop(controllers);
        mesh.wire()?.ensure_only_tls()
    })
}

/// One thing after another, each told by `mtls-daemon check` with its remedy.
fn what_keeps_a_certificate(
    plane: &ControlPlane,
    node: &Node,
    ca: &Ca,
    login: &Path,
) -> Result<CertManager> {
    let config = check_config(node, ca, login)?;
    // The chart gives no rights that the source does not need.
    told(
        node,
        &config,
        "create, get, watch and delete certificaterequests",
    )?;
    let issuer = "config.identity.cert-manager.issuer=mesh";
    plane.apply_chart(RBAC, &[issuer])?;
    told(node, &config, "is cert-manager installed")?;
    CertManager::define(plane)?;
    // In one namespace, or in all.
    namespace(plane, "certs", &json!({}))?;
    let within = "config.identity.cert-manager.namespace=certs";
    plane.apply_chart(RBAC, &[issuer, within])?;
    ensure(may_ask(plane, "certs")?, || "a Role without rights")?;
    ensure(!may_ask(plane, "shop")?, || "a Role beyond its namespace")?;
    plane.apply_chart(RBAC, &[issuer])?;
    told(
        node,
        &config,
        "nobody has approved or denied CertificateRequest shop/mtls-daemon-",
    )?;

    forget_requests(plane)?;
    let controllers = CertManager::start(plane, Approver::Played)?;
    let denied = json!({
        "type": "Denied", "status": "True", "reason": "Policy", "message": "not on a Monday",
    });
    told_when(
        node,
        &config,
        || CertManager::say(plane, "shop", |_| true, &denied),
        "has denied CertificateRequest",
    )?;
    drop(controllers);

    let controllers = CertManager::start(plane, Approver::Own)?;
    told(
        node,
        &config,
        "there is no Issuer mesh for namespace shop: make it",
    )?;
    CertManager::issuer(plane, "shop")?;
    forget_requests(plane)?;
    let failed = json!({
        "type": "Ready", "status": "False", "reason": "Failed", "message": "out of ink",
    });
    let is_pending = |request: &Value| {
        let conditions = request["status"]["conditions"].as_array();
        conditions.is_some_and(|all| all.iter().any(|one| one["type"] == "Ready"))
    };
    told_when(
        node,
        &config,
        || CertManager::say(plane, "shop", is_pending, &failed),
        "has failed to sign CertificateRequest",
    )?;
    told(
        node,
        &config,
        "waits for Issuer mesh: kubectl -n shop describe",
    )?;

    // Once the issuer has its key, it signs, what has waited for it included.
    forget_requests(plane)?;
    CertManager::give_key(plane, "shop", ca)?;
    wait_for(
        Deadline::default(),
        || "a certificate",
        || {
            let checked = check(node, &config)?.output()?;
            Ok(checked.status.success().then_some(checked.stdout))
        },
    )
    .and_then(|said| {
        ensure(said.contains("good: spiffe://example.org/web"), || {
            said.clone()
        })
    })?;
    forget_requests(plane)?;
    Ok(controllers)
}

/// A workload that asks in the namespace of the pods.
fn check_config(node: &Node, ca: &Ca, login: &Path) -> Result<PathBuf> {
    let path = node.scene().dir().join("check.toml");
    let text = format!(
        "version = 1\n[identity]\ntrust_domain = \"example.org\"\n\
         [identity.cert-manager]\nissuer = \"mesh\"\nnamespace = \"shop\"\nbundle = {}\nkubeconfig = {}\n\
         [kernel]\nveth_gate = \"off\"\n\
         [[workload]]\nname = \"web\"\nspiffe_id = \"spiffe://example.org/web\"\n\
         netns = \"/run/netns/none\"\naddresses = [\"10.0.1.4\"]\n",
        quoted(&ca.certificate),
        quoted(login),
    );
    fs::write(&path, text).doing(|| format!("writing {}", path.display()))?;
    Ok(path)
}

fn check(node: &Node, config: &Path) -> Result<mtls_tests::process::Spawn> {
    let words = ["check", "--config", &config.to_string_lossy()];
    Ok(node.spawn(programs::daemon()?)?.args(words))
}

fn told(node: &Node, config: &Path, remedy: &str) -> Result {
    let checked = check(node, config)?.output()?;
    ensure(!checked.status.success(), || "check found nothing")?;
    ensure(checked.stderr.contains(remedy), || {
        format!("{remedy:?} is not in {}", checked.stderr)
    })
}

/// While something is done to its request.
fn told_when(node: &Node, config: &Path, done: impl FnOnce() -> Result, remedy: &str) -> Result {
    let mut checking = check(node, config)?.start()?;
    done()?;
    checking.wait(Deadline::default())?;
    let log = checking.log();
    ensure(log.contains(remedy), || {
        format!("{remedy:?} is not in {log}")
    })
}

fn may_ask(plane: &ControlPlane, namespace: &str) -> Result<bool> {
    let account = format!("--as={ACCOUNT}");
    let words = [
        "auth",
        "can-i",
        "create",
        "certificaterequests.cert-manager.io",
        "-n",
        namespace,
        &account,
    ];
    // Its answer is its exit code, too.
    Ok(plane.kubectl(&words).is_ok_and(|said| said.trim() == "yes"))
}

/// A check that ends leaves what it waited for.
fn forget_requests(plane: &ControlPlane) -> Result {
    let words = ["delete", "certificaterequests", "--all", "-n", "shop"];
    plane.kubectl(&words).map(drop)
}

fn quoted(path: &Path) -> String {
    format!("{:?}", path.display().to_string())
}
