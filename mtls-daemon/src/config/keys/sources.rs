//! The keys of sources of certificates: the same for a node, where a change
//! takes a restart, and for a workload, which is enrolled anew.

use super::Applies::{Live, Restart};
use super::Fallback::{Is, Required, Unset};
use super::Shape::*;
use super::{Applies, DAY, Fallback, Key, SECOND, key};

pub(super) const NODE_DISK_CA: [Key; 4] = disk_ca(Restart);
pub(super) const NODE_FILES: [Key; 3] = files(Restart);
pub(super) const WORKLOAD_DISK_CA: [Key; 4] = disk_ca(Live);
pub(super) const WORKLOAD_FILES: [Key; 3] = files(Live);
pub(super) const NODE_SPIRE: [Key; 2] =
    [socket(Required, Restart), select(Is(r#""name""#), Restart)];
pub(super) const WORKLOAD_SPIRE: [Key; 3] = [
    socket(Unset("`identity.spire.socket`"), Live),
    select(Unset("`selectors`, or `identity.spire.select`"), Live),
    SELECTORS,
];
pub(super) const NODE_VAULT: [Key; 14] = vault(Restart);
pub(super) const WORKLOAD_VAULT: [Key; 14] = vault(Live);
pub(super) const NODE_CERT_MANAGER: [Key; 7] =
    cert_manager(Unset("the pod's own namespace"), Restart);
pub(super) const WORKLOAD_CERT_MANAGER: [Key; 7] = cert_manager(Required, Live);
#[rustfmt::skip]
pub(super) const NODE_SECRETS: [Key; 4] = [
    key("namespaces", List(&Name), Required, Restart, r#"["shop"]"#,
        "Namespaces whose Secrets the daemon reads, and may read: the chart gives it a Role in each. Pods elsewhere get no certificate."),
    key("name", SecretName, Is(r#""{service_account}-tls""#), Restart, r#""{service_account}-tls""#,
        "Name of a pod's Secret, which holds `tls.crt` and `tls.key`, in the pod's own namespace; `{service_account}` is that of the pod."),
    key("kubeconfig", Path, Unset("the service account of the daemon's own pod"), Restart, r#""/etc/kubernetes/mtls-daemon.conf""#,
        "A kubeconfig file that says where the API server is and how the daemon logs in."),
    key("bundle", Path, Required, Restart, r#""/etc/mtls-daemon/roots.pem""#,
        "PEM file: the roots that peers of this trust domain are verified against. Never taken from a Secret's `ca.crt`."),
];

#[rustfmt::skip]
const fn disk_ca(applies: Applies) -> [Key; 4] {
    [
        key("certificate", Path, Required, applies, r#""/etc/mtls-daemon/ca.pem""#,
            "PEM file: the authority's certificate, followed by the intermediates up to its root, without the root if there are any."),
        key("key", Path, Required, applies, r#""/etc/mtls-daemon/ca-key.pem""#,
            "PEM file: the authority's private key. Readable by root only."),
        key("bundle", Path, Unset("`certificate` is the root"), applies, r#""/etc/mtls-daemon/roots.pem""#,
            "PEM file: the roots that peers of this trust domain are verified against. Needed when `certificate` is an intermediate."),
        key("svid_ttl", Duration(SECOND, DAY.saturating_mul(365)), Is(r#""1h""#), applies, r#""1h""#,
            "Lifetime of a workload's certificate. It is renewed when half of it is over."),
    ]
}

#[rustfmt::skip]
const fn files(applies: Applies) -> [Key; 3] {
    [
        key("certificate", Path, Required, applies, r#""/etc/mtls-daemon/web.pem""#,
            "PEM file: the workload's certificate, then its intermediates. Read again when it changes."),
        key("key", Path, Required, applies, r#""/etc/mtls-daemon/web-key.pem""#,
            "PEM file: the private key of the certificate."),
        key("bundle", Path, Required, applies, r#""/etc/mtls-daemon/roots.pem""#,
            "PEM file: the roots that peers of the certificate's trust domain are verified against."),
    ]
}

#[rustfmt::skip]
const fn socket(default: Fallback, applies: Applies) -> Key {
    key("socket", Path, default, applies, r#""/run/spire/admin/agent.sock""#,
        "The agent's admin socket (`admin_socket_path` in its configuration), not that of the Workload API.")
}

#[rustfmt::skip]
const fn select(default: Fallback, applies: Applies) -> Key {
    key("select", Choice(&["name", "pid"]), default, applies, r#""name""#,
        "How the agent is told which entries are a workload's: `name` by the selector `mtls-daemon:workload:NAME`, `pid` by one of its processes, which the agent attests itself.")
}

#[rustfmt::skip]
const SELECTORS: Key = key("selectors", List(&Selector), Unset("`select` decides"), Live, r#"["unix:uid:1000"]"#,
    "All selectors of the workload: an entry whose selectors are among them is its own.");

#[rustfmt::skip]
const fn vault(applies: Applies) -> [Key; 14] {
    [
        key("address", Url, Required, applies, r#""https://vault.example.org:8200""#,
            "The server. `http://` is for an address on this machine alone."),
        key("server_ca", Path, Unset("`address` is on this machine, in plain HTTP"), applies, r#""/etc/mtls-daemon/vault-ca.pem""#,
            "PEM file: the roots that the server's own certificate is verified against, and no others."),
        key("namespace", Mount, Unset("none is named"), applies, r#""team-a""#,
            "The namespace in which everything below is."),
        key("mount", Mount, Is(r#""pki""#), applies, r#""pki""#,
            "Where the PKI secrets engine is mounted."),
        key("role", Name, Required, applies, r#""workloads""#,
            "The role that signs the workloads' certificates."),
        key("svid_ttl", Duration(SECOND, DAY.saturating_mul(365)), Is(r#""1h""#), applies, r#""1h""#,
            "Lifetime that is asked for; the role may give less. A certificate is renewed when half of it is over."),
        key("bundle", Path, Required, applies, r#""/etc/mtls-daemon/roots.pem""#,
            "PEM file: the roots that peers of this trust domain are verified against. Never taken from the server."),
        key("token_file", Path, Unset("it logs in in another way"), applies, r#""/run/vault-agent/token""#,
            "File with a token that something else keeps. Read again before each use."),
        key("approle_mount", Mount, Is(r#""approle""#), applies, r#""approle""#,
            "Where the AppRole auth method is mounted."),
        key("role_id", Name, Unset("it logs in in another way"), applies, r#""675a50e7-cfe0-be76-e35f-49ec009731ea""#,
            "The AppRole's role_id."),
        key("secret_id_file", Path, Unset("it logs in in another way"), applies, r#""/etc/mtls-daemon/secret-id""#,
            "File with the AppRole's secret_id. Readable by root only; read again at each login."),
        key("auth_mount", Mount, Is(r#""kubernetes""#), applies, r#""kubernetes""#,
            "Where the auth method is mounted that knows service accounts: `kubernetes`, or `jwt`."),
        key("auth_role", Name, Unset("it logs in in another way"), applies, r#""mtls-daemon""#,
            "The role of that auth method, which the daemon's service account may have."),
        key("account_token_file", Path, Is(r#""/var/run/secrets/kubernetes.io/serviceaccount/token""#), applies, r#""/vault/token""#,
            "File with the service account's token, for `auth_role`: better one that is made out to this server alone (`audience`). Read again at each login."),
    ]
}

#[rustfmt::skip]
const fn cert_manager(namespace: Fallback, applies: Applies) -> [Key; 7] {
    [
        key("issuer", Name, Required, applies, r#""mesh""#,
            "Name of the issuer that signs."),
        key("issuer_kind", Name, Is(r#""Issuer""#), applies, r#""ClusterIssuer""#,
            "Its kind: `Issuer`, in the namespace of the request, `ClusterIssuer`, or that of an external issuer."),
        key("issuer_group", Name, Is(r#""cert-manager.io""#), applies, r#""cert-manager.io""#,
            "API group of that kind."),
        key("namespace", Name, namespace, applies, r#""mtls-daemon""#,
            "Namespace in which the requests are made. In one of their own the daemon needs rights in no other; in the pod's own, each request belongs to its pod."),
        key("kubeconfig", Path, Unset("the service account of the daemon's own pod"), applies, r#""/etc/kubernetes/mtls-daemon.conf""#,
            "A kubeconfig file that says where the API server is and how the daemon logs in."),
        key("svid_ttl", Duration(SECOND, DAY.saturating_mul(365)), Is(r#""1h""#), applies, r#""1h""#,
            "Lifetime that is asked for; the issuer may give another. A certificate is renewed when half of it is over."),
        key("bundle", Path, Required, applies, r#""/etc/mtls-daemon/roots.pem""#,
            "PEM file: the roots that peers of this trust domain are verified against. Never taken from the answers."),
    ]
}
