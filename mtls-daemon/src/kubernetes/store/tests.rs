use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::state::NotKnown;
use super::*;

fn apply<T: DeserializeOwned>(object: &Value) -> Box<Event<T>> {
    let object = serde_json::from_value(object.clone());
    Box::new(Event::Apply(object.unwrap()))
}

fn whole() -> Store {
    let mut store = Store::new(Rules::for_tests());
    store.heed(News::Pod(Box::new(Event::InitDone)));
    store.heed(News::Namespace(Box::new(Event::InitDone)));
    store.heed(News::Service(Box::new(Event::InitDone)));
    store.heed(News::Slice(Box::new(Event::InitDone)));
    store.heed(News::Node(Box::new(Event::InitDone)));
    store.heed(News::Networks(Box::new(Event::InitDone)));
    for kind in Kind::ALL {
        store.heed(News::Definition(kind, Box::new(Event::InitDone)));
    }
    store
}

fn pod() -> News {
    News::Pod(apply(&json!({
        "metadata": {"name": "web-1", "namespace": "shop", "uid": "u1"},
        "spec": {"containers": [], "serviceAccountName": "web"},
        "status": {"phase": "Running", "podIPs": [{"ip": "10.0.1.4"}]},
    })))
}

fn namespace(labels: &Value) -> News {
    let namespace = json!({"metadata": {"name": "shop", "labels": labels}});
    News::Namespace(apply(&namespace))
}

fn slice(address: &str, uid: &str) -> News {
    News::Slice(apply(&json!({
        "metadata": {
            "name": "web-1", "namespace": "shop",
            "labels": {"kubernetes.io/service-name": "web"},
        },
        "addressType": "IPv4", "ports": [{"port": 8080}],
        "endpoints": [{
            "addresses": [address], "targetRef": {"kind": "Pod", "name": "web-9", "uid": uid},
        }],
    })))
}

fn service() -> News {
    News::Service(apply(&json!({
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"clusterIPs": ["10.96.0.5"], "ports": [{"port": 80}]},
    })))
}

fn web() -> Who {
    Who::Workload("spiffe://example.org/ns/shop/sa/web".parse().unwrap())
}

#[test]
fn nothing_is_said_of_a_cluster_that_is_not_known_whole() {
    let mut store = Store::new(Rules::for_tests());
    store.heed(pod());
    store.heed(News::Pod(Box::new(Event::InitDone)));
    let snapshot = store.snapshot(None);
    assert!(!snapshot.is_whole && !snapshot.cluster.answers);
    assert!(whole().snapshot(None).is_whole);
}

fn definition(version: &str) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "authorizationpolicies.security.istio.io"},
        "spec": {"versions": [{"name": version, "served": true}]},
        "status": {"conditions": [{"type": "Established", "status": "True"}]},
    })
}

fn defined(version: &str) -> News {
    News::Definition(AUTHORIZATION, apply(&definition(version)))
}

fn told_policy(object: &Value) -> News {
    News::Policy(AUTHORIZATION, apply(object))
}

/// A list with one object in it.
fn list(store: &mut Store, news: impl Fn(Box<Event<DynamicObject>>) -> News, object: &Value) {
    let object = serde_json::from_value(object.clone()).unwrap();
    for event in [Event::Init, Event::InitApply(object), Event::InitDone] {
        store.heed(news(Box::new(event)));
    }
}

const AUTHORIZATION: Kind = Kind::AuthorizationPolicy;
const AUTHENTICATION: Kind = Kind::PeerAuthentication;

fn policy() -> Value {
    json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": {"name": "nobody", "namespace": "shop", "uid": "p1"}, "spec": {},
    })
}

fn in_force(store: &mut Store) -> Vec<String> {
    let policies = &store.snapshot(None).policies.in_force;
    policies.iter().map(|policy| policy.name.clone()).collect()
}

#[test]
fn where_there_are_policies_no_pod_is_known_before_they_are() {
    let mut store = whole();
    store.authorization = Istio::new(true);
    store.authentication = Istio::new(true);
    store.heed(pod());
    store.heed(namespace(&json!({})));
    assert!(
        !store.snapshot(None).is_whole,
        "who knows whether there are any"
    );
    for kind in Kind::ALL {
        let news = |event| News::Definition(kind, event);
        list(&mut store, news, &definition("v1"));
        assert!(!store.snapshot(None).is_whole, "they are not listed yet");
    }
    list(&mut store, |it| News::Policy(AUTHORIZATION, it), &policy());
    assert!(!store.snapshot(None).is_whole, "{AUTHENTICATION:?}");
    let permissive = authentication("PERMISSIVE");
    list(
        &mut store,
        |it| News::Policy(AUTHENTICATION, it),
        &permissive,
    );
    assert!(store.snapshot(None).is_whole);
    assert_eq!(in_force(&mut store), ["shop/nobody"]);
}

