//! The daemon, installed in a cluster as its users do it: by the chart, from
//! the image.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::deadline::{Deadline, wait_for};
use crate::error::{Doing, Error, Result, ensure, ensure_eq};
use crate::mesh::{self, Ca, Metrics};
use crate::mounts::CGROUP;
use crate::node::{Family, Node};
use crate::process::Output;
use crate::programs;

use super::ControlPlane;
use super::schemas::Schemas;

/// The release, in the namespace of the same name.
pub struct Installed<'a> {
    plane: &'a ControlPlane,
}

const NAME: &str = "mtls-daemon";
/// For images, pods and probes on a busy machine.
const READY: Duration = Duration::from_secs(120);

impl<'a> Installed<'a> {
    /// `helm install`, with certificates from `ca` and what else the values are
    /// to be ([`merge`]); returns when every node's daemon is ready. `api_server`
    /// is the node that the API server runs on.
    pub fn install(
        plane: &'a ControlPlane,
        ca: &Ca,
        api_server: &Node,
        more: &Value,
    ) -> Result<Self> {
        plane.kubectl(&["create", "namespace", NAME])?;
        plane.kubectl(&[
            "label",
            "namespace",
            NAME,
            "pod-security.kubernetes.io/enforce=privileged",
        ])?;
        plane.kubectl(&[
            "create",
            "secret",
            "generic",
            "ca",
            "-n",
            NAME,
            &from_file("ca.pem", &ca.certificate),
            &from_file("key.pem", &ca.key),
        ])?;
        trust(plane, &[ca])?;
        let mut values = json!({
            "config": {
                "identity": {
                    "trust_domain": "example.org",
                    "disk-ca": {
                        "certificate": "/ca/ca.pem", "key": "/ca/key.pem",
                        "bundle": "/trust/trust-bundle.pem",
                    },
                },
                "kubernetes": {"kubelet_cgroup": "/host/cgroup2/kubelet"},
                "log": {"format": "json"},
            },
            // Where each node of the harness has its part of this machine's.
            "host": {"cgroup2": CGROUP},
            // No kube-proxy carries the Service `kubernetes`.
            "apiServer": {"host": api_server.wire_address(Family::V4), "port": 6443},
            "extraVolumes": [
                {"name": "ca", "secret": {"secretName": "ca", "defaultMode": 0o400}},
                {"name": "trust", "configMap": {"name": "trust-bundle"}},
            ],
            "extraVolumeMounts": [
                {"name": "ca", "mountPath": "/ca", "readOnly": true},
                {"name": "trust", "mountPath": "/trust", "readOnly": true},
            ],
        });
        merge(&mut values, more);
        kinds_that_are_known(plane.node())?;
        let installed = Self { plane };
        installed.take("install", &values)?;
        Ok(installed)
    }

    /// `helm upgrade` with what is to be otherwise; returns when every node's
    /// new daemon is ready.
    pub fn upgrade(&self, otherwise: &Value) -> Result {
        let file = self.values();
        let text =
            std::fs::read_to_string(&file).doing(|| format!("reading {}", file.display()))?;
        let mut values = serde_json::from_str(&text).map_err(|error| Error::Unreadable {
            what: file.display().to_string(),
            why: error.to_string(),
        })?;
        merge(&mut values, otherwise);
        self.take("upgrade", &values)
    }

    /// Helm's `install` or `upgrade`, after the judges of the chart.
    fn take(&self, word: &str, values: &Value) -> Result {
        let file = self.values();
        std::fs::write(&file, values.to_string())
            .doing(|| format!("writing {}", file.display()))?;
        let (values, chart) = (file.to_string_lossy(), chart());
        let chart = chart.to_string_lossy();
        self.helm(&["lint", "--strict", &chart, "--values", &values])?;
        self.would_be_taken(&chart, &values)?;
        let within = format!("{}s", READY.as_secs());
        let with = ["--values", &values, "--wait", "--timeout", &within];
        let done = self.helm(&[&[word, NAME, &chart], &with[..]].concat());
        done.map(drop).map_err(|error| self.why(&error))
    }

    /// What the release was installed with last.
    fn values(&self) -> PathBuf {
        self.plane.folder().join("values.json")
    }

    /// What was installed before.
    pub fn found(plane: &'a ControlPlane) -> Self {
        Self { plane }
    }

    /// As it is written, by the API server's schemas and by itself: a field that
    /// it does not know is refused.
    fn would_be_taken(&self, chart: &str, values: &str) -> Result {
        let filled = self.plane.folder().join("filled");
        let folder = filled.to_string_lossy();
        let to = ["--validate", "--output-dir", &folder];
        let template = ["template", NAME, chart, "--values", values];
        self.helm(&[&template[..], &to].concat())?;
        Schemas::of(self.plane)?.judge(self.plane, &filled)?;
        let try_it = ["apply", "--dry-run=server", "--validate=strict"];
        let all = ["--recursive", "--filename", &folder];
        self.plane.kubectl(&[&try_it[..], &all].concat()).map(drop)
    }

