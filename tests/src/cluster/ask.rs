//! What pods of a cluster hear from one another.

use crate::error::{Error, Result};
use crate::node::Node;

use super::ControlPlane;

impl ControlPlane {
    /// What a web server tells a pod.
    pub fn ask(&self, namespace: &str, from: &str, url: &str) -> Result<String> {
        let words = [
            "exec", "-n", namespace, from, "--", "timeout", "5", "wget", "-qO-", url,
        ];
        Ok(self.kubectl(&words)?.trim().to_owned())
    }

    /// Fails if a web server tells a pod anything, or the pod cannot ask.
    pub fn refuses(&self, namespace: &str, from: &str, url: &str) -> Result {
        match self.ask(namespace, from, url) {
            // wget's own words, or its end after 5 s of silence.
            Err(Error::Command { output, .. })
                if output.contains("wget: ") || output.contains("exit code 143") =>
            {
                Ok(())
            }
            other => Err(Error::Unexpected(format!(
                "{from} should be refused at {url}: {other:?}"
            ))),
        }
    }

    /// Of the pod with that label on the node.
    pub fn address(&self, namespace: &str, label: &str, node: &Node) -> Result<String> {
        let on = format!("--field-selector=spec.nodeName={}", node.name());
        let pods = self.get(&["pods", "-n", namespace, "-l", label, &on])?;
        let found = pods["items"][0]["status"]["podIP"].as_str();
        found
            .map(str::to_owned)
            .ok_or_else(|| Error::Unexpected(format!("no pod {label} on {}: {pods}", node.name())))
    }
}
