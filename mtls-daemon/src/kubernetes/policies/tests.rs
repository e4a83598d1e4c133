//! What becomes of each word of an AuthorizationPolicy: what it is judged by,
//! and that nothing which cannot be judged lets anybody in.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::*;
use crate::policy::{Connection, Rules, Verdict};
use crate::spiffe::SpiffeId;
use crate::workload::Target;

fn reading() -> Reading {
    Reading {
        root_namespace: "istio-system".to_owned(),
        trust_domain: "example.org".parse().unwrap(),
        paths_as_istio: true,
    }
}

fn object_in(namespace: &str, spec: &Value) -> Object {
    let object = json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": {"namespace": namespace, "name": "p", "uid": "u"}, "spec": spec,
    });
    Object::read(serde_json::from_value(object).unwrap()).unwrap()
}

fn object(spec: &Value) -> Object {
    object_in("shop", spec)
}

/// `shop/db` with the label app=db, and others.
fn resolved(object: &Object, reading: &Reading) -> Policies {
    let labels = |app: &str| BTreeMap::from([("app".to_owned(), app.to_owned())]);
    let (db, web) = (labels("db"), labels("web"));
    let pod = |namespace, name, labels| Candidate {
        namespace,
        name,
        labels,
    };
    let pods = [
        pod("shop", "db", &db),
        pod("shop", "web", &web),
        pod("ops", "db", &db),
    ];
    let behind = |service: &str| match service {
        "shop/front" => BTreeSet::from(["shop/web".to_owned()]),
        _ => BTreeSet::new(),
    };
    resolve([object].into_iter(), &pods, reading, "v1", behind)
}

fn pods_of(policies: &Policies) -> Vec<&str> {
    let scopes = policies.in_force.iter().map(|policy| &policy.workloads);
    scopes
        .flat_map(|scope| match scope {
            Scope::Pods(pods) => pods.iter().map(String::as_str).collect(),
            Scope::All | Scope::Any(_) => vec!["whoever"],
        })
        .collect()
}

/// A call to port 80 of shop/db at 10.0.2.7, by the one evaluator there is.
#[derive(Clone, Copy)]
struct Call {
    from: &'static str,
    ip: &'static str,
    port: u16,
}

const WEB: Call = Call {
    from: "spiffe://example.org/ns/shop/sa/web",
    ip: "10.0.1.4",
    port: 80,
};
const OPS: Call = Call {
    from: "spiffe://example.org/ns/ops/sa/cron",
    ip: "10.0.9.9",
    port: 80,
};
const NOBODY: Call = Call { from: "", ..WEB };

fn is_allowed(spec: &Value, call: Call) -> bool {
    judged(spec, call).0
}

fn judged(spec: &Value, call: Call) -> (bool, String, Standing) {
    let policies = resolved(&object(spec), &reading());
    let rules = Rules::new(policies.in_force);
    let principal: Option<SpiffeId> = call.from.parse().ok();
    let decision = rules.inbound(&Connection {
        workload: Target {
            name: "shop/db",
            id: &"spiffe://example.org/ns/shop/sa/db".parse().unwrap(),
        },
        principal: principal.as_ref(),
        source: call.ip.parse().unwrap(),
        remote: call.ip.parse().unwrap(),
        destination: "10.0.2.7".parse().unwrap(),
        port: call.port,
    });
    let allowed = decision.verdict == Verdict::Allow;
    (
        allowed,
        decision.label().to_string(),
        policies.notes[0].standing,
    )
}

/// A rule of both actions: ALLOW lets in who matches, DENY everybody else, and
/// all of it is judged as it is written.
fn matches(rule: &Value, call: Call) -> bool {
    let policy = |action: &str| json!({"action": action, "rules": [rule]});
    let (allowed, _, standing) = judged(&policy("ALLOW"), call);
    assert_eq!(standing, Standing::Whole, "{rule}");
    let (passes, ..) = judged(&policy("DENY"), call);
    assert_eq!(allowed, !passes, "{rule}");
    allowed
}

fn from(source: &Value) -> Value {
    json!({"from": [{"source": source}]})
}

