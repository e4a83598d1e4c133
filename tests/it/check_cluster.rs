//! What an operator is told before strict refuses anybody: `check` looks at a
//! real API server's objects, as the daemon and as somebody who may see more.

use mtls_tests::cluster::{ControlPlane, Kubelets, StandIn, namespace, plan};
use mtls_tests::deadline::{Deadline, wait_for};
use mtls_tests::mesh::{Daemon, Position};
use mtls_tests::process::Output;
use mtls_tests::{Error, Mesh, Result, ensure, ensure_eq, play, two_nodes};
use serde_json::{Value, json};

use super::kubernetes::account;

/// What each object of [`objects`] leads to, in that order.
const REFUSED: [&str; 9] = [
    "NetworkPolicy shop/closed does not admit the tunnels of shop/web (Ingress)",
    "NetworkPolicy shop/closed does not admit the tunnels of shop/web (Egress)",
    "ValidatingWebhookConfiguration judge has the API server call Service shop/web, and so shop/web, which refuses at port 8443",
    "MutatingWebhookConfiguration changer has the API server call Service shop/web, and so shop/web, which refuses at port 8443",
    "the conversion of CustomResourceDefinition orders.example.org has the API server call Service shop/web, and so shop/web, which refuses at port 8443",
    "APIService v1.shop.example.org has the API server call Service shop/web, and so shop/web, which refuses at port 8443",
    "shop/far, shop/web, shop/web-2 ask to be scraped at port 9102",
    "PodMonitor default/all has shop/far, shop/web, shop/web-2 scraped at port 9103",
    "ServiceMonitor shop/web has shop/web scraped at port 8443",
];
const HIDDEN: &str = "this account may not list networkpolicies, validatingwebhookconfigurations, mutatingwebhookconfigurations, apiservices, customresourcedefinitions,";

#[test]
fn check_cluster() -> Result {
    play("check-cluster", |scene| {
        let (a, b) = two_nodes(scene)?;
        let mut plane = ControlPlane::start(&a, Kubelets::Played)?;
        namespace(&plane, "shop", &json!({"mtls-daemon.io/mode": "strict"}))?;
        namespace(&plane, "other", &json!({}))?;
        for namespace in ["shop", "other"] {
            account(&plane, namespace, "web")?;
        }
        let (on_a, on_b) = (
            StandIn::register(&a, &plane)?,
            StandIn::register(&b, &plane)?,
        );
        let mut mesh = Mesh::prepare(plan(&plane, &[&a, &b])?, Position::default())?;
        let daemon = mesh.daemon(&a)?;
        daemon.own_clock()?;

        // Of one account two pods, and one elsewhere; one that no label enrols.
        let pods = [
            on_a.pod(&plane, &pod("shop", "web"))?,
            on_a.pod(&plane, &pod("shop", "web-2"))?,
            on_b.pod(&plane, &pod("shop", "far"))?,
            on_a.pod(&plane, &pod("other", "web"))?,
        ];
        for pod in &pods {
            pod.report(&plane, true)?;
        }
        let said = ask(daemon, &[])?;
        ensure_eq(said.status.code(), Some(0), "with nothing amiss")?;
        told(
            &said,
            &["note: no kube-proxy answers at 127.0.0.1:10249", HIDDEN],
        )?;
        warnings(&said, 2)?;
        // One for the account, of this node.
        let certificates: Vec<&str> = said.stdout.lines().skip(1).collect();
        let [one] = certificates.as_slice() else {
            return Err(Error::Unexpected(said.stdout));
        };
        let is_web = one.starts_with("shop/web ");
        ensure(
            is_web && one.contains("good: spiffe://example.org/ns/shop/sa/web, until"),
            || said.stdout.clone(),
        )?;

        for definition in ["PodMonitor", "ServiceMonitor"].map(monitors) {
            plane.apply(&definition)?;
            let name = definition["metadata"]["name"].as_str().unwrap_or_default();
            plane.wait_until_served(name)?;
        }
        for object in objects() {
            plane.apply(&object)?;
        }
        let admin = plane.admin();
        let admin = ["--kubeconfig", &admin.to_string_lossy()];
        wait_for(
            Deadline::default(),
            || "the Service to have its endpoints",
            || {
                let said = ask(daemon, &admin)?;
                Ok(said.stderr.contains("refuses at port 8443").then_some(()))
            },
        )?;
        let said = ask(daemon, &admin)?;
        // From elsewhere no node is judged, and nobody asked for certificates.
        ensure_eq(said.stdout.as_str(), "", "what is said of the node")?;
        ensure_eq(said.status.code(), Some(0), "with warnings alone")?;
        told(&said, &REFUSED)?;
        warnings(&said, 9)?;
        ensure(!said.stderr.contains("other/"), || said.stderr.clone())?;

        // What it advises helps.
        let tunnels = json!([{"ports": [{"port": 15008, "protocol": "TCP"}]}]);
        plane.apply(&policy(&tunnels, &json!([{}])))?;
        let exempt = "mtls-daemon.io/excluded-inbound-ports=8443,9102,9103";
        plane.kubectl(&["annotate", "pod", "-n", "shop", "web", exempt])?;
        let said = ask(daemon, &admin)?;
        warnings(&said, 2)?;
        told(
            &said,
            &[
                "shop/far, shop/web-2 ask to be scraped",
                "PodMonitor default/all has shop/far, shop/web-2 scraped",
            ],
        )?;

        // What no daemon can do without.
        daemon.step_clock("+2m")?;
        let said = ask(daemon, &[])?;
        told(&said, &["s ahead of the API server's"])?;
        daemon.step_clock("+0")?;
        let rule = r#"[{"op": "replace", "path": "/rules/0/verbs", "value": ["list"]}]"#;
        plane.kubectl(&[
            "patch",
            "clusterrole",
            "mtls-daemon",
            "--type=json",
            "-p",
            rule,
        ])?;
        let said = ask(daemon, &[])?;
        ensure_eq(said.status.code(), Some(1), "without a right")?;
        told(
            &said,
            &["fault: kubernetes: the daemon's account may not get, watch pods:"],
        )?;
        plane.stop_api_server()?;
        let said = ask(daemon, &[])?;
        ensure_eq(said.status.code(), Some(1), "without an API server")?;
        told(
            &said,
            &["fault: kubernetes: the API server does not answer:"],
        )
    })
}

