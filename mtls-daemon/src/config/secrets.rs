//! `[identity.secrets]`: certificates that lie in Secrets beside the pods.

use std::fmt;
use std::path::PathBuf;

use toml::Spanned;
use toml::de::DeValue;

use super::keys::Shape;
use super::mistakes::Complaint;
use super::reader::Part;
use super::value::{Value, text};

#[derive(Clone, Debug, PartialEq)]
pub struct Secrets {
    /// Whose Secrets are read; no other is asked for.
    pub namespaces: Vec<String>,
    /// Of a pod's Secret, in its own namespace. Default: {service_account}-tls.
    pub name: SecretName,
    /// `None`: the service account of the daemon's own pod.
    pub kubeconfig: Option<PathBuf>,
    /// PEM: the roots that peers are verified against.
    pub bundle: PathBuf,
}

/// A Secret's name with `{service_account}` in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretName(String);

/// Where a pod's certificate lies.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PodSecret {
    pub namespace: String,
    pub name: String,
}

pub(super) fn secrets(part: &Part<'_>) -> Option<Secrets> {
    let namespaces: Option<Vec<String>> = part.get("namespaces");
    let name = part.get("name");
    let kubeconfig = part.get("kubeconfig");
    let bundle = part.get("bundle");
    if namespaces.as_ref().is_some_and(Vec::is_empty) {
        part.complain(
            part.at("namespaces"),
            "identity.secrets.namespaces is empty".to_owned(),
            "write those of the pods whose Secrets are to be read",
        );
    }
    Some(Secrets {
        namespaces: namespaces?,
        name: name?,
        kubeconfig,
        bundle: bundle?,
    })
}

impl SecretName {
    const SERVICE_ACCOUNT: &str = "{service_account}";

    /// `None`: it makes no names of Secrets.
    pub fn parse(text: &str) -> Option<Self> {
        let name = text.replace(Self::SERVICE_ACCOUNT, "default");
        let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let label = |label: &str| {
            let ends = [label.bytes().next(), label.bytes().last()];
            label.bytes().all(|b| alphanumeric(b) || b == b'-')
                && ends.iter().all(|end| end.is_some_and(alphanumeric))
        };
        let is_name = name.len() <= 253 && name.split('.').all(label);
        is_name.then(|| Self(text.to_owned()))
    }

    pub fn of(&self, service_account: &str) -> String {
        self.0.replace(Self::SERVICE_ACCOUNT, service_account)
    }
}

impl Value for SecretName {
    fn read(value: &Spanned<DeValue<'_>>, _: &Shape, wrong: &mut Vec<Complaint>) -> Option<Self> {
        let example = r#""{service_account}-tls""#;
        let text = text(value, "a Secret's name", example, wrong)?;
        let name = Self::parse(text);
        if name.is_none() {
            wrong.push(Complaint::new(
                value.span(),
                format!("{text:?} makes no names of Secrets"),
                format!(
                    "write lower-case letters, digits, '-' and '.', such as {example}; there is no other placeholder"
                ),
            ));
        }
        name
    }
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for PodSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_made_from_the_account() {
        let name = |text: &str| SecretName::parse(text).map(|name| name.of("web"));
        assert_eq!(name("{service_account}-tls").as_deref(), Some("web-tls"));
        assert_eq!(name("mesh.example").as_deref(), Some("mesh.example"));
        for bad in [
            "",
            "{pod}",
            "Web",
            "a_b",
            "-web",
            "web.",
            "{service_account}/tls",
        ] {
            assert_eq!(name(bad), None, "{bad}");
        }
    }
}
