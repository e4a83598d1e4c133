//! What a Vault's refusals mean, and what its operator can do about them.

use std::path::Path;

use http::StatusCode;

use super::client::CallError;
use crate::config::{ServerUrl, Vault};
use crate::identity::server::ServerError;
use crate::spiffe::SpiffeId;

/// Why it did not sign.
pub(super) fn sign(error: &CallError, config: &Vault, workload: &SpiffeId) -> String {
    let (mount, role) = (&config.mount, &config.role);
    let domain = workload.trust_domain_str();
    let CallError::Refused { errors, .. } = error else {
        return common(error, &config.address);
    };
    let says = |words: &str| errors.iter().any(|error| error.contains(words));
    let remedy = if says("permission denied") {
        format!(
            "the token may not use the role, or has ended. Its policy needs: path \"{mount}/sign/{role}\" {{ capabilities = [\"update\"] }}"
        )
    } else if says("URI Subject Alternative Name") {
        format!(
            "the role {role} does not sign {workload}: let it, with allowed_uri_sans=\"spiffe://{domain}/*\", or correct the workload's spiffe_id"
        )
    } else if says("unknown role") {
        format!(
            "there is no role {role} at {mount}: make it, with allowed_uri_sans=\"spiffe://{domain}/*\" require_cn=false key_type=ec key_bits=256"
        )
    } else if says("common_name field is required") || says("common name") {
        format!(
            "the role {role} wants a common name, and a workload's certificate has none: set require_cn=false"
        )
    } else if says("requires keys of type") || says("key type") {
        format!(
            "the role {role} wants keys of another kind: set key_type=ec key_bits=256, or key_type=any"
        )
    } else if says("no handler for route") || says("unsupported path") {
        format!(
            "nothing is mounted at {mount}: correct `mount` or `namespace`, or enable the PKI secrets engine there"
        )
    } else {
        return common(error, &config.address);
    };
    format!(
        "{} refused to sign: {remedy} (it said: {})",
        config.address,
        errors.join("; ")
    )
}

/// Why an AppRole did not log in.
pub(super) fn app_role(
    error: &CallError,
    server: &ServerUrl,
    mount: &str,
    secret_id_file: &Path,
) -> String {
    let CallError::Refused { errors, .. } = error else {
        return common(error, server);
    };
    let says = |words: &str| errors.iter().any(|error| error.contains(words));
    let file = secret_id_file.display();
    if says("invalid role or secret ID") || says("invalid secret id") || says("invalid role ID") {
        format!(
            "{server} refused the login: role_id is wrong, or the secret_id in {file} is wrong, has ended or was used up; write a new one there"
        )
    } else if says("permission denied") || says("no handler for route") {
        format!(
            "{server} refused the login: no AppRole auth method is at auth/{mount}: correct `approle_mount` or `namespace`"
        )
    } else {
        common(error, server)
    }
}

/// Why a service account did not log in, at an auth method's mount with a role.
pub(super) fn account(
    error: &CallError,
    server: &ServerUrl,
    [mount, role]: [&str; 2],
    file: &Path,
) -> String {
    let CallError::Refused { errors, .. } = error else {
        return common(error, server);
    };
    let says = |words: &str| errors.iter().any(|error| error.contains(words));
    let remedy = if says("no handler for route") || says("unsupported path") {
        format!("nothing is at auth/{mount}: correct `auth_mount` or `namespace`, or enable it")
    } else if says("invalid role name") || says("could not be found") {
        format!("there is no role {role} at auth/{mount}: make it, or correct `auth_role`")
    } else if says("audience") {
        format!(
            "the token in {} is made out to others than the role {role} expects: compare its `audience` with the role's",
            file.display()
        )
    } else if says("not authorized") || says("bound") || says("claim") {
        format!(
            "the role {role} is not for the daemon's account: let it, with bound_service_account_names and bound_service_account_namespaces (jwt: bound_subject)"
        )
    } else if says("permission denied") {
        format!(
            "nothing is at auth/{mount}, or it does not believe the token in {}, or may not have it judged: enable it, configure it for this cluster, with the right to make TokenReviews (system:auth-delegator)",
            file.display()
        )
    } else {
        return common(error, server);
    };
    format!(
        "{server} refused the login: {remedy} (it said: {})",
        errors.join("; ")
    )
}