fn ask(daemon: &Daemon, more: &[&str]) -> Result<Output> {
    let config = daemon.config().to_string_lossy().into_owned();
    daemon.command(&[&["check", "--config", &config], more].concat())
}

fn told(said: &Output, texts: &[&str]) -> Result {
    for text in texts {
        ensure(said.stderr.contains(text), || {
            format!("{text}: {}", said.stderr)
        })?;
    }
    Ok(())
}

fn warnings(said: &Output, expected: usize) -> Result {
    let count = said.stderr.matches("warning: ").count();
    ensure(count == expected, || {
        format!("{count} warnings: {}", said.stderr)
    })
}

fn pod(namespace: &str, name: &str) -> Value {
    json!({
        "metadata": {
            "namespace": namespace, "name": name, "labels": {"app": name},
            "annotations": {"prometheus.io/scrape": "true", "prometheus.io/port": "9102"},
        },
        "spec": {
            "serviceAccountName": "web",
            "containers": [{
                "name": "web", "image": "local.test/app:1",
                "ports": [{"name": "more-metrics", "containerPort": 9103}],
            }],
        },
    })
}

/// What the Prometheus operator defines, as far as it matters here.
fn monitors(kind: &str) -> Value {
    let plural = format!("{}s", kind.to_lowercase());
    let any = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.monitoring.coreos.com")},
        "spec": {
            "group": "monitoring.coreos.com", "scope": "Namespaced",
            "names": {"plural": plural, "singular": kind.to_lowercase(), "kind": kind},
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": any},
            }],
        },
    })
}

/// Lets in, and out to anybody, what it is told.
fn policy(ingress: &Value, egress: &Value) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": "shop", "name": "closed"},
        "spec": {
            "podSelector": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["web"]}]},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": ingress, "egress": egress,
        },
    })
}

/// That do in clear, or without the tunnels' port, what they do to `web`.
fn objects() -> Vec<Value> {
    let service = json!({"namespace": "shop", "name": "web", "port": 443, "path": "/"});
    let mut aggregated = service.clone();
    aggregated.as_object_mut().map(|it| it.remove("path"));
    let webhook = json!([{
        "name": "web.example.org", "clientConfig": {"service": service},
        "rules": [{
            "apiGroups": ["nothing.example.org"], "apiVersions": ["v1"],
            "operations": ["CREATE"], "resources": ["nothings"],
        }],
        "failurePolicy": "Ignore", "sideEffects": "None", "admissionReviewVersions": ["v1"],
    }]);
    let schema = json!({"openAPIV3Schema": {"type": "object"}});
    vec![
        policy(
            &json!([{"ports": [{"port": 8000, "endPort": 9000}, {"port": "tunnel"}]}]),
            &json!([{"ports": [{"port": 15008, "protocol": "UDP"}]}]),
        ),
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"namespace": "shop", "name": "web", "labels": {"team": "shop"}},
            "spec": {
                "selector": {"app": "web"},
                "ports": [{"name": "https", "port": 443, "targetPort": 8443}],
            },
        }),
        json!({
            "apiVersion": "monitoring.coreos.com/v1", "kind": "PodMonitor",
            "metadata": {"namespace": "default", "name": "all"},
            "spec": {
                "selector": {}, "namespaceSelector": {"any": true},
                "podMetricsEndpoints": [{"port": "more-metrics"}, {"port": "none"}],
            },
        }),
        json!({
            "apiVersion": "monitoring.coreos.com/v1", "kind": "ServiceMonitor",
            "metadata": {"namespace": "shop", "name": "web"},
            "spec": {
                "selector": {"matchLabels": {"team": "shop"}}, "endpoints": [{"port": "https"}],
            },
        }),
        // That of another namespace selects nobody here.
        json!({
            "apiVersion": "monitoring.coreos.com/v1", "kind": "ServiceMonitor",
            "metadata": {"namespace": "other", "name": "web"},
            "spec": {"selector": {}, "endpoints": [{"port": "https"}]},
        }),
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": "judge"}, "webhooks": webhook,
        }),
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": "changer"}, "webhooks": webhook,
        }),
        json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": "orders.example.org"},
            "spec": {
                "group": "example.org", "scope": "Namespaced",
                "names": {"plural": "orders", "singular": "order", "kind": "Order"},
                "versions": [
                    {"name": "v1", "served": true, "storage": true, "schema": schema},
                ],
                "conversion": {
                    "strategy": "Webhook",
                    "webhook": {"clientConfig": {"service": service}, "conversionReviewVersions": ["v1"]},
                },
            },
        }),
        json!({
            "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
            "metadata": {"name": "v1.shop.example.org"},
            "spec": {
                "group": "shop.example.org", "version": "v1", "service": aggregated,
                "groupPriorityMinimum": 100, "versionPriority": 100,
                "insecureSkipTLSVerify": true,
            },
        }),
    ]
}
