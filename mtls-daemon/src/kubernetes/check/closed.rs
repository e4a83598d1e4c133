//! NetworkPolicies that would let enrolled pods have everything but tunnels.

use std::collections::BTreeMap;

use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicyPort, NetworkPolicySpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;
use kube::core::{Selector, SelectorExt};

use super::{Enrolled, some_of};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    In,
    Out,
}

impl Way {
    const fn word(self) -> &'static str {
        match self {
            Self::In => "Ingress",
            Self::Out => "Egress",
        }
    }

    const fn list(self) -> &'static str {
        match self {
            Self::In => "ingress",
            Self::Out => "egress",
        }
    }

    fn is_judged_by(self, spec: &NetworkPolicySpec) -> bool {
        match &spec.policy_types {
            Some(types) if !types.is_empty() => types.iter().any(|it| it == self.word()),
            _ => self == Self::In || spec.egress.as_ref().is_some_and(|rules| !rules.is_empty()),
        }
    }

    /// Whether a rule admits the port, from somebody or to somebody.
    fn is_open(self, spec: &NetworkPolicySpec, port: u16) -> bool {
        let admits = |ports: &Option<Vec<NetworkPolicyPort>>| match ports.as_deref() {
            None | Some([]) => true,
            Some(ports) => ports.iter().any(|it| is_admitted(it, port)),
        };
        match self {
            Self::In => (spec.ingress.iter().flatten()).any(|rule| admits(&rule.ports)),
            Self::Out => (spec.egress.iter().flatten()).any(|rule| admits(&rule.ports)),
        }
    }
}

/// One text for each set of policies that leaves pods without tunnels.
pub(super) fn to_tunnels(
    policies: &[NetworkPolicy],
    pods: &[Enrolled],
    tunnel_port: u16,
) -> Vec<String> {
    let mut closed: BTreeMap<(Way, Vec<String>), Vec<String>> = BTreeMap::new();
    for pod in pods {
        let of_pod = policies.iter().filter_map(|policy| {
            let is_here = policy.namespace().as_deref() == Some(&pod.namespace);
            let spec = policy.spec.as_ref().filter(|_| is_here)?;
            selects(spec.pod_selector.as_ref(), &pod.labels).then(|| (policy.name_any(), spec))
        });
        let of_pod: Vec<_> = of_pod.collect();
        for way in [Way::In, Way::Out] {
            let judging = || of_pod.iter().filter(|(_, spec)| way.is_judged_by(spec));
            let mut names: Vec<String> = judging()
                .map(|(name, _)| format!("{}/{name}", pod.namespace))
                .collect();
            if !names.is_empty() && !judging().any(|(_, spec)| way.is_open(spec, tunnel_port)) {
                names.sort_unstable();
                closed
                    .entry((way, names))
                    .or_default()
                    .push(pod.workload.name.clone());
            }
        }
    }
    let text = |((way, policies), pods): ((Way, Vec<String>), Vec<String>)| {
        format!(
            "kubernetes: NetworkPolicy {} does not admit the tunnels of {} ({}): add `- ports: [{{ port: {tunnel_port}, protocol: TCP }}]` to its `{}`",
            policies.join(", "),
            some_of(&pods),
            way.word(),
            way.list(),
        )
    };
    closed.into_iter().map(text).collect()
}

/// No selector selects all; one that makes no sense is taken to select, too.
pub(super) fn selects(selector: Option<&LabelSelector>, labels: &BTreeMap<String, String>) -> bool {
    let selector = selector.cloned().unwrap_or_default();
    Selector::try_from(selector).map_or(true, |selector| selector.matches(labels))
}

/// Names are of containers' ports, and no container has the tunnels'.
fn is_admitted(rule: &NetworkPolicyPort, port: u16) -> bool {
    if rule.protocol.as_deref().unwrap_or("TCP") != "TCP" {
        return false;
    }
    let port = i32::from(port);
    match &rule.port {
        None => true,
        Some(IntOrString::Int(first)) => (*first..=rule.end_port.unwrap_or(*first)).contains(&port),
        Some(IntOrString::String(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn judged(spec: Value) -> [Option<bool>; 2] {
        let spec: NetworkPolicySpec = serde_json::from_value(spec).unwrap();
        [Way::In, Way::Out].map(|way| {
            let is_open = way.is_open(&spec, 15008);
            way.is_judged_by(&spec).then_some(is_open)
        })
    }

    #[test]
    fn which_ways_a_policy_closes() {
        // Without policyTypes always what comes in, and what goes out if it
        // says something of it.
        assert_eq!(judged(json!({"podSelector": {}})), [Some(false), None]);
        let both = json!({"podSelector": {}, "egress": [{}]});
        assert_eq!(judged(both), [Some(false), Some(true)]);
        let out = json!({"podSelector": {}, "policyTypes": ["Egress"]});
        assert_eq!(judged(out), [None, Some(false)]);
    }

    #[test]
    fn which_rules_admit_the_tunnels() {
        let admits = |ports: Value| {
            let spec = json!({"podSelector": {}, "ingress": [{"ports": ports}]});
            judged(spec)[0] == Some(true)
        };
        for open in [
            json!([]),
            json!([{"port": 15008}]),
            json!([{"port": 15008, "protocol": "TCP"}]),
            json!([{"protocol": "TCP"}]),
            json!([{"port": 15000, "endPort": 15008}]),
            json!([{"port": 80}, {"port": 15008}]),
        ] {
            assert!(admits(open.clone()), "{open}");
        }
        for closed in [
            json!([{"port": 8080}]),
            json!([{"port": 15008, "protocol": "UDP"}]),
            json!([{"protocol": "SCTP"}]),
            json!([{"port": 15009, "endPort": 15010}]),
            json!([{"port": "tunnel"}]),
        ] {
            assert!(!admits(closed.clone()), "{closed}");
        }
    }

    #[test]
    fn which_pods_a_policy_selects() {
        let labels = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
        let selects = |selector: Value| {
            let selector = serde_json::from_value(selector).unwrap();
            selects(Some(&selector), &labels)
        };
        assert!(super::selects(None, &labels));
        assert!(selects(json!({})));
        assert!(selects(json!({"matchLabels": {"app": "web"}})));
        assert!(!selects(json!({"matchLabels": {"app": "db"}})));
        let not = |values: Value| json!({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": values}]});
        assert!(selects(not(json!(["db"]))));
        assert!(!selects(not(json!(["web"]))));
    }
}
