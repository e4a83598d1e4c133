//! A CertificateRequest: what is asked, and what its conditions answer.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::config::{self, OwningPod};

pub(super) const GROUP: &str = "cert-manager.io";
pub(super) const VERSION: &str = "v1";
pub(super) const KIND: &str = "CertificateRequest";
pub(super) const PLURAL: &str = "certificaterequests";

/// What has become of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The chain in PEM, leaf first.
    Signed(String),
    /// With what its approver says.
    Denied(String),
    /// With what the issuer's controller says.
    Failed(String),
    Pending(Pending),
    /// Somebody has deleted it.
    Gone,
}

/// Whom it waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Pending {
    Approver,
    /// Of the issuer no controller has said anything.
    Controller,
    /// With what the issuer's controller says.
    Issuer(String),
}

/// The object, to be made in `namespace`; `csr` is PEM.
pub(super) fn manifest(
    csr: &str,
    config: &config::CertManager,
    namespace: &str,
    pod: Option<&OwningPod>,
) -> Value {
    let mut manifest = json!({
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "kind": KIND,
        "metadata": {
            "generateName": "mtls-daemon-",
            "namespace": namespace,
            "labels": {"app.kubernetes.io/managed-by": "mtls-daemon"},
        },
        "spec": {
            "request": STANDARD.encode(csr),
            "issuerRef": {
                "name": config.issuer, "kind": config.issuer_kind, "group": config.issuer_group,
            },
            "duration": format!("{}s", config.svid_ttl.as_secs()),
            "usages": ["digital signature", "client auth", "server auth"],
            "isCA": false,
        },
    });
    // It is taken away with its pod, if the daemon cannot do so any more.
    if let Some(pod) = pod.filter(|pod| pod.namespace == namespace) {
        manifest["metadata"]["ownerReferences"] = json!([{
            "apiVersion": "v1", "kind": "Pod", "name": pod.name, "uid": pod.uid,
        }]);
    }
    manifest
}

impl Answer {
    /// By the object's `status`.
    pub(super) fn read(status: &Value) -> Self {
        let condition = |kind: &str| {
            let conditions = status["conditions"].as_array();
            conditions?.iter().find(|one| one["type"] == kind)
        };
        let holds = |kind: &str| condition(kind).filter(|one| one["status"] == "True");
        let message = |one: &Value| one["message"].as_str().unwrap_or_default().to_owned();
        if let Some(denied) = holds("Denied") {
            return Self::Denied(message(denied));
        }
        if let Some(invalid) = holds("InvalidRequest") {
            return Self::Failed(message(invalid));
        }
        let Some(ready) = condition("Ready") else {
            return Self::Pending(match holds("Approved") {
                Some(_) => Pending::Controller,
                None => Pending::Approver,
            });
        };
        match ready["reason"].as_str() {
            Some("Denied") => Self::Denied(message(ready)),
            Some("Failed") => Self::Failed(message(ready)),
            _ if ready["status"] == "True" => Self::signed(status),
            _ => Self::Pending(Pending::Issuer(message(ready))),
        }
    }

    fn signed(status: &Value) -> Self {
        let encoded = status["certificate"].as_str().unwrap_or_default();
        let text = STANDARD.decode(encoded).ok();
        match text.and_then(|text| String::from_utf8(text).ok()) {
            Some(text) if !text.is_empty() => Self::Signed(text),
            _ => Self::Failed("it is ready, and holds no certificate".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn of(conditions: &Value) -> Answer {
        Answer::read(&json!({"conditions": conditions, "certificate": STANDARD.encode("PEM")}))
    }

    #[test]
    fn conditions_are_answers() {
        let approved = json!({"type": "Approved", "status": "True"});
        let ready = |status: &str, reason: &str| json!({"type": "Ready", "status": status, "reason": reason, "message": "m"});
        let m = || "m".to_owned();
        for (conditions, answer) in [
            (json!([]), Answer::Pending(Pending::Approver)),
            (json!([approved]), Answer::Pending(Pending::Controller)),
            (
                json!([approved, ready("False", "Pending")]),
                Answer::Pending(Pending::Issuer(m())),
            ),
            (
                json!([approved, ready("True", "Issued")]),
                Answer::Signed("PEM".to_owned()),
            ),
            (
                json!([approved, ready("False", "Failed")]),
                Answer::Failed(m()),
            ),
            (
                json!([{"type": "Denied", "status": "True", "message": "m"}, ready("False", "Denied")]),
                Answer::Denied(m()),
            ),
            (
                json!([approved, {"type": "InvalidRequest", "status": "True", "message": "m"}]),
                Answer::Failed(m()),
            ),
            // Not denied, and not approved yet.
            (
                json!([{"type": "Denied", "status": "False"}]),
                Answer::Pending(Pending::Approver),
            ),
        ] {
            assert_eq!(of(&conditions), answer, "{conditions}");
        }
    }

    #[test]
    fn what_is_ready_and_holds_nothing_has_failed() {
        let ready = json!([{"type": "Ready", "status": "True"}]);
        for certificate in [json!(null), json!(""), json!("%")] {
            let status = json!({"conditions": ready, "certificate": certificate});
            assert!(matches!(Answer::read(&status), Answer::Failed(_)));
        }
    }

    #[test]
    fn a_request_belongs_to_its_pod_where_it_can() {
        let config = config::CertManager {
            issuer: "mesh".to_owned(),
            issuer_kind: "ClusterIssuer".to_owned(),
            issuer_group: GROUP.to_owned(),
            namespace: None,
            kubeconfig: None,
            svid_ttl: Duration::from_secs(90),
            bundle: "/roots.pem".into(),
        };
        let pod = OwningPod {
            namespace: "shop".to_owned(),
            name: "web-1".to_owned(),
            uid: "u1".to_owned(),
        };
        let made = manifest("CSR", &config, "shop", Some(&pod));
        assert_eq!(made["metadata"]["ownerReferences"][0]["uid"], "u1");
        assert_eq!(made["spec"]["duration"], "90s");
        assert_eq!(made["spec"]["issuerRef"]["kind"], "ClusterIssuer");
        let elsewhere = manifest("CSR", &config, "mtls-daemon", Some(&pod));
        assert_eq!(elsewhere["metadata"]["ownerReferences"], Value::Null);
    }
}
