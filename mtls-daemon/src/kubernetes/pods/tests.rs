//! What labels and annotations make of a pod, and what objects may add.

use serde_json::{Value, json};

use super::*;
use crate::kubernetes::policies::authentication::resolve;
use crate::kubernetes::policies::{Object, Reading};

fn rules() -> Rules {
    Rules::for_tests()
}

fn pod(metadata: &Value, spec: &Value, status: &Value) -> Pod {
    let mut metadata = metadata.clone();
    for (key, value) in [("name", "web-1"), ("namespace", "shop"), ("uid", "u1")] {
        metadata[key] = value.into();
    }
    let object = json!({"metadata": metadata, "spec": spec, "status": status});
    Pod::read(serde_json::from_value(object).unwrap(), &rules()).unwrap()
}

/// As a workload, where no object speaks of it.
fn workload(pod: &Pod, of_namespace: Option<Mode>) -> Option<config::Workload> {
    let rules = rules();
    pod.workload(pod.decided(of_namespace, &rules, None), &rules)
}

fn plain() -> Value {
    json!({"containers": [], "serviceAccountName": "web"})
}

#[test]
fn a_pod_is_its_service_account() {
    let status = json!({"podIPs": [{"ip": "10.0.1.4"}, {"ip": "fd00:1::4"}]});
    let pod = pod(&json!({}), &plain(), &status);
    let workload = workload(&pod, Some(Mode::Strict)).unwrap();
    assert_eq!(workload.name, "shop/web-1");
    assert_eq!(
        workload.spiffe_id.as_str(),
        "spiffe://example.org/ns/shop/sa/web"
    );
    assert_eq!(workload.place, Place::Pod("u1".to_owned()));
    assert_eq!(pod.addresses.len(), 2);
}

#[test]
fn the_narrowest_label_wins() {
    let mode_of = |metadata: &Value, namespace| {
        let pod = pod(metadata, &plain(), &json!({}));
        workload(&pod, namespace).unwrap().mode.unwrap()
    };
    let label = |mode| json!({"labels": {"mtls-daemon.io/mode": mode}});
    let annotation = json!({"annotations": {"mtls-daemon.io/mode": "strict"}});
    assert_eq!(mode_of(&json!({}), None), Mode::Off);
    assert_eq!(mode_of(&json!({}), Some(Mode::Strict)), Mode::Strict);
    assert_eq!(mode_of(&label("off"), Some(Mode::Strict)), Mode::Off);
    assert_eq!(mode_of(&label("strict"), Some(Mode::Off)), Mode::Strict);
    assert_eq!(mode_of(&annotation, Some(Mode::Off)), Mode::Strict);
    assert_eq!(mode_of(&label("permissive"), None), Mode::Permissive);
    let odd = pod(&label("lenient"), &plain(), &json!({}));
    assert!(odd.complaints[0].contains("write strict, permissive or off"));
}

#[test]
fn exclusions_that_cannot_be_read_exclude_nothing() {
    let pod = pod(
        &json!({"annotations": {
            "mtls-daemon.io/excluded-inbound-ports": "8081, http, 9100",
            "mtls-daemon.io/excluded-outbound-ports": "99999",
            "mtls-daemon.io/excluded-networks": "10.9.0.0/16,fd09::/64",
        }}),
        &plain(),
        &json!({}),
    );
    let workload = workload(&pod, None).unwrap();
    assert_eq!(workload.excluded_inbound_ports, [8081, 9100]);
    assert_eq!(workload.excluded_outbound_ports, [0; 0]);
    assert_eq!(workload.excluded.len(), 2);
    assert_eq!(pod.complaints.len(), 2);
}