#[test]
fn each_field_of_a_source_is_judged() {
    for (source, web, ops, nobody) in [
        (
            json!({"principals": ["cluster.local/ns/shop/sa/web"]}),
            true,
            false,
            false,
        ),
        (
            json!({"principals": ["example.org/ns/shop/sa/web"]}),
            true,
            false,
            false,
        ),
        (
            json!({"principals": ["spiffe://example.org/ns/shop/sa/web"]}),
            true,
            false,
            false,
        ),
        (
            json!({"principals": ["cluster.local/ns/shop/*"]}),
            true,
            false,
            false,
        ),
        (json!({"principals": ["*/sa/cron"]}), false, true, false),
        (json!({"principals": ["*"]}), true, true, false),
        (
            json!({"principals": ["other.org/ns/shop/sa/web"]}),
            false,
            false,
            false,
        ),
        (
            json!({"notPrincipals": ["cluster.local/ns/shop/sa/web"]}),
            false,
            true,
            true,
        ),
        (json!({"namespaces": ["shop"]}), true, false, false),
        (json!({"namespaces": ["o*"]}), false, true, false),
        (json!({"notNamespaces": ["shop"]}), false, true, true),
        (json!({"serviceAccounts": ["web"]}), true, false, false),
        (json!({"serviceAccounts": ["ops/cron"]}), false, true, false),
        (json!({"notServiceAccounts": ["web"]}), false, true, true),
        (json!({"ipBlocks": ["10.0.1.0/24"]}), true, false, true),
        (json!({"ipBlocks": ["10.0.9.9"]}), false, true, false),
        (
            json!({"ipBlocks": ["::ffff:10.0.1.0/120"]}),
            true,
            false,
            true,
        ),
        (json!({"notIpBlocks": ["10.0.1.4"]}), false, true, false),
        (
            json!({"namespaces": ["shop"], "ipBlocks": ["10.0.9.0/24"]}),
            false,
            false,
            false,
        ),
    ] {
        let rule = from(&source);
        let all = [WEB, OPS, NOBODY].map(|call| matches(&rule, call));
        assert_eq!(all, [web, ops, nobody], "{source}");
    }
}

#[test]
fn each_field_of_an_operation_is_judged() {
    let to = |operation: &Value| json!({"to": [{"operation": operation}]});
    let https = Call { port: 443, ..WEB };
    for (operation, http, other) in [
        (json!({"ports": ["80"]}), true, false),
        (json!({"ports": ["80", "443"]}), true, true),
        (json!({"notPorts": ["80"]}), false, true),
    ] {
        let rule = to(&operation);
        assert_eq!([matches(&rule, WEB), matches(&rule, https)], [http, other]);
    }
    let both = json!({
        "from": [{"source": {"namespaces": ["shop"]}}], "to": [{"operation": {"ports": ["443"]}}],
    });
    assert!(!matches(&both, WEB) && matches(&both, https));
}

#[test]
fn each_condition_that_speaks_of_connections_is_judged() {
    let when = |key: &str, list: &str, value: &str| json!({"when": [{"key": key, list: [value]}]});
    for (key, value, web) in [
        ("source.principal", "cluster.local/ns/shop/sa/web", true),
        ("source.principal", "cluster.local/ns/ops/sa/cron", false),
        ("source.namespace", "shop", true),
        ("source.serviceaccount", "shop/web", true),
        ("source.ip", "10.0.1.0/24", true),
        ("source.ip", "10.0.9.0/24", false),
        ("destination.ip", "10.0.2.7", true),
        ("destination.ip", "10.0.2.8", false),
        ("destination.port", "80", true),
        ("destination.port", "443", false),
    ] {
        assert_eq!(
            matches(&when(key, "values", value), WEB),
            web,
            "{key} {value}"
        );
        assert_eq!(
            matches(&when(key, "notValues", value), WEB),
            !web,
            "not {key} {value}"
        );
    }
    // All of them must hold.
    let both = json!({"when": [
        {"key": "source.namespace", "values": ["shop"]},
        {"key": "destination.port", "values": ["443"]},
    ]});
    assert!(!matches(&both, WEB));
    assert!(!matches(&when("source.principal", "values", "*"), NOBODY));
}

