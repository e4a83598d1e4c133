//! What a cluster's answers mean, and what its operator can do about them.

use crate::api_server::root_cause;
use crate::config::CertManager;
use crate::identity::server::shown;
use crate::spiffe::SpiffeId;

use super::AskError;
use super::request::{Answer, GROUP, PLURAL, Pending};

/// Why there is no certificate. `place` is the request's NAMESPACE/NAME.
pub(super) fn answer(
    answer: &Answer,
    place: &str,
    config: &CertManager,
    workload: &SpiffeId,
) -> String {
    let (namespace, name) = place.split_once('/').unwrap_or(("", place));
    let issuer = format!("{} {}", config.issuer_kind, config.issuer);
    let kind = format!(
        "{}.{}",
        config.issuer_kind.to_lowercase(),
        config.issuer_group
    );
    let look = format!("kubectl -n {namespace} describe {kind} {}", config.issuer);
    match answer {
        Answer::Denied(said) => format!(
            "the approver has denied CertificateRequest {place}: let its policy approve {workload} of {issuer} for the daemon's account (it said: {})",
            shown(said)
        ),
        Answer::Failed(said) => format!(
            "{issuer} has failed to sign CertificateRequest {place}: {look} (it said: {})",
            shown(said)
        ),
        Answer::Pending(Pending::Approver) => format!(
            "nobody has approved or denied CertificateRequest {place} yet: do cert-manager's controller and its approver, or approver-policy, run? By hand: cmctl approve -n {namespace} {name}"
        ),
        Answer::Pending(Pending::Controller) => format!(
            "CertificateRequest {place} is approved, and no controller answers for {issuer} of {}: correct `issuer_group` and `issuer_kind`, or start its controller",
            config.issuer_group
        ),
        Answer::Pending(Pending::Issuer(said)) if said.contains("not found") => format!(
            "there is no {issuer} for namespace {namespace}: make it, or correct `issuer`, `issuer_kind` and `namespace` (cert-manager said: {})",
            shown(said)
        ),
        Answer::Pending(Pending::Issuer(said)) => format!(
            "CertificateRequest {place} waits for {issuer}: {look} (cert-manager said: {})",
            shown(said)
        ),
        Answer::Gone => format!(
            "somebody has deleted CertificateRequest {place} before it was answered: another is made"
        ),
        Answer::Signed(_) => format!("CertificateRequest {place} is signed"),
    }
}

/// Why the API server did not do as it was asked.
pub(super) fn refused(error: &AskError, namespace: &str) -> String {
    let kube = match error {
        AskError::Login(error) => return format!("API server: {error}"),
        AskError::TimedOut => return "the API server does not answer".to_owned(),
        AskError::Kube(error) => error,
    };
    let kube::Error::Api(status) = kube else {
        return format!("API server: {}", root_cause(kube));
    };
    let said = shown(&status.message);
    let remedy = match status.code {
        401 => "is the token, or the certificate, of the kubeconfig still valid?".to_owned(),
        403 if said.contains("cannot") => format!(
            "let the daemon's account create, get, watch and delete {PLURAL}.{GROUP} in {namespace} (deploy/chart/templates/rbac.yaml)"
        ),
        404 if said.contains("namespaces") => {
            format!("there is no namespace {namespace}: make it, or correct `namespace`")
        }
        404 => "is cert-manager installed, and its CustomResourceDefinitions with it?".to_owned(),
        _ => format!("no {PLURAL} can be made in {namespace}"),
    };
    format!("API server: {remedy} (it said: {said})")
}

/// The request has served its purpose and is still there.
pub(super) fn not_deleted(error: &AskError, place: &str) -> String {
    let namespace = place.split_once('/').map_or("", |(namespace, _)| namespace);
    format!(
        "CertificateRequest {place} was not deleted, and such requests pile up: {}",
        refused(error, namespace)
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn told(what: &Answer) -> String {
        let config = CertManager {
            issuer: "mesh".to_owned(),
            issuer_kind: "Issuer".to_owned(),
            issuer_group: GROUP.to_owned(),
            namespace: None,
            kubeconfig: None,
            svid_ttl: Duration::from_secs(3600),
            bundle: "/roots.pem".into(),
        };
        let id = "spiffe://example.org/ns/shop/sa/web".parse().unwrap();
        answer(what, "shop/mtls-daemon-x", &config, &id)
    }

    #[test]
    fn what_keeps_a_certificate_comes_with_its_remedy() {
        let missing = "Referenced \"Issuer\" not found: issuer.cert-manager.io \"mesh\" not found";
        for (answer, remedy) in [
            (
                Answer::Denied("no policy".to_owned()),
                "approve spiffe://example.org/ns/shop/sa/web of Issuer mesh for the daemon's account (it said: no policy)",
            ),
            (
                Answer::Failed("bad\nkey".to_owned()),
                "kubectl -n shop describe issuer.cert-manager.io mesh (it said: bad key)",
            ),
            (
                Answer::Pending(Pending::Approver),
                "cmctl approve -n shop mtls-daemon-x",
            ),
            (
                Answer::Pending(Pending::Controller),
                "no controller answers for Issuer mesh of cert-manager.io",
            ),
            (
                Answer::Pending(Pending::Issuer(missing.to_owned())),
                "there is no Issuer mesh for namespace shop: make it",
            ),
            (
                Answer::Pending(Pending::Issuer("not ready".to_owned())),
                "waits for Issuer mesh: kubectl -n shop describe",
            ),
            (Answer::Gone, "another is made"),
        ] {
            let told = told(&answer);
            assert!(told.contains(remedy), "{told}");
        }
    }

    #[test]
    fn what_an_api_server_refuses_comes_with_its_remedy() {
        let status = |code: u16, message: &str| {
            let status = kube::core::Status::failure(message, "").with_code(code);
            AskError::Kube(kube::Error::Api(status.boxed()))
        };
        for (error, remedy) in [
            (
                status(403, "User \"x\" cannot create resource"),
                "create, get, watch and delete certificaterequests.cert-manager.io in shop",
            ),
            (
                status(403, "admission webhook \"w\" denied the request: no"),
                "denied the request: no",
            ),
            (
                status(404, "namespaces \"shop\" not found"),
                "there is no namespace shop",
            ),
            (
                status(404, "the server could not find the requested resource"),
                "is cert-manager installed",
            ),
            (status(401, "Unauthorized"), "still valid?"),
            (AskError::TimedOut, "does not answer"),
        ] {
            let told = refused(&error, "shop");
            assert!(told.contains(remedy), "{told}");
        }
    }
}
