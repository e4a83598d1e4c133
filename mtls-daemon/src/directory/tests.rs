use std::time::Duration;

use super::*;

const NODE: &str = r#"
version = 1
[identity]
trust_domain = "example.org"
[identity.disk-ca]
certificate = "/ca.pem"
key = "/ca-key.pem"
[[peer]]
name = "db"
spiffe_id = "spiffe://example.org/db"
addresses = ["10.0.2.7"]
[kubernetes]
"#;

const NOBODY: [IpAddr; 0] = [];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn dst(text: &str) -> OriginalDst {
    OriginalDst(text.parse().unwrap())
}

fn id(name: &str) -> SpiffeId {
    format!("spiffe://example.org/{name}").parse().unwrap()
}

/// With a Service in front of 10.0.1.1 to 10.0.1.20.
fn cluster() -> Cluster {
    let endpoints = (1..=20).map(|n| format!("10.0.1.{n}:8080").parse().unwrap());
    let behind = Behind {
        workloads: endpoints.collect(),
        addresses: Vec::new(),
    };
    let service = Service {
        ports: HashMap::from([(80, behind)]),
        sticky: false,
    };
    Cluster {
        answers: true,
        services: HashMap::from([(ip("10.96.0.5"), Arc::new(service))]),
        networks: vec![
            "10.0.0.0/16".parse().unwrap(),
            "10.96.0.0/16".parse().unwrap(),
        ],
        ..Cluster::default()
    }
}

fn directory(cluster: Cluster) -> Directory {
    let config = crate::config::parse("x", NODE).unwrap();
    Directory::new(&config, Arc::new(cluster))
}

fn seen(cluster: &mut Cluster, address: &str, name: Option<&str>, asked: Option<Instant>) {
    let who = name.map_or(Who::Nobody, |name| Who::Workload(id(name)));
    cluster.seen.insert(ip(address), Seen { who, asked });
}

#[test]
fn who_was_not_asked_for_is_asked_for() {
    let now = Instant::now();
    let mut cluster = cluster();
    seen(&mut cluster, "10.0.1.1", Some("web"), None);
    seen(&mut cluster, "10.0.1.2", Some("web"), Some(now));
    let directory = directory(cluster);
    let asks = |to: &str| directory.questions(dst(to), None, now);
    assert_eq!(asks("10.0.1.1:80"), NOBODY, "it is watched");
    assert_eq!(asks("10.0.1.2:80"), NOBODY, "it has just been asked for");
    assert_eq!(asks("10.0.1.3:80"), [ip("10.0.1.3")]);
    assert_eq!(asks("10.0.2.7:80"), NOBODY, "the operator has said it");
    assert_eq!(asks("192.0.2.1:80"), NOBODY, "it is outside");
    let later = now + Duration::from_secs(3600);
    assert_eq!(
        directory.questions(dst("10.0.1.2:80"), None, later),
        [ip("10.0.1.2")]
    );
    assert!(matches!(
        directory.find(dst("10.0.1.2:80")),
        Destination::Workload(_)
    ));
}

#[test]
fn many_behind_a_service_become_known_by_and_by() {
    let now = Instant::now();
    let mut cluster = cluster();
    assert_eq!(
        directory(cluster.clone()).find(dst("10.96.0.5:80")),
        Destination::Unknown
    );
    let first = directory(cluster.clone()).questions(dst("10.96.0.5:80"), None, now);
    assert_eq!(first.len(), QUESTIONS);
    for address in first {
        seen(&mut cluster, &address.to_string(), Some("web"), Some(now));
    }
    let directory = directory(cluster);
    let Destination::Service(known) = directory.find(dst("10.96.0.5:80")) else {
        panic!("nobody is known");
    };
    assert_eq!(known.len(), QUESTIONS);
    assert!(
        !directory
            .questions(dst("10.96.0.5:80"), None, now)
            .contains(&known[0].address().ip())
    );
    assert_eq!(directory.find(dst("10.96.0.5:81")), Destination::Unknown);
}