#[test]
fn neither_the_nodes_own_pods_nor_ended_ones_have_an_identity() {
    let host = json!({"containers": [], "hostNetwork": true});
    assert_eq!(pod(&json!({}), &host, &json!({})).identity(&rules()), None);
    for phase in ["Succeeded", "Failed"] {
        let ended = pod(&json!({}), &plain(), &json!({"phase": phase}));
        assert_eq!(ended.identity(&rules()), None);
    }
    let at = |phase: &str| {
        let status = json!({"phase": phase, "podIPs": [{"ip": "192.0.2.7"}]});
        let pod = pod(&json!({}), &host, &status);
        pod.at("192.0.2.7".parse().unwrap(), Some(None), &rules())
    };
    assert_eq!([at("Running"), at("Failed")], [Who::Node, Who::Nobody]);
    let nameless = json!({"containers": []});
    let id = pod(&json!({}), &nameless, &json!({})).identity(&rules());
    assert!(id.unwrap().as_str().ends_with("/sa/default"));
}

#[test]
fn a_pod_is_known_to_have_no_daemon_by_labels_alone() {
    let status = json!({"podIPs": [{"ip": "10.0.1.4"}]});
    let is_off = |labels: Value, namespace| {
        let metadata = json!({"labels": labels});
        let pod = pod(&metadata, &plain(), &status);
        let who = pod.at("10.0.1.4".parse().unwrap(), namespace, &rules());
        assert!(who.identity().is_some(), "{who:?}");
        matches!(who, Who::NotEnrolled(_))
    };
    let off = json!({"mtls-daemon.io/mode": "off"});
    let on = json!({"mtls-daemon.io/mode": "permissive"});
    assert!(is_off(json!({}), Some(None)), "by default");
    assert!(is_off(json!({}), Some(Some(Mode::Off))));
    assert!(is_off(off.clone(), Some(Some(Mode::Strict))));
    assert!(is_off(off, None), "its own label is enough");
    assert!(!is_off(json!({}), None), "its namespace may say anything");
    assert!(!is_off(json!({}), Some(Some(Mode::Permissive))));
    assert!(!is_off(on, Some(Some(Mode::Off))));
}

#[test]
fn what_the_hooks_cannot_see_is_not_enrolled_and_says_why() {
    let host = json!({"containers": [], "hostNetwork": true});
    let kata = json!({"containers": [], "runtimeClassName": "kata-qemu"});
    let plain = json!({"containers": [], "runtimeClassName": "nvidia"});
    for (spec, said) in [(host, "hostNetwork"), (kata, "kata-qemu")] {
        let pod = pod(&json!({}), &spec, &json!({}));
        let unfit = pod.unfit(Mode::Strict, &rules()).unwrap();
        assert!(unfit.why.contains(said), "{}", unfit.why);
        assert_eq!(unfit.pod.uid, "u1");
        assert_eq!(workload(&pod, Some(Mode::Strict)), None);
        assert_eq!(pod.unfit(Mode::Off, &rules()), None, "nobody wanted it");
    }
    let plain = pod(&json!({}), &plain, &json!({}));
    assert_eq!(plain.unfit(Mode::Strict, &rules()), None);
    assert!(workload(&plain, Some(Mode::Strict)).is_some());
}

/// What an object of each level says of the pod `shop/web-1`.
fn objects(spec_of: [Option<&str>; 3]) -> Authentication {
    let [selecting, of_namespace, mesh_wide] = spec_of;
    let selector = json!({"matchLabels": {"app": "web"}});
    let object = |namespace: &str, mode: Option<&str>, selector: Option<&Value>| {
        let mut object = json!({
            "apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
            "metadata": {"namespace": namespace, "name": "p", "uid": "u"},
            "spec": {"mtls": {"mode": mode?}},
        });
        if let Some(selector) = selector {
            object["metadata"]["name"] = "selecting".into();
            object["spec"]["selector"] = selector.clone();
        }
        Object::read(serde_json::from_value(object).unwrap())
    };
    let all = [
        object("shop", selecting, Some(&selector)),
        object("shop", of_namespace, None),
        object("istio-system", mesh_wide, None),
    ];
    let labels = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
    let candidate = Candidate {
        namespace: "shop",
        name: "web-1",
        labels: &labels,
    };
    let reading = Reading {
        root_namespace: "istio-system".to_owned(),
        trust_domain: rules().trust_domain,
        paths_as_istio: true,
    };
    let (mut of_pods, _) = resolve(all.iter().flatten(), &[candidate], &reading, "v1");
    of_pods.remove("shop/web-1").unwrap_or_default()
}