/// Why a token from a file was of no use.
pub(super) fn token(error: &CallError, server: &ServerUrl, file: &Path) -> String {
    match error {
        CallError::Refused { status, .. } if *status == StatusCode::FORBIDDEN => format!(
            "{server} does not know the token in {}, or not any more: write a new one there",
            file.display()
        ),
        other => common(other, server),
    }
}

/// What can go wrong with any request.
fn common(error: &CallError, server: &ServerUrl) -> String {
    match error {
        CallError::Refused { errors, .. } if errors.iter().any(|e| e.contains("sealed")) => {
            format!("{server} is sealed: unseal it")
        }
        CallError::Refused { status, .. } if *status == StatusCode::TOO_MANY_REQUESTS => {
            format!("{server} takes no more requests for now: {error}")
        }
        CallError::Redirected(_) => {
            format!("{server}: {error}; name the server that answers itself as `address`")
        }
        CallError::Server(ServerError::Tls(_)) => format!(
            "{server}: {error}; is `server_ca` the root of its certificate, and the host in `address` a name in it?"
        ),
        CallError::Server(ServerError::Ca(_)) => format!("server_ca: {error}"),
        other => format!("{server}: {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Login, parse};

    fn config() -> Vault {
        let text = r#"
version = 1
[identity]
trust_domain = "example.org"
[identity.vault]
address = "http://127.0.0.1:8200"
role = "workloads"
bundle = "/roots.pem"
token_file = "/token"
"#;
        match parse("vault", text).unwrap().identity.source {
            Some(crate::config::Source::Vault(vault)) => vault,
            other => unreachable!("{other:?}"),
        }
    }

    fn refused(status: u16, error: &str) -> CallError {
        CallError::Refused {
            status: StatusCode::from_u16(status).unwrap(),
            errors: vec![error.to_owned()],
        }
    }

    #[test]
    fn refusals_to_sign_come_with_their_remedy() {
        let id = "spiffe://example.org/web".parse().unwrap();
        for (status, said, remedy) in [
            (
                403,
                "1 error occurred: * permission denied",
                "path \"pki/sign/workloads\" { capabilities",
            ),
            (
                400,
                "URI Subject Alternative Names were provided via CSR which are not valid for this role",
                "allowed_uri_sans=\"spiffe://example.org/*\"",
            ),
            (400, "unknown role: workloads", "there is no role workloads"),
            (
                400,
                "the common_name field is required, or must be provided in a CSR",
                "require_cn=false",
            ),
            (400, "role requires keys of type rsa", "key_type=ec"),
            (
                404,
                "no handler for route \"pki/sign/workloads\". route entry not found.",
                "nothing is mounted at pki",
            ),
            (503, "Vault is sealed", "unseal it"),
            (
                500,
                "internal error",
                "500 Internal Server Error: internal error",
            ),
        ] {
            let told = sign(&refused(status, said), &config(), &id);
            assert!(told.contains(remedy), "{told}");
            assert!(told.contains("http://127.0.0.1:8200"), "{told}");
        }
    }

    #[test]
    fn refused_logins_come_with_their_remedy() {
        let config = config();
        assert_eq!(config.login, Login::TokenFile("/token".into()));
        let told = app_role(
            &refused(400, "invalid role or secret ID"),
            &config.address,
            "approle",
            Path::new("/secret"),
        );
        assert!(
            told.contains("in /secret is wrong, has ended or was used up"),
            "{told}"
        );
        let told = token(
            &refused(403, "permission denied"),
            &config.address,
            Path::new("/token"),
        );
        assert!(told.contains("the token in /token"), "{told}");
    }
}
