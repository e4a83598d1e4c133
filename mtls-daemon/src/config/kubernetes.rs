//! `[kubernetes]`: the cluster that the node belongs to.

use std::fmt;
use std::path::PathBuf;

use toml::Spanned;
use toml::de::DeValue;

use crate::spiffe::{SpiffeError, SpiffeId, TrustDomain};

use super::keys::Shape;
use super::mistakes::Complaint;
use super::reader::Part;
use super::value::{Value, is_name, text};
use super::{Mode, Node};

/// `[kubernetes]`
#[derive(Clone, Debug, PartialEq)]
pub struct Kubernetes {
    /// As the API server calls this node. Default: $NODE_NAME, or `node.name`. Restart.
    pub node: String,
    /// `None`: the service account of the daemon's own pod. Restart.
    pub kubeconfig: Option<PathBuf>,
    /// Which the daemon is of, and whose end is its own. Restart.
    pub daemonset: Option<String>,
    /// Path of the pods' SPIFFE IDs. Restart.
    pub spiffe_path: IdTemplate,
    /// Of the labels and annotations that the daemon heeds. Restart.
    pub label_prefix: String,
    /// Mode of pods that no label speaks of. Default: off. Restart.
    pub mode: Mode,
    /// Whose probes come in. `None`: nobody's. Restart.
    pub kubelet_cgroup: Option<PathBuf>,
    /// Whether policies and modes of Istio's API are in force. Restart.
    pub istio_policies: IstioPolicies,
    /// Whose policies speak of all namespaces. Restart.
    pub istio_root_namespace: String,
    /// Where what is known of the cluster is saved for the next start. Restart.
    pub state: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IstioPolicies {
    Read,
    Ignore,
}

/// The path of a SPIFFE ID with `{namespace}` and `{service_account}` in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdTemplate(String);

/// Downward API: what a DaemonSet sets from `spec.nodeName`.
const NODE_NAME: &str = "NODE_NAME";

pub(super) fn kubernetes(part: &Part<'_>, node: Option<&Node>) -> Option<Kubernetes> {
    let given: Option<String> = part.get("node_name");
    let told = || std::env::var(NODE_NAME).ok().filter(|name| is_name(name));
    let name = match (given, part.has("node_name")) {
        (Some(name), _) => Some(name),
        (None, true) => None,
        (None, false) => told().or_else(|| Some(node?.name.clone())),
    };
    let kubeconfig = part.get("kubeconfig");
    let daemonset = part.get("daemonset");
    let spiffe_path = part.get("spiffe_path");
    let label_prefix = part.get("label_prefix");
    let mode = part.get::<Mode>("mode");
    let kubelet_cgroup = part.get("kubelet_cgroup");
    let istio_policies = part.get("istio_policies");
    let istio_root_namespace = part.get("istio_root_namespace");
    let state = part.get("state");
    Some(Kubernetes {
        node: name?,
        kubeconfig,
        daemonset,
        spiffe_path: spiffe_path?,
        label_prefix: label_prefix?,
        mode: mode?,
        kubelet_cgroup,
        istio_policies: istio_policies?,
        istio_root_namespace: istio_root_namespace?,
        state: state?,
    })
}

impl IdTemplate {
    const NAMESPACE: &str = "{namespace}";
    const SERVICE_ACCOUNT: &str = "{service_account}";

    /// Where Istio has namespace and account, and no other place.
    pub fn is_as_istios(&self) -> bool {
        self.0 == "/ns/{namespace}/sa/{service_account}"
    }

    /// A template whose identities are valid, whatever a cluster calls things.
    pub fn parse(text: &str) -> Result<Self, SpiffeError> {
        // It would go on with the trust domain's name.
        if !text.starts_with('/') {
            return Err(SpiffeError::NoPath);
        }
        let template = Self(text.to_owned());
        let any: TrustDomain = "example.org".parse()?;
        template.id(&any, "default", "default")?;
        Ok(template)
    }

    /// Names of namespaces and service accounts are always good parts of a path.
    pub fn id(
        &self,
        trust_domain: &TrustDomain,
        namespace: &str,
        service_account: &str,
    ) -> Result<SpiffeId, SpiffeError> {
        let path = self.0.replace(Self::NAMESPACE, namespace);
        let path = path.replace(Self::SERVICE_ACCOUNT, service_account);
        format!("spiffe://{}{path}", trust_domain.as_str()).parse()
    }
}

impl Value for IdTemplate {
    fn read(value: &Spanned<DeValue<'_>>, _: &Shape, wrong: &mut Vec<Complaint>) -> Option<Self> {
        let example = r#""/ns/{namespace}/sa/{service_account}""#;
        let text = text(value, "a path", example, wrong)?;
        Self::parse(text)
            .map_err(|error| {
                wrong.push(Complaint::new(
                    value.span(),
                    format!("{text:?} makes no SPIFFE IDs: {error}"),
                    format!("write a path such as {example}; there are no other placeholders"),
                ));
            })
            .ok()
    }
}

impl fmt::Display for IdTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_are_made_from_the_template() {
        let domain: TrustDomain = "example.org".parse().unwrap();
        let template = IdTemplate::parse("/ns/{namespace}/sa/{service_account}").unwrap();
        let id = template.id(&domain, "shop", "web").unwrap();
        assert_eq!(id.as_str(), "spiffe://example.org/ns/shop/sa/web");
        let short = IdTemplate::parse("/{namespace}/{service_account}").unwrap();
        let id = short.id(&domain, "shop", "web").unwrap();
        assert_eq!(id.as_str(), "spiffe://example.org/shop/web");
    }

    #[test]
    fn a_template_that_makes_no_identity_is_refused() {
        for bad in [
            "",
            "ns",
            "/ns/{pod}",
            "/ns/{namespace}/",
            "//x",
            ".evil/x",
            "/a b",
        ] {
            assert!(IdTemplate::parse(bad).is_err(), "{bad}");
        }
    }
}
