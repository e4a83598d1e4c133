use serde_json::{Value, json};

use super::*;

const HERE: Here<'_> = Here {
    node: "a",
    zone: Some("east"),
};

fn service(spec: &Value) -> Service {
    let object = json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": spec});
    Service::read(serde_json::from_value(object).unwrap()).unwrap()
}

fn slice(ports: &Value, endpoints: &Value) -> Slice {
    let object = json!({
        "metadata": {
            "name": "web-1", "namespace": "shop",
            "labels": {"kubernetes.io/service-name": "web"},
        },
        "addressType": "IPv4", "ports": ports, "endpoints": endpoints,
    });
    Slice::read(serde_json::from_value(object).unwrap()).unwrap()
}

fn endpoints(service: &Service, slices: &[Slice], port: u16) -> Vec<String> {
    let table = service.table(slices.iter(), HERE);
    let Some(behind) = table.ports.get(&port) else {
        return Vec::new();
    };
    let found = behind.workloads.iter().chain(&behind.addresses);
    found.map(ToString::to_string).collect()
}

#[test]
fn a_port_leads_to_the_target_of_its_name() {
    let service = service(&json!({
        "clusterIPs": ["10.96.0.5", "fd00:96::5"],
        "ports": [
            {"name": "http", "port": 80, "targetPort": "web"},
            {"name": "admin", "port": 81},
            {"name": "dns", "port": 53, "protocol": "UDP"},
        ],
    }));
    let ips: Vec<String> = service.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(ips, ["10.96.0.5", "fd00:96::5"]);
    // One slice for each number that the name stands for.
    let slices = [
        slice(
            &json!([{"name": "http", "port": 8080}, {"name": "admin", "port": 9000}]),
            &json!([{"addresses": ["10.0.1.4"]}]),
        ),
        slice(
            &json!([{"name": "http", "port": 8081}]),
            &json!([{"addresses": ["10.0.1.5"]}]),
        ),
    ];
    assert_eq!(
        endpoints(&service, &slices, 80),
        ["10.0.1.4:8080", "10.0.1.5:8081"]
    );
    assert_eq!(endpoints(&service, &slices, 81), ["10.0.1.4:9000"]);
    assert_eq!(endpoints(&service, &slices, 53), [""; 0]);
}

#[test]
fn who_is_to_be_kept_to_is_said_by_the_service() {
    for (affinity, sticky) in [("ClientIP", true), ("None", false)] {
        let service = service(&json!({
            "clusterIPs": ["10.96.0.5"], "ports": [{"port": 80}], "sessionAffinity": affinity,
        }));
        assert_eq!(service.table([].iter(), HERE).sticky, sticky);
    }
}

#[test]
fn a_headless_service_has_no_address() {
    let headless = service(&json!({"clusterIPs": ["None"], "ports": [{"port": 80}]}));
    assert_eq!(headless.addresses, Vec::<IpAddr>::new());
}

#[test]
fn who_is_not_ready_gets_nothing_and_who_ends_is_the_last_resort() {
    let service = service(&json!({"clusterIPs": ["10.96.0.5"], "ports": [{"port": 80}]}));
    let of = |conditions: &[Value]| {
        let endpoints = conditions.iter().zip(1..).map(|(conditions, n)| {
            json!({"addresses": [format!("10.0.1.{n}")], "conditions": conditions})
        });
        let endpoints = endpoints.collect::<Vec<_>>();
        slice(&json!([{"port": 80}]), &json!(endpoints))
    };
    let ready = json!({"ready": true});
    let unready = json!({"ready": false, "serving": false});
    let ending = json!({"ready": false, "serving": true, "terminating": true});
    let all = of(&[ready, unready.clone(), ending.clone(), json!({})]);
    assert_eq!(
        endpoints(&service, &[all], 80),
        ["10.0.1.1:80", "10.0.1.4:80"]
    );
    let last = of(&[unready.clone(), ending]);
    assert_eq!(endpoints(&service, &[last], 80), ["10.0.1.2:80"]);
    assert_eq!(endpoints(&service, &[of(&[unready])], 80), [""; 0]);
}

#[test]
fn who_publishes_what_is_not_ready_gets_connections_and_so_does_what_is_unsaid() {
    let service = service(&json!({"clusterIPs": ["10.96.0.5"], "ports": [{"port": 80}]}));
    // As the controller writes it for publishNotReadyAddresses.
    let published = slice(
        &json!([{"port": 80}]),
        &json!([
            {"addresses": ["10.0.1.4"], "conditions": {"ready": true, "serving": false}},
            {"addresses": ["10.0.1.5"], "conditions": {
                "ready": true, "serving": true, "terminating": true,
            }},
            {"addresses": ["10.0.1.6"]},
        ]),
    );
    let all = ["10.0.1.4:80", "10.0.1.5:80", "10.0.1.6:80"];
    assert_eq!(endpoints(&service, &[published], 80), all);
}

#[test]
fn a_local_service_without_endpoints_here_has_none() {
    let local = service(&json!({
        "clusterIPs": ["10.96.0.5"], "ports": [{"port": 80}], "internalTrafficPolicy": "Local",
    }));
    let slice = slice(
        &json!([{"port": 80}]),
        &json!([{"addresses": ["10.0.2.4"], "nodeName": "b"}, {"addresses": ["10.0.3.4"]}]),
    );
    assert_eq!(endpoints(&local, &[slice], 80), [""; 0]);
}