/// Everything in a rule that a connection cannot be judged by.
fn beyond() -> Vec<Value> {
    let to = |key: &str, item: &str| json!({"to": [{"operation": {key: [item]}}]});
    let when = |key: &str| json!({"when": [{"key": key, "values": ["x"]}]});
    let with = |key: &str, list: Value| from(&json!({key: list}));
    let mut all = vec![
        json!({"whatever": 1}),
        json!(7),
        json!({"from": []}),
        json!({"to": {}}),
    ];
    for key in ["hosts", "methods", "paths", "futureWord"] {
        all.push(to(key, "x"));
    }
    for key in ["notHosts", "notMethods", "notPaths"] {
        all.push(to(key, "x"));
    }
    for key in [
        "requestPrincipals",
        "notRequestPrincipals",
        "futureWord",
        "trustDomains",
    ] {
        all.push(with(key, json!(["x"])));
    }
    for key in ["remoteIpBlocks", "notRemoteIpBlocks"] {
        all.push(with(key, json!(["10.0.9.0/24"])));
    }
    for key in [
        "request.headers[x]",
        "request.auth.claims[x]",
        "connection.sni",
        "remote.ip",
    ] {
        all.push(when(key));
    }
    // And what cannot be read.
    for (key, list) in [
        ("principals", json!(["a*b"])),
        (
            "principals",
            json!(["cluster.local/ns/shop/sa/web", "not an id"]),
        ),
        ("principals", json!("cluster.local/ns/shop/sa/web")),
        ("namespaces", json!([])),
        ("notNamespaces", json!([3])),
        ("serviceAccounts", json!(["a/b/c"])),
        ("ipBlocks", json!(["10.0.1.0/24", "10.0.0.0/33"])),
        ("notIpBlocks", json!(["here"])),
    ] {
        all.push(with(key, list));
    }
    for port in ["http", "0", "65536"] {
        all.push(to("ports", port));
    }
    all.push(json!({"from": [{"source": {}}]}));
    all.push(json!({"from": [{}]}));
    all.push(json!({"from": [null]}));
    all.push(json!({"when": [{"key": "source.ip"}]}));
    all.push(json!({"when": [{"key": "source.ip", "values": ["x"]}]}));
    all
}

#[test]
fn what_cannot_be_judged_never_lets_anybody_in() {
    for rule in beyond() {
        let policy = |action: &str| json!({"action": action, "rules": [rule]});
        for call in [WEB, OPS, NOBODY] {
            let allowed = judged(&policy("ALLOW"), call);
            let expected = (false, "no_rule".to_owned(), Standing::InPart);
            assert_eq!(allowed, expected, "{rule}");
            let denied = judged(&policy("DENY"), call);
            let expected = (false, "shop/p[0]".to_owned(), Standing::InPart);
            assert_eq!(denied, expected, "{rule}");
        }
        let note = &resolved(&object(&policy("ALLOW")), &reading()).notes[0];
        assert!(
            note.complaints[0].starts_with("rules[0]"),
            "{:?}",
            note.complaints
        );
    }
}

#[test]
fn a_denial_goes_by_what_is_left_and_other_rules_go_on() {
    let left = |action: &str| {
        json!({"action": action, "rules": [
            {"from": [{"source": {"namespaces": ["shop"]}}], "to": [{"operation": {"paths": ["/x"]}}]},
        ]})
    };
    assert!(!is_allowed(&left("DENY"), WEB));
    assert!(is_allowed(&left("DENY"), OPS), "another namespace");
    let two = json!({"rules": [
        {"to": [{"operation": {"methods": ["GET"]}}]},
        {"from": [{"source": {"namespaces": ["ops"]}}]},
    ]});
    assert_eq!(judged(&two, OPS).1, "shop/p[1]");
    assert!(!is_allowed(&two, WEB));
}

#[test]
fn without_rules_or_with_an_empty_one() {
    assert!(!is_allowed(&json!({}), WEB), "it allows nobody");
    assert!(!is_allowed(&json!({"action": "ALLOW", "rules": []}), WEB));
    assert!(is_allowed(&json!({"action": "DENY"}), WEB));
    assert!(is_allowed(&json!({"rules": [{}]}), NOBODY));
    assert!(!is_allowed(&json!({"action": "DENY", "rules": [{}]}), WEB));
}

#[test]
fn an_object_that_cannot_be_read_denies_its_pods_everything() {
    for spec in [
        json!({"action": "PERMIT", "rules": [{}]}),
        json!({"action": 1, "rules": [{}]}),
        json!({"rules": {}}),
        json!({"rules": [{}], "futureWord": true}),
        json!({"rules": [{}], "provider": {"name": "x"}}),
        json!({"rules": [{}], "selector": {"matchExpressions": []}}),
        json!({"rules": [{}], "selector": {"matchLabels": {"app": 1}}}),
        json!({"rules": [{}], "selector": {"matchLabels": {"app": "d*"}}}),
        json!({"rules": [{}], "selector": {}, "targetRefs": [{"kind": "Service", "name": "x"}]}),
        json!({"rules": [{}], "targetRefs": []}),
        json!({"rules": [{}], "targetRefs": [{"kind": "Pod", "name": "db"}]}),
    ] {
        let expected = (false, "shop/p[unreadable]".to_owned(), Standing::Unreadable);
        assert_eq!(judged(&spec, WEB), expected, "{spec}");
    }
    // Only those that it selects, where that much is certain.
    let narrow = json!({"action": "PERMIT", "selector": {"matchLabels": {"app": "db"}}});
    assert_eq!(
        pods_of(&resolved(&object(&narrow), &reading())),
        ["shop/db"]
    );
}