#[test]
fn a_client_of_a_sticky_service_keeps_to_one_endpoint() {
    let now = Instant::now();
    let mut cluster = cluster();
    let vip = dst("10.96.0.5:80");
    let ports = cluster.services[&ip("10.96.0.5")].ports.clone();
    let all = ports[&80].workloads.clone();
    let sticky = true;
    let service = Service { ports, sticky };
    cluster.services = HashMap::from([(ip("10.96.0.5"), Arc::new(service))]);
    let client = Some(ip("10.0.1.200"));
    let first = *all
        .iter()
        .min_by_key(|at| preference(client, **at))
        .unwrap();

    // The one of its choice is asked for first, and awaited until it is told.
    let before = directory(cluster.clone());
    assert_eq!(before.questions(vip, client, now)[0], first.ip());
    assert_eq!(before.awaited(vip, client), Some(first.ip()));
    for at in &all {
        seen(&mut cluster, &at.ip().to_string(), Some("web"), Some(now));
    }
    let told = directory(cluster.clone());
    assert_eq!(told.awaited(vip, client), None);
    let Destination::Sticky(targets) = told.find(vip) else {
        panic!("nobody is known");
    };
    assert_eq!(targets.len(), all.len());

    // Each of many has clients, and who goes moves nobody else's.
    let clients: Vec<_> = (0..=255)
        .map(|n| Some(ip(&format!("10.0.7.{n}"))))
        .collect();
    let choice = |of: &[SocketAddr], client| {
        let by = of.iter().min_by_key(|at| preference(client, **at));
        *by.unwrap()
    };
    let (gone, left) = all.split_first().unwrap();
    let mut chosen = BTreeSet::new();
    for client in clients {
        let before = choice(&all, client);
        chosen.insert(before);
        assert!(before == *gone || choice(left, client) == before);
    }
    assert_eq!(chosen.len(), all.len());
}

#[test]
fn nobody_is_an_answer_and_no_identity() {
    let now = Instant::now();
    let mut cluster = cluster();
    seen(&mut cluster, "10.0.1.9", None, Some(now));
    let directory = directory(cluster);
    assert_eq!(directory.find(dst("10.0.1.9:80")), Destination::Unknown);
    assert!(directory.is_answered(ip("10.0.1.9"), now));
    assert!(!directory.is_answered(ip("10.0.1.9"), now + Duration::from_secs(1)));
    assert!(!directory.is_at(&id("web"), ip("10.0.1.9")));
    assert!(directory.may_learn(ip("10.0.1.9")));
    assert!(!directory.may_learn(ip("10.0.2.7")) && !directory.may_learn(ip("192.0.2.1")));
}

#[test]
fn a_pod_without_a_daemon_is_one_unless_a_floor_gives_it_one() {
    let mut cluster = cluster();
    let (who, asked) = (Who::NotEnrolled(id("old")), None);
    cluster.seen.insert(ip("10.0.1.1"), Seen { who, asked });
    let found = directory(cluster.clone()).find(dst("10.0.1.1:80"));
    let address = "10.0.1.1:80".parse().unwrap();
    assert_eq!(found, Destination::NotEnrolled(address));
    let floor = NODE.replace("version = 1", "version = 1\n[node]\nfloor = \"permissive\"");
    let config = crate::config::parse("x", &(floor + "mode = \"permissive\"\n")).unwrap();
    let found = Directory::new(&config, Arc::new(cluster)).find(dst("10.0.1.1:80"));
    assert!(matches!(found, Destination::Workload(_)), "{found:?}");
}

