//! A Prometheus that scrapes the daemons, as their pods ask for it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::deadline::{Deadline, wait_for};
use crate::error::{Doing, Error, Result};
use crate::process::Process;

use super::ControlPlane;

/// On the node of the API server.
pub struct Prometheus<'a> {
    plane: &'a ControlPlane,
    _process: Process,
}

const LISTEN: &str = "127.0.0.1:9090";
/// So long it may take to start on a busy machine.
const START: Duration = Duration::from_secs(60);

impl<'a> Prometheus<'a> {
    /// With the alerts of this project; scrapes, each second, every pod that asks
    /// for it now by annotation.
    pub fn start(plane: &'a ControlPlane) -> Result<Self> {
        let folder = plane.folder().join("prometheus");
        std::fs::create_dir_all(&folder).doing(|| format!("making {}", folder.display()))?;
        let config = folder.join("prometheus.json");
        let targets = targets(&plane.get(&["pods", "--all-namespaces"])?);
        std::fs::write(&config, config_of(&targets).to_string())
            .doing(|| format!("writing {}", config.display()))?;
        let mut process = plane
            .node()
            .spawn("prometheus")?
            .cgroup(plane.cgroup())
            .named("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.join("data").display()
            ))
            .arg(format!("--web.listen-address={LISTEN}"))
            .start()?;
        wait_for(
            Deadline::after(START),
            || "Prometheus to listen",
            || {
                process.must_run()?;
                Ok(plane.node().netns().listens(9090)?.then_some(()))
            },
        )?;
        Ok(Self {
            plane,
            _process: process,
        })
    }

    /// What an expression comes to now: each series' labels, and its value.
    pub fn ask(&self, expression: &str) -> Result<Vec<(Value, f64)>> {
        let answer = self.get(&format!("query={expression}"), "query")?;
        let series = answer["data"]["result"].as_array().into_iter().flatten();
        series
            .map(|one| {
                let value = one["value"][1].as_str().and_then(|text| text.parse().ok());
                let value = value.ok_or_else(|| Error::Unexpected(one.to_string()))?;
                Ok((one["metric"].clone(), value))
            })
            .collect()
    }

    /// How many alerts it judges, and how many it should.
    pub fn alerts(&self) -> Result<(usize, usize)> {
        let path = alerts();
        let text =
            std::fs::read_to_string(&path).doing(|| format!("reading {}", path.display()))?;
        let answer = self.get("type=alert", "rules")?;
        let groups = answer["data"]["groups"].as_array().into_iter().flatten();
        let rules = groups
            .filter_map(|group| group["rules"].as_array())
            .flatten();
        let judged = rules.filter(|rule| rule["health"] == "ok").count();
        Ok((judged, text.matches("- alert: ").count()))
    }

    fn get(&self, asked: &str, what: &str) -> Result<Value> {
        let url = format!("http://{LISTEN}/api/v1/{what}");
        let said = self
            .plane
            .node()
            .spawn("curl")?
            .args([
                "--silent",
                "--show-error",
                "--get",
                "--data-urlencode",
                asked,
                &url,
            ])
            .output()?
            .success()?;
        serde_json::from_str(&said).map_err(|error| Error::Unreadable {
            what: format!("Prometheus's answer to {asked}: {said}"),
            why: error.to_string(),
        })
    }
}

/// Pods with the usual annotations. Debian's Prometheus is built without the
/// discovery that would find them.
fn targets(pods: &Value) -> Vec<Value> {
    let pods = pods["items"].as_array().into_iter().flatten();
    let asking = pods.filter_map(|pod| {
        let annotations = &pod["metadata"]["annotations"];
        let is_asked = annotations["prometheus.io/scrape"] == "true";
        let port = annotations["prometheus.io/port"]
            .as_str()
            .filter(|_| is_asked)?;
        let ip = pod["status"]["podIP"].as_str()?;
        let labels = json!({"node": pod["spec"]["nodeName"]});
        Some(json!({"targets": [format!("{ip}:{port}")], "labels": labels}))
    });
    asking.collect()
}

/// Those of this project.
fn alerts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/prometheus/alerts.yml")
}

/// JSON is YAML.
fn config_of(targets: &[Value]) -> Value {
    json!({
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [alerts()],
        "scrape_configs": [{"job_name": "pods", "static_configs": targets}],
    })
}
