//! Sources of certificates, of a node or of a workload.

use std::path::Path;

use super::super::{CertManager, DiskCa, Files, Login, Secrets, SelectedBy, Source, Spire, Vault};
use super::{Block, block, duration, path, text, texts};

/// Where a pod finds its service account's token.
const ACCOUNT_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

pub(super) fn source_block(parent: &str, item: Option<&str>, source: &Source) -> Block {
    match source {
        Source::DiskCa(DiskCa {
            certificate,
            key,
            bundle,
            svid_ttl,
        }) => block(
            &format!("{parent}.disk-ca"),
            item,
            [
                ("certificate", path(certificate)),
                ("key", path(key)),
                ("bundle", bundle.as_deref().and_then(path)),
                ("svid_ttl", duration(svid_ttl)),
            ],
        ),
        Source::Files(Files {
            certificate,
            key,
            bundle,
        }) => block(
            &format!("{parent}.files"),
            item,
            [
                ("certificate", path(certificate)),
                ("key", path(key)),
                ("bundle", path(bundle)),
            ],
        ),
        Source::Spire(Spire { socket }, selected) => spire_block(parent, item, socket, selected),
        Source::Vault(vault) => vault_block(&format!("{parent}.vault"), item, vault),
        Source::CertManager(asked, _) => {
            cert_manager_block(&format!("{parent}.cert-manager"), item, asked)
        }
        Source::Secrets(
            Secrets {
                namespaces,
                name,
                kubeconfig,
                bundle,
            },
            _,
        ) => block(
            &format!("{parent}.secrets"),
            item,
            [
                ("namespaces", texts(namespaces)),
                ("name", text(name)),
                ("kubeconfig", kubeconfig.as_deref().and_then(path)),
                ("bundle", path(bundle)),
            ],
        ),
    }
}

fn spire_block(parent: &str, item: Option<&str>, socket: &Path, selected: &SelectedBy) -> Block {
    let socket = ("socket", path(socket));
    let select = match selected {
        SelectedBy::Name => text("name"),
        SelectedBy::Pid => text("pid"),
        SelectedBy::Selectors(_) => None,
    };
    let select = ("select", select);
    if parent == "identity" {
        return block("identity.spire", item, [socket, select]);
    }
    let selectors = match selected {
        SelectedBy::Selectors(selectors) => texts(selectors),
        SelectedBy::Name | SelectedBy::Pid => None,
    };
    block(
        "workload.spire",
        item,
        [socket, select, ("selectors", selectors)],
    )
}

fn vault_block(section: &str, item: Option<&str>, vault: &Vault) -> Block {
    let Vault {
        address,
        server_ca,
        namespace,
        mount,
        role,
        svid_ttl,
        bundle,
        login,
    } = vault;
    let (approle, kubernetes) = (text("approle"), text("kubernetes"));
    let token = path(Path::new(ACCOUNT_TOKEN));
    let login = match login {
        Login::TokenFile(file) => [path(file), approle, None, None, kubernetes, None, token],
        Login::AppRole {
            mount,
            role_id,
            secret_id_file,
        } => {
            let (role_id, secret_id) = (text(role_id), path(secret_id_file));
            [
                None,
                text(mount),
                role_id,
                secret_id,
                kubernetes,
                None,
                token,
            ]
        }
        Login::Account {
            mount,
            role,
            token_file,
        } => {
            let (role, token) = (text(role), path(token_file));
            [None, approle, None, None, text(mount), role, token]
        }
    };
    let [
        token_file,
        approle_mount,
        role_id,
        secret_id_file,
        auth_mount,
        auth_role,
        account_token_file,
    ] = login;
    block(
        section,
        item,
        [
            ("address", text(address)),
            ("server_ca", server_ca.as_deref().and_then(path)),
            ("namespace", namespace.as_ref().and_then(text)),
            ("mount", text(mount)),
            ("role", text(role)),
            ("svid_ttl", duration(svid_ttl)),
            ("bundle", path(bundle)),
            ("token_file", token_file),
            ("approle_mount", approle_mount),
            ("role_id", role_id),
            ("secret_id_file", secret_id_file),
            ("auth_mount", auth_mount),
            ("auth_role", auth_role),
            ("account_token_file", account_token_file),
        ],
    )
}

fn cert_manager_block(section: &str, item: Option<&str>, asked: &CertManager) -> Block {
    let CertManager {
        issuer,
        issuer_kind,
        issuer_group,
        namespace,
        kubeconfig,
        svid_ttl,
        bundle,
    } = asked;
    block(
        section,
        item,
        [
            ("issuer", text(issuer)),
            ("issuer_kind", text(issuer_kind)),
            ("issuer_group", text(issuer_group)),
            ("namespace", namespace.as_ref().and_then(text)),
            ("kubeconfig", kubeconfig.as_deref().and_then(path)),
            ("svid_ttl", duration(svid_ttl)),
            ("bundle", path(bundle)),
        ],
    )
}