#[test]
fn policies_come_and_go_with_their_definition() {
    let mut store = whole();
    store.heed(pod());
    store.heed(namespace(&json!({})));
    assert_eq!(store.served(AUTHORIZATION), None);
    assert!(!store.heed(told_policy(&policy())), "nobody watches");
    store.heed(defined("v2"));
    assert_eq!(store.served(AUTHORIZATION), None, "a version of tomorrow");
    store.heed(defined("v1"));
    assert_eq!(store.served(AUTHORIZATION), Some("v1"));
    assert!(store.snapshot(None).is_whole, "what was known goes on");
    store.heed(told_policy(&policy()));
    assert_eq!(in_force(&mut store), ["shop/nobody"]);
    // Another version of the API says the same until it says something else.
    store.heed(defined("v1beta1"));
    assert_eq!(in_force(&mut store), ["shop/nobody"]);
    store.heed(defined("v2"));
    assert_eq!(in_force(&mut store), ["shop/nobody"], "nobody took it back");
    let gone = json!({"metadata": {"name": "authorizationpolicies.security.istio.io"}});
    let gone = Event::Delete(serde_json::from_value(gone).unwrap());
    store.heed(News::Definition(AUTHORIZATION, Box::new(gone)));
    assert_eq!(in_force(&mut store), [""; 0]);
}

fn authentication(mode: &str) -> Value {
    json!({
        "apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
        "metadata": {"name": "default", "namespace": "shop", "uid": "p2"},
        "spec": {"mtls": {"mode": mode}},
    })
}

#[test]
fn modes_come_and_go_with_their_objects() {
    let mut store = whole();
    store.heed(pod());
    store.heed(namespace(&json!({"mtls-daemon.io/mode": "strict"})));
    let now = |store: &mut Store| {
        let snapshot = store.snapshot(None);
        let by = snapshot.decided("u1").to_owned();
        (snapshot.workloads[0].mode.unwrap(), by)
    };
    let by_label = (Mode::Strict, "its namespace".to_owned());
    assert_eq!(now(&mut store), by_label);
    let mut definition = definition("v1");
    definition["metadata"]["name"] = AUTHENTICATION.definition().into();
    store.heed(News::Definition(AUTHENTICATION, apply(&definition)));
    let object = authentication("PERMISSIVE");
    assert!(store.heed(News::Policy(AUTHENTICATION, apply(&object))));
    let by_object = "PeerAuthentication shop/default".to_owned();
    assert_eq!(now(&mut store), (Mode::Permissive, by_object));
    // The next daemon of the node knows them, too.
    let here = |uids: Vec<&str>| uids.into_iter().map(str::to_owned).collect();
    let known = Store::known(Rules::for_tests(), &store.saved(), Instant::now(), here);
    assert_eq!(now(&mut known.unwrap()).0, Mode::Permissive);
    let gone = Event::Delete(serde_json::from_value(object).unwrap());
    store.heed(News::Policy(AUTHENTICATION, Box::new(gone)));
    assert_eq!(now(&mut store), by_label);
}

#[test]
fn a_label_of_a_pod_changes_which_policies_are_its() {
    let mut store = whole();
    store.heed(defined("v1"));
    store.heed(namespace(&json!({})));
    let mut narrow = policy();
    narrow["spec"] = json!({"selector": {"matchLabels": {"app": "web"}}});
    store.heed(told_policy(&narrow));
    let labelled = |app: &str| {
        News::Pod(apply(&json!({
            "metadata": {"name": "web-1", "namespace": "shop", "uid": "u1", "labels": {"app": app}},
            "spec": {"containers": []}, "status": {"phase": "Running"},
        })))
    };
    store.heed(labelled("db"));
    assert_eq!(in_force(&mut store), [""; 0]);
    store.heed(labelled("web"));
    assert_eq!(in_force(&mut store), ["shop/nobody"]);
    store.heed(News::Pod(Box::new(Event::Init)));
    store.heed(News::Pod(Box::new(Event::InitDone)));
    assert_eq!(in_force(&mut store), [""; 0], "no pod of this node");
}