#[test]
fn a_local_service_stays_on_the_node() {
    let local = service(&json!({
        "clusterIPs": ["10.96.0.5"], "ports": [{"port": 80}], "internalTrafficPolicy": "Local",
    }));
    let slice = slice(
        &json!([{"port": 80}]),
        &json!([
            {"addresses": ["10.0.1.4"], "nodeName": "a"},
            {"addresses": ["10.0.2.4"], "nodeName": "b"},
        ]),
    );
    assert_eq!(endpoints(&local, &[slice], 80), ["10.0.1.4:80"]);
}

/// With what each endpoint's hints are, by its last number.
fn hinted(service: &Service, hints: &[Value]) -> Vec<String> {
    let all = hints.iter().zip(1..).map(|(hints, n)| {
        let ready = *hints != json!("not ready");
        let hints = hints.as_object();
        json!({
            "addresses": [format!("10.0.1.{n}")], "conditions": {"ready": ready}, "hints": hints,
        })
    });
    let slice = slice(&json!([{"port": 80}]), &json!(all.collect::<Vec<_>>()));
    let all = endpoints(service, &[slice], 80).into_iter();
    all.filter_map(|at| Some(at.strip_prefix("10.0.1.")?.strip_suffix(":80")?.to_owned()))
        .collect()
}

#[test]
fn hints_keep_traffic_near_and_nobody_from_being_served() {
    let service = service(&json!({"clusterIPs": ["10.96.0.5"], "ports": [{"port": 80}]}));
    let zone = |name| json!({"forZones": [{"name": name}]});
    let [east, west] = ["east", "west"].map(zone);
    let both = json!({"forZones": [{"name": "west"}, {"name": "east"}]});
    let on = |node| json!({"forNodes": [{"name": node}], "forZones": [{"name": "east"}]});
    let not_ready = json!("not ready");
    for (expected, hints, what) in [
        (&["1", "3"][..], vec![&east, &west, &both], "the zone's"),
        (&["1", "2"], vec![&east, &Value::Null], "not all are hinted"),
        (&["1", "2"], vec![&west, &west], "none is for this zone"),
        (
            &["1"],
            vec![&east, &not_ready],
            "whoever is not ready has no say",
        ),
        (&["1"], vec![&on("a"), &on("b")], "the node's"),
        (
            &["1", "2"],
            vec![&on("b"), &on("c")],
            "of other nodes, in the zone",
        ),
    ] {
        let hints: Vec<Value> = hints.into_iter().cloned().collect();
        assert_eq!(hinted(&service, &hints), expected, "{what}");
    }
    // A node without a zone has none of its own, and each family its own hints.
    let slices = [
        slice(
            &json!([{"port": 80}]),
            &json!([{"addresses": ["10.0.1.1"], "hints": east}, {"addresses": ["10.0.1.2"], "hints": west}]),
        ),
        slice(
            &json!([{"port": 80}]),
            &json!([{"addresses": ["fd00::1"], "hints": west}, {"addresses": ["fd00::2"], "hints": west}]),
        ),
    ];
    let nowhere = Here { zone: None, ..HERE };
    for (at, all) in [(nowhere, 4), (HERE, 3)] {
        let table = service.table(slices.iter(), at);
        assert_eq!(table.ports[&80].addresses.len(), all);
    }
}

#[test]
fn an_endpoint_names_its_pod() {
    let slice = slice(
        &json!([{"port": 80}]),
        &json!([
            {"addresses": ["10.0.1.4"], "targetRef": {"kind": "Pod", "name": "web-1", "uid": "u1"}},
            {"addresses": ["192.0.2.1"], "targetRef": {"kind": "Node", "name": "a", "uid": "u2"}},
        ]),
    );
    let pods: Vec<Option<PodRef>> = slice.endpoints.into_iter().map(|e| e.pod).collect();
    let pod = PodRef {
        namespace: "shop".to_owned(),
        name: "web-1".to_owned(),
        uid: "u1".to_owned(),
    };
    assert_eq!(pods, [Some(pod), None]);
}

#[test]
fn whom_no_pod_stands_for_is_a_plain_address() {
    let service = service(&json!({"clusterIPs": ["10.96.0.1"], "ports": [{"port": 443}]}));
    let slice = slice(
        &json!([{"port": 6443}]),
        &json!([
            {"addresses": ["192.0.2.1"]},
            {"addresses": ["10.0.1.4"], "targetRef": {"kind": "Pod", "name": "web-1", "uid": "u1"}},
        ]),
    );
    let table = service.table([slice].iter(), HERE);
    let behind = &table.ports[&443];
    assert_eq!(behind.addresses, ["192.0.2.1:6443".parse().unwrap()]);
    assert_eq!(behind.workloads, ["10.0.1.4:6443".parse().unwrap()]);
}

#[test]
fn a_service_that_lost_its_last_pod_has_nobody() {
    let service = service(&json!({"clusterIPs": ["10.96.0.5"], "ports": [{"port": 80}]}));
    // As the controller writes it then.
    let empty = slice(&json!([{"port": 8080}]), &Value::Null);
    assert_eq!(endpoints(&service, &[empty], 80), [""; 0]);
}

#[test]
fn what_no_service_claims_is_left_out() {
    let object = json!({
        "metadata": {"name": "x", "namespace": "shop"}, "addressType": "IPv4", "endpoints": [],
    });
    assert_eq!(Slice::read(serde_json::from_value(object).unwrap()), None);
}