    /// Another trust bundle, as trust-manager would write it.
    pub fn trust(&self, authorities: &[&Ca]) -> Result {
        trust(self.plane, authorities)
    }

    /// Takes the release away, and returns what Helm says when no daemon runs
    /// any more.
    pub fn uninstall(&self) -> Result<String> {
        let said = self.helm(&["uninstall", NAME, "--wait"])?;
        // The DaemonSet goes before its pods do.
        self.wait_until_gone()?;
        Ok(said)
    }

    /// The same, but what the daemons have attached stays.
    pub fn uninstall_without_hooks(&self) -> Result {
        self.helm(&["uninstall", NAME, "--wait", "--no-hooks"])?;
        self.wait_until_gone()
    }

    pub fn roll_back(&self, revision: u32) -> Result {
        let revision = revision.to_string();
        self.helm(&["rollback", NAME, &revision]).map(drop)
    }

    fn wait_until_gone(&self) -> Result {
        wait_for(
            Deadline::after(READY),
            || "the daemons' pods to be gone",
            || {
                let pods = self.plane.get(&["pods", "-n", NAME])?;
                let none = pods["items"].as_array().is_some_and(Vec::is_empty);
                Ok(none.then_some(()))
            },
        )
    }

    /// Takes every daemon away, or brings them back, as somebody does who
    /// means to: the release stays. Returns when none runs, or all are ready.
    pub fn run(&self, daemons: bool) -> Result {
        let nowhere = match daemons {
            true => Value::Null,
            false => json!("nowhere"),
        };
        let selector = json!({"story": nowhere});
        let patch = json!({"spec": {"template": {"spec": {"nodeSelector": selector}}}});
        let patch = format!("--patch={patch}");
        let name = format!("daemonset/{NAME}");
        self.plane.kubectl(&["patch", "-n", NAME, &name, &patch])?;
        if !daemons {
            return self.wait_until_gone();
        }
        self.plane.wait_until_rolled_out(NAME, &name)
    }

    /// What `check` says in the daemon's pod, if it finds no fault; its notes
    /// last.
    pub fn check(&self, node: &Node) -> Result<String> {
        with_what_is_aside(self.command(node, &["check"])?)
    }

    fn command(&self, node: &Node, words: &[&str]) -> Result<Output> {
        let pod = self.pod_on(node)?;
        let exec = [
            "exec",
            "-n",
            NAME,
            &pod,
            "-c",
            NAME,
            "--",
            "/usr/bin/mtls-daemon",
        ];
        self.plane.kubectl_apart(&[&exec, words].concat())
    }

    /// Replaces every daemon, one node after the other.
    pub fn roll(&self) -> Result {
        let name = format!("daemonset/{NAME}");
        self.plane
            .kubectl(&["rollout", "restart", "-n", NAME, &name])?;
        self.plane.wait_until_rolled_out(NAME, &name)
    }

    /// A node's daemon, asked by its own command.
    pub fn ask(&self, node: &Node, word: &str) -> Result<Value> {
        let said = self.command(node, &[word, "--output", "json"])?.success()?;
        serde_json::from_str(&said).map_err(|error| Error::Unreadable {
            what: format!("the answer to {word}: {said}"),
            why: error.to_string(),
        })
    }

    /// As this machine numbers its process.
    pub fn pid(&self, node: &Node) -> Result<Pid> {
        let status = self.ask(node, "status")?;
        let pid = status["status"]["pid"].as_i64();
        let pid = pid.and_then(|pid| i32::try_from(pid).ok());
        pid.map(Pid::from_raw)
            .ok_or_else(|| Error::Unexpected(format!("no pid: {status}")))
    }

    /// What Prometheus would scrape of it.
    pub fn metrics(&self, node: &Node) -> Result<Metrics> {
        let (status, body) = get(node, "/metrics")?;
        ensure(status == 200, || format!("/metrics said {status}: {body}"))?;
        Metrics::parse(&body)
    }

    /// What its kubelet hears when it asks whether it is ready.
    pub fn readiness(&self, node: &Node) -> Result<(u16, String)> {
        get(node, "/readyz")
    }

    /// Lines of its access log so far.
    pub fn access_log(&self, node: &Node) -> Result<Vec<Value>> {
        let log = self.log(node)?;
        let events = log
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        Ok(events
            .filter(|event: &Value| event["target"] == "access")
            .collect())
    }

    pub fn log(&self, node: &Node) -> Result<String> {
        let pod = self.pod_on(node)?;
        self.plane.kubectl(&["logs", "-n", NAME, &pod, "-c", NAME])
    }