#[test]
fn a_pod_waits_for_its_namespace() {
    let mut store = whole();
    store.heed(pod());
    assert_eq!(store.snapshot(None).workloads, []);
    store.heed(namespace(&json!({"mtls-daemon.io/mode": "strict"})));
    assert_eq!(store.snapshot(None).workloads[0].mode, Some(Mode::Strict));
    assert!(!store.heed(namespace(&json!({"mtls-daemon.io/mode": "strict"}))));
    assert!(store.heed(namespace(&json!({}))));
    assert_eq!(store.snapshot(None).workloads[0].mode, Some(Mode::Off));
}

#[test]
fn who_has_no_daemon_is_known_by_labels_and_asked_for_again_when_they_change() {
    let (own, peer): (IpAddr, IpAddr) = ("10.0.1.4".parse().unwrap(), "10.0.2.4".parse().unwrap());
    let mut store = whole();
    store.heed(pod());
    let who = |store: &mut Store, address| {
        let seen = store.snapshot(None).cluster.seen.get(address).cloned();
        seen.map(|seen| seen.who)
    };
    let Who::Workload(id) = web() else {
        panic!("it was made so");
    };
    assert_eq!(
        who(&mut store, &own),
        Some(web()),
        "its namespace is unknown"
    );
    store.heed(namespace(&json!({})));
    assert_eq!(who(&mut store, &own), Some(Who::NotEnrolled(id)));
    store.answer(peer, web(), Instant::now());
    store.heed(namespace(&json!({"mtls-daemon.io/mode": "strict"})));
    assert_eq!(who(&mut store, &own), Some(web()));
    assert_eq!(who(&mut store, &peer), None);
}

#[test]
fn a_service_follows_its_slices_whichever_comes_first() {
    let address: IpAddr = "10.96.0.5".parse().unwrap();
    let endpoints = |store: &mut Store| {
        let snapshot = store.snapshot(None);
        let service = snapshot.cluster.services.get(&address)?;
        Some(
            service.ports[&80]
                .workloads
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>(),
        )
    };
    let mut store = whole();
    store.heed(slice("10.0.2.4", "u9"));
    assert_eq!(endpoints(&mut store), None);
    store.heed(service());
    assert_eq!(endpoints(&mut store).unwrap(), ["10.0.2.4:8080"]);
    store.heed(slice("10.0.2.5", "u9"));
    assert_eq!(endpoints(&mut store).unwrap(), ["10.0.2.5:8080"]);
}

#[test]
fn a_node_that_changes_its_zone_has_other_endpoints() {
    let in_zone = |address: &str, zone: &str| json!({"addresses": [address], "hints": {"forZones": [{"name": zone}]}});
    let mut store = whole();
    let own = store.rules.node.clone();
    let mut moved = |zone: &str| {
        store.heed(News::Node(apply(&json!({
            "metadata": {"name": own, "labels": {"topology.kubernetes.io/zone": zone}},
        }))));
        store.heed(service());
        store.heed(News::Slice(apply(&json!({
            "metadata": {
                "name": "web-1", "namespace": "shop",
                "labels": {"kubernetes.io/service-name": "web"},
            },
            "addressType": "IPv4", "ports": [{"port": 8080}],
            "endpoints": [in_zone("10.0.2.4", "east"), in_zone("10.0.2.5", "west")],
        }))));
        let snapshot = store.snapshot(None);
        let address: IpAddr = "10.96.0.5".parse().unwrap();
        let service = &snapshot.cluster.services[&address];
        let all = service.ports[&80].addresses.iter();
        all.map(|at| at.ip().to_string()).collect::<Vec<_>>()
    };
    assert_eq!(moved("east"), ["10.0.2.4"]);
    assert_eq!(moved("west"), ["10.0.2.5"]);
    assert_eq!(moved("north"), ["10.0.2.4", "10.0.2.5"]);
}

#[test]
fn an_answer_ends_with_the_pod_that_it_was_about() {
    let address: IpAddr = "10.0.2.4".parse().unwrap();
    let mut store = whole();
    store.heed(slice("10.0.2.4", "u9"));
    assert_eq!(store.pod_at(address).unwrap().name, "web-9");
    store.answer(address, web(), Instant::now());
    assert!(store.snapshot(None).cluster.seen.contains_key(&address));
    // Another pod has taken the address.
    store.heed(slice("10.0.2.4", "u10"));
    assert!(!store.snapshot(None).cluster.seen.contains_key(&address));
}