#[test]
fn actions_for_which_nobody_is_here() {
    let audit = resolved(
        &object(&json!({"action": "AUDIT", "rules": [{}]})),
        &reading(),
    );
    assert_eq!(
        (audit.in_force.len(), audit.notes[0].standing),
        (0, Standing::PassedOver)
    );
    let custom = json!({
        "action": "CUSTOM", "provider": {"name": "x"}, "rules": [from(&json!({"namespaces": ["shop"]}))],
    });
    assert_eq!(
        judged(&custom, WEB),
        (false, "shop/p[0]".to_owned(), Standing::InPart)
    );
    assert!(is_allowed(&custom, OPS), "whom nobody is asked about");
}

#[test]
fn who_is_selected() {
    let of = |namespace: &str, spec: Value| {
        let policies = resolved(&object_in(namespace, &spec), &reading());
        pods_of(&policies)
            .into_iter()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let db = json!({"selector": {"matchLabels": {"app": "db"}}});
    assert_eq!(of("shop", json!({})), ["shop/db", "shop/web"]);
    assert_eq!(of("shop", json!({"selector": {}})), ["shop/db", "shop/web"]);
    assert_eq!(of("shop", db.clone()), ["shop/db"]);
    assert_eq!(of("ops", db.clone()), ["ops/db"]);
    assert_eq!(of("elsewhere", db.clone()), [""; 0]);
    let root = "istio-system";
    assert_eq!(of(root, json!({})), ["ops/db", "shop/db", "shop/web"]);
    assert_eq!(of(root, db), ["ops/db", "shop/db"]);
}

#[test]
fn targets_are_the_pods_behind_a_service_and_never_a_gateway() {
    let refs = |refs: Value| resolved(&object(&json!({"targetRefs": refs})), &reading());
    let front = json!({"group": "", "kind": "Service", "name": "front"});
    let gateway = json!({"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "x"});
    let service = refs(json!([front]));
    assert_eq!(pods_of(&service), ["shop/web"]);
    assert!(service.ask_services);
    assert_eq!(service.notes[0].standing, Standing::Whole);
    let both = refs(json!([front, gateway]));
    assert_eq!(
        (pods_of(&both), both.notes[0].standing),
        (vec!["shop/web"], Standing::InPart)
    );
    let other = refs(json!([{"kind": "Service", "name": "unknown"}]));
    assert!(other.notes.is_empty() && other.ask_services);
    let passed = refs(json!([gateway]));
    assert_eq!(
        (passed.in_force.len(), passed.notes[0].standing),
        (0, Standing::PassedOver)
    );
    let single = resolved(&object(&json!({"targetRef": front})), &reading());
    assert_eq!(pods_of(&single), ["shop/web"]);
}

#[test]
fn a_dry_run_decides_nothing() {
    let with = |word: &str| {
        let object = json!({
            "metadata": {
                "namespace": "shop", "name": "p", "uid": "u",
                "annotations": {"istio.io/dry-run": word},
            },
            "spec": {},
        });
        let object = Object::read(serde_json::from_value(object).unwrap()).unwrap();
        let policies = resolved(&object, &reading());
        (policies.in_force[0].dry_run, policies.notes[0].standing)
    };
    assert_eq!(with("true"), (true, Standing::Whole));
    assert_eq!(with("false"), (false, Standing::Whole));
    assert_eq!(with("maybe"), (false, Standing::InPart));
}

#[test]
fn other_paths_of_identities_are_not_guessed() {
    let reading = Reading {
        paths_as_istio: false,
        ..reading()
    };
    for source in [
        json!({"namespaces": ["shop"]}),
        json!({"serviceAccounts": ["web"]}),
        json!({"principals": ["cluster.local/ns/shop/sa/web"]}),
    ] {
        let object = object(&json!({"action": "DENY", "rules": [from(&source)]}));
        let policies = resolved(&object, &reading);
        assert_eq!(policies.notes[0].standing, Standing::InPart, "{source}");
        assert_eq!(policies.in_force[0].rules[0].from, [Default::default()]);
    }
    let as_issued = json!({"rules": [from(&json!({"principals": ["example.org/shop/web"]}))]});
    let whole = resolved(&object(&as_issued), &reading);
    assert_eq!(whole.notes[0].standing, Standing::Whole);
}