#[test]
fn of_labels_and_objects_the_narrowest_counts() {
    let (strict, permissive) = (Some("STRICT"), Some("PERMISSIVE"));
    let decided = |own: Option<&str>, of_namespace, of_objects| {
        let metadata = own.map_or_else(
            || json!({}),
            |mode| json!({"labels": {"mtls-daemon.io/mode": mode}}),
        );
        let pod = pod(&metadata, &plain(), &json!({}));
        let decided = pod.decided(of_namespace, &rules(), Some(&objects(of_objects)));
        (decided.mode, decided.said_by.word().to_owned())
    };
    let by = |mode, word: &str| (mode, word.to_owned());
    let label = Some(Mode::Strict);
    let all = [permissive, strict, strict];
    assert_eq!(
        decided(Some("strict"), None, all),
        by(Mode::Strict, "its label")
    );
    let selecting = by(Mode::Permissive, "PeerAuthentication shop/selecting");
    assert_eq!(decided(None, label, all), selecting);
    let of_namespace = by(Mode::Permissive, "PeerAuthentication shop/p");
    assert_eq!(
        decided(None, label, [None, permissive, strict]),
        of_namespace
    );
    let unset = [Some("UNSET"), permissive, strict];
    assert_eq!(decided(None, label, unset), of_namespace);
    let by_label = by(Mode::Strict, "its namespace");
    assert_eq!(decided(None, label, [None, None, permissive]), by_label);
    // Objects enrol nobody.
    let off = by(Mode::Off, "kubernetes.mode");
    assert_eq!(decided(None, None, [strict; 3]), off);
    assert_eq!(
        decided(Some("off"), label, [strict; 3]),
        by(Mode::Off, "its label")
    );
    // Of the whole mesh after a namespace's label, before the node's default.
    let pod = pod(&json!({}), &plain(), &json!({}));
    let rules = Rules {
        mode: Mode::Permissive,
        ..rules()
    };
    let of_mesh = pod.decided(None, &rules, Some(&objects([None, None, strict])));
    assert_eq!(of_mesh.said_by.word(), "PeerAuthentication istio-system/p");
    assert_eq!(of_mesh.mode, Mode::Strict);
}

#[test]
fn a_static_pod_is_found_by_the_uid_that_its_kubelet_gave_it() {
    let hash = "0123456789abcdef0123456789abcdef";
    let mirror = |of: &str, at: &str| {
        let annotations = json!({"kubernetes.io/config.mirror": of});
        let metadata = json!({"annotations": annotations, "creationTimestamp": at});
        pod(&metadata, &plain(), &json!({}))
    };
    let first = mirror(hash, "2026-01-01T00:00:00Z");
    assert_eq!(first.local_uid(), hash);
    assert_eq!(first.reference().uid, "u1", "as the API server knows it");
    let workload = workload(&first, Some(Mode::Strict)).unwrap();
    assert_eq!(workload.place, Place::Pod(hash.to_owned()));

    // Another pod's UID, which anybody may write there, is not believed.
    for other in [
        "",
        "0a6cbd6e-5f0c-4a8c-9d8e-1f2a3b4c5d6e",
        "0123456789ABCDEF0123456789ABCDEF",
    ] {
        let other = mirror(other, "2026-01-01T00:00:00Z");
        assert_eq!(other.local_uid(), "u1");
        assert!(!other.is_claimed_by(&first));
    }
    // And of two that are said to be one, the older is.
    let second = mirror(hash, "2026-01-01T00:00:01Z");
    assert!(second.is_claimed_by(&first) && !first.is_claimed_by(&second));
    assert!(!first.is_claimed_by(&first));
}