#[test]
fn a_node_is_known_by_the_networks_of_its_pods() {
    let mut store = whole();
    store.heed(News::Node(apply(&json!({
        "metadata": {"name": "b"}, "spec": {"podCIDRs": ["10.0.2.0/24", "fd00:2::/64"]},
        "status": {"addresses": [
            {"type": "Hostname", "address": "b"}, {"type": "InternalIP", "address": "192.0.2.2"},
        ]},
    }))));
    let node = |store: &Store, ip: &str| store.hints(ip.parse().unwrap()).node;
    assert_eq!(node(&store, "fd00:2::9").as_deref(), Some("b"));
    assert_eq!(node(&store, "fd00:3::9"), None);
    let networks = store.snapshot(None).cluster.networks.clone();
    assert_eq!(networks.len(), 2);
    let is_node = |ip: &str| store.hints(ip.parse().unwrap()).of_node;
    assert!(is_node("192.0.2.2") && !is_node("10.0.2.2"));
}

#[test]
fn answers_are_forgotten_nobody_sooner_than_somebody() {
    let (here, gone): (IpAddr, IpAddr) = ("10.0.2.4".parse().unwrap(), "10.0.2.5".parse().unwrap());
    let (mut store, now) = (whole(), Instant::now());
    store.answer(here, web(), now);
    store.answer(gone, Who::Nobody, now);
    store.forget_old_answers(now + FORGET_NOBODY);
    let cluster = store.snapshot(None).cluster;
    assert!(cluster.seen.contains_key(&here) && !cluster.seen.contains_key(&gone));
    store.forget_old_answers(now + FORGET);
    assert!(store.snapshot(None).cluster.seen.is_empty());
}

#[test]
fn the_next_daemon_knows_what_this_one_knew() {
    let (peer, gone): (IpAddr, IpAddr) = ("10.0.2.4".parse().unwrap(), "10.0.2.5".parse().unwrap());
    let (mut store, now) = (whole(), Instant::now());
    for news in [
        pod(),
        namespace(&json!({"mtls-daemon.io/mode": "strict"})),
        slice("10.0.2.4", "u9"),
        service(),
        News::Node(apply(&json!({
            "metadata": {"name": "b"}, "spec": {"podCIDRs": ["10.0.2.0/24"]},
        }))),
        defined("v1"),
        told_policy(&policy()),
    ] {
        store.heed(news);
    }
    store.answer(peer, web(), now);
    store.answer(gone, Who::Nobody, now);
    let off = Who::NotEnrolled("spiffe://example.org/ns/shop/sa/old".parse().unwrap());
    let old: IpAddr = "10.0.2.6".parse().unwrap();
    store.answer(old, off, now);
    let before = store.snapshot(None);
    let saved = store.saved();
    let known = |rules, here: &'static str| {
        let here = move |uids: Vec<&str>| {
            let uids = uids.into_iter().filter(|uid| here.contains(uid));
            uids.map(str::to_owned).collect()
        };
        Store::known(rules, &saved, now, here)
    };
    let mut next = known(Rules::for_tests(), "u1").unwrap();
    let after = next.snapshot(None);
    assert!(after.is_whole && !after.is_told && before.is_told);
    assert_eq!(after.workloads, before.workloads);
    assert_eq!(after.policies, before.policies);
    assert_eq!(in_force(&mut next), ["shop/nobody"]);
    assert_eq!(after.cluster.services, before.cluster.services);
    assert_eq!(after.cluster.networks, before.cluster.networks);
    assert_eq!(
        after.cluster.seen.get(&peer),
        before.cluster.seen.get(&peer)
    );
    assert_eq!(after.cluster.seen.get(&old), before.cluster.seen.get(&old));
    assert!(!after.cluster.seen.contains_key(&gone));
    assert_eq!(next.pod_at(peer).unwrap().name, "web-9");

    // Pods that ended meanwhile are not awaited, nor their addresses known.
    let without = known(Rules::for_tests(), "").unwrap().snapshot(None);
    assert_eq!(without.workloads, []);
    assert!(
        !without
            .cluster
            .seen
            .contains_key(&"10.0.1.4".parse().unwrap())
    );
    let elsewhere = Rules {
        node: "b".to_owned(),
        ..Rules::for_tests()
    };
    assert_eq!(known(elsewhere, "u1").unwrap_err(), NotKnown::OtherRules);
    let broken = Store::known(Rules::for_tests(), b"{}", now, |_| HashSet::new());
    assert!(matches!(broken, Err(NotKnown::Unreadable(_))));
}