#[test]
fn a_clients_connection_stays_in_its_family() {
    let mut cluster = kubernetes();
    let behind = Behind {
        workloads: ["10.0.1.4:80", "[fd00:1::4]:80"]
            .map(|it| it.parse().unwrap())
            .into(),
        addresses: Vec::new(),
    };
    let dual = Arc::new(Service {
        ports: HashMap::from([(80, behind)]),
        sticky: false,
    });
    for vip in ["10.96.0.5", "fd00:96::5"] {
        cluster.services.insert(ip(vip), Arc::clone(&dual));
    }
    for pod in ["10.0.1.4", "fd00:1::4"] {
        seen(&mut cluster, pod, Some("web"), None);
    }
    let directory = directory(cluster);
    for (vip, pod) in [
        ("10.96.0.5:80", "10.0.1.4:80"),
        ("[fd00:96::5]:80", "[fd00:1::4]:80"),
    ] {
        let Destination::Service(found) = directory.find(dst(vip)) else {
            panic!("{vip} leads nowhere");
        };
        let found: Vec<SocketAddr> = found.iter().map(Target::address).collect();
        assert_eq!(found, [pod.parse().unwrap()]);
    }
}

#[test]
fn what_lies_outside_the_networks_is_captured_too() {
    let mut cluster = cluster();
    cluster.networks.pop();
    let captured = directory(cluster).captured_networks();
    assert_eq!(
        captured,
        ["10.0.0.0/16".parse().unwrap(), IpNet::from(ip("10.96.0.5"))]
    );
}

/// The API server, a pod whose network the operator forgot, and a `hostNetwork` pod.
fn kubernetes() -> Cluster {
    let at = |text: &str| text.parse().unwrap();
    let behind = Behind {
        workloads: vec![at("192.0.2.8:80"), at("192.0.2.9:80")],
        addresses: vec![at("192.0.2.1:6443"), at("10.0.3.3:6443")],
    };
    Cluster {
        answers: true,
        services: HashMap::from([(
            ip("10.96.0.1"),
            Arc::new(Service {
                ports: HashMap::from([(443, behind)]),
                sticky: false,
            }),
        )]),
        networks: vec!["10.0.0.0/8".parse().unwrap()],
        ..Cluster::default()
    }
}

#[test]
fn a_service_may_lead_outside_but_nobody_is_outside_for_want_of_knowledge() {
    let (now, mut cluster, vip) = (Instant::now(), kubernetes(), dst("10.96.0.1:443"));
    let outside = |text: &str| Target::Outside(text.parse().unwrap());
    let unasked = directory(cluster.clone());
    let api_server = Destination::Service(vec![outside("192.0.2.1:6443")]);
    assert_eq!(unasked.find(vip), api_server);
    let pods_and_mesh = ["192.0.2.8", "192.0.2.9", "10.0.3.3"].map(ip);
    assert_eq!(unasked.questions(vip, None, now), pods_and_mesh);

    seen(&mut cluster, "192.0.2.8", None, Some(now));
    seen(&mut cluster, "10.0.3.3", None, Some(now));
    let (who, asked) = (Who::Node, Some(now));
    cluster.seen.insert(ip("192.0.2.9"), Seen { who, asked });
    let answered = directory(cluster.clone());
    let with_node = vec![outside("192.0.2.9:80"), outside("192.0.2.1:6443")];
    assert_eq!(answered.find(vip), Destination::Service(with_node));
    assert!(
        !answered
            .captured_networks()
            .contains(&ip("192.0.2.9").into())
    );

    // Who has an identity is reached by it, wherever that is.
    seen(&mut cluster, "192.0.2.9", Some("web"), Some(now));
    seen(&mut cluster, "192.0.2.1", Some("web"), Some(now));
    let Destination::Service(found) = directory(cluster).find(vip) else {
        panic!("nobody is known");
    };
    assert!(
        found.iter().all(|one| matches!(one, Target::Workload(_))),
        "{found:?}"
    );
}

#[test]
fn a_node_is_no_workload_and_not_unknown() {
    let mut cluster = cluster();
    assert_eq!(
        directory(cluster.clone()).find(dst("10.0.9.1:10250")),
        Destination::Unknown
    );
    let (who, asked) = (Who::Node, None);
    cluster.seen.insert(ip("10.0.9.1"), Seen { who, asked });
    let directory = directory(cluster);
    assert_eq!(directory.find(dst("10.0.9.1:10250")), Destination::Node);
    assert!(!directory.is_at(&id("web"), ip("10.0.9.1")));
}