    /// The name of its pod.
    pub fn pod_on(&self, node: &Node) -> Result<String> {
        let on = format!("--field-selector=spec.nodeName={}", node.name());
        let pods = self.plane.get(&["pods", "-n", NAME, &on])?;
        let name = pods["items"][0]["metadata"]["name"].as_str();
        name.map(str::to_owned)
            .ok_or_else(|| Error::Unexpected(format!("no daemon on {}: {pods}", node.name())))
    }

    fn helm(&self, words: &[&str]) -> Result<String> {
        let folder = self.plane.folder();
        let mut helm = self
            .plane
            .node()
            .spawn(programs::helm()?)?
            .patience(READY + Duration::from_secs(30))
            .arg("--kubeconfig")
            .arg(folder.join("kubeconfig"))
            .args(["--namespace", NAME]);
        for kind in ["CACHE", "CONFIG", "DATA"] {
            helm = helm.env(&format!("HELM_{kind}_HOME"), folder.join("helm"));
        }
        // The hooks' words are aside.
        with_what_is_aside(helm.args(words).output()?)
    }

    /// What the pods say about it.
    fn why(&self, error: &Error) -> Error {
        let ask = |words: &[&str]| self.plane.kubectl(words).unwrap_or_else(|e| e.to_string());
        let label = "app.kubernetes.io/name=mtls-daemon";
        Error::Unexpected(format!(
            "{error}\n{}\n{}",
            ask(&["describe", "pods", "-n", NAME]),
            ask(&[
                "logs",
                "-n",
                NAME,
                "-l",
                label,
                "--all-containers",
                "--prefix"
            ]),
        ))
    }
}

/// Of a program that succeeded.
fn with_what_is_aside(output: Output) -> Result<String> {
    let aside = output.stderr.clone();
    Ok(output.success()? + &aside)
}

/// Tables take up what is in `more`, and lose what is null there; lists grow.
fn merge(values: &mut Value, more: &Value) {
    match (values, more) {
        (Value::Object(values), Value::Object(more)) => {
            for (key, value) in more {
                match value {
                    Value::Null => drop(values.remove(key)),
                    _ => merge(values.entry(key).or_insert(Value::Null), value),
                }
            }
        }
        (Value::Array(values), Value::Array(more)) => values.extend_from_slice(more),
        (values, more) => *values = more.clone(),
    }
}

fn get(node: &Node, path: &str) -> Result<(u16, String)> {
    let answer = node.netns().run(|| mesh::get(path))?;
    answer.doing(|| format!("getting {path} from the daemon of node {}", node.name()))
}

/// The Prometheus operator's objects are for clusters that have its kinds.
fn kinds_that_are_known(node: &Node) -> Result {
    for (versions, there) in [
        (
            &["monitoring.coreos.com/v1/PodMonitor"][..],
            &["PodMonitor"][..],
        ),
        (
            &[
                "monitoring.coreos.com/v1/PodMonitor",
                "monitoring.coreos.com/v1/PrometheusRule",
            ],
            &["PodMonitor", "PrometheusRule"],
        ),
        (&[], &[]),
    ] {
        let mut helm = node
            .spawn(programs::helm()?)?
            .args(["template", NAME])
            .arg(chart())
            .args(["--kube-version", "1.36.3"])
            .args(["--set", "config.identity.trust_domain=example.org"]);
        for version in versions {
            helm = helm.args(["--api-versions", version]);
        }
        let filled = helm.output()?.success()?;
        for kind in ["PodMonitor", "PrometheusRule"] {
            let is_there = filled.contains(&format!("\nkind: {kind}\n"));
            ensure_eq(is_there, there.contains(&kind), kind)?;
        }
    }
    Ok(())
}

/// A template with these values, KEY=VALUE.
pub(super) fn filled(node: &Node, template: &str, values: &[&str]) -> Result<String> {
    let mut helm = node
        .spawn(programs::helm()?)?
        .args(["template", NAME])
        .arg(chart())
        .args(["--namespace", NAME, "--show-only", template])
        .args(["--kube-version", "1.36.3"])
        .args(["--set", "config.identity.trust_domain=example.org"]);
    for value in values {
        helm = helm.args(["--set", value]);
    }
    helm.output()?.success()
}

fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/chart")
}

fn trust(plane: &ControlPlane, authorities: &[&Ca]) -> Result {
    let mut bundle = String::new();
    for ca in authorities {
        let certificate = &ca.certificate;
        bundle += &std::fs::read_to_string(certificate)
            .doing(|| format!("reading {}", certificate.display()))?;
    }
    plane.apply(&json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "trust-bundle", "namespace": NAME},
        "data": {"trust-bundle.pem": bundle},
    }))
}

fn from_file(key: &str, path: &Path) -> String {
    format!("--from-file={key}={}", path.display())
}
