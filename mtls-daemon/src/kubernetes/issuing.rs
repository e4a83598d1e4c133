//! How a pod's certificates are asked for, where the node's source asks for
//! each workload in another way.

use crate::config::{OwningPod, PodSecret, SelectedBy, Selector, Source};

use super::pods::{Pod, Rules};

/// A SPIRE agent is asked by what its own attestor would have found out, a
/// cert-manager on the pod's behalf, and Secrets lie beside it. `None`: as the node's source is.
pub(super) fn source(pod: &Pod, rules: &Rules) -> Option<Source> {
    match rules.source.as_ref()? {
        Source::Spire(spire, SelectedBy::Name) => {
            let selectors = SelectedBy::Selectors(selectors(pod, rules));
            Some(Source::Spire(spire.clone(), selectors))
        }
        Source::CertManager(asked, _) => {
            let owner = OwningPod {
                namespace: pod.namespace.clone(),
                name: pod.name.clone(),
                uid: pod.uid.clone(),
            };
            Some(Source::CertManager(asked.clone(), Some(owner)))
        }
        Source::Secrets(read, _) => {
            let secret = PodSecret {
                namespace: pod.namespace.clone(),
                name: read.name.of(&pod.service_account),
            };
            Some(Source::Secrets(read.clone(), Some(secret)))
        }
        _ => None,
    }
}

fn selectors(pod: &Pod, rules: &Rules) -> Vec<Selector> {
    let selector = |value: String| Selector {
        kind: "k8s".to_owned(),
        value,
    };
    let selectors = [
        format!("ns:{}", pod.namespace),
        format!("sa:{}", pod.service_account),
        format!("pod-name:{}", pod.name),
        // As the kubelet has it, which is whom the attestor asks.
        format!("pod-uid:{}", pod.local_uid()),
        format!("node-name:{}", rules.node),
    ];
    selectors.map(selector).to_vec()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;
    use crate::config::{CertManager, Spire};

    fn of_a_pod(nodes: Source) -> Option<Source> {
        of_a_pod_with(nodes, &json!({}))
    }

    fn of_a_pod_with(nodes: Source, annotations: &Value) -> Option<Source> {
        let rules = Rules {
            source: Some(nodes),
            ..Rules::for_tests()
        };
        let pod = json!({
            "metadata": {
                "name": "web-1", "namespace": "shop", "uid": "u1", "annotations": annotations,
            },
            "spec": {"containers": [], "serviceAccountName": "web"},
        });
        source(
            &Pod::read(serde_json::from_value(pod).unwrap(), &rules).unwrap(),
            &rules,
        )
    }

    #[test]
    fn an_agent_is_asked_by_the_pods_selectors() {
        let spire = Spire {
            socket: "/run/spire.sock".into(),
        };
        let spire = Source::Spire(spire, SelectedBy::Name);
        let mirror = "0123456789abcdef0123456789abcdef";
        for (annotations, uid) in [
            (json!({}), "u1"),
            // Of a static pod.
            (json!({"kubernetes.io/config.mirror": mirror}), mirror),
        ] {
            let asked = of_a_pod_with(spire.clone(), &annotations);
            let Some(Source::Spire(_, SelectedBy::Selectors(selectors))) = asked else {
                panic!("no selectors");
            };
            let selectors: Vec<String> = selectors.iter().map(ToString::to_string).collect();
            for wanted in ["ns:shop", "sa:web", &format!("pod-uid:{uid}")] {
                assert!(selectors.contains(&format!("k8s:{wanted}")), "{wanted}");
            }
        }
    }

    #[test]
    fn a_cert_manager_is_asked_on_the_pods_behalf() {
        let asked = CertManager {
            issuer: "mesh".to_owned(),
            issuer_kind: "Issuer".to_owned(),
            issuer_group: "cert-manager.io".to_owned(),
            namespace: None,
            kubeconfig: None,
            svid_ttl: Duration::from_secs(3600),
            bundle: "/roots.pem".into(),
        };
        let nodes = Source::CertManager(asked, None);
        let pods = of_a_pod(nodes.clone()).unwrap();
        assert!(pods.same_authority(&nodes));
        let Source::CertManager(_, Some(pod)) = pods else {
            panic!("no pod");
        };
        assert_eq!(
            (pod.namespace.as_str(), pod.name.as_str(), pod.uid.as_str()),
            ("shop", "web-1", "u1")
        );
    }
}
