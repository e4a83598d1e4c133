//! What the figures were measured on: without it they mean nothing.

use std::fs;
use std::num::NonZero;
use std::process::Command;

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) date: String,
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) kernel: String,
    pub(crate) congestion_control: String,
    /// Of this repository.
    pub(crate) commit: String,
    /// Of the programs that were measured, as they tell it.
    pub(crate) versions: Vec<String>,
}

impl Machine {
    pub(crate) fn here() -> Self {
        let read = |path: &str| {
            fs::read_to_string(path)
                .unwrap_or_default()
                .trim()
                .to_owned()
        };
        let cpuinfo = read("/proc/cpuinfo");
        let processor = cpuinfo
            .lines()
            .find_map(|line| line.strip_prefix("model name"))
            .map_or("unknown", |rest| rest.trim_start_matches(['\t', ' ', ':']));
        let versions = [
            envoy_version(),
            first_line("nginx", &["-v"]),
            first_line("haproxy", &["-v"]),
        ];
        Self {
            date: first_line("date", &["--utc", "+%Y-%m-%d"]),
            processor: processor.to_owned(),
            cores: std::thread::available_parallelism().map_or(1, NonZero::get),
            kernel: read("/proc/sys/kernel/osrelease"),
            congestion_control: read("/proc/sys/net/ipv4/tcp_congestion_control"),
            commit: first_line("git", &["rev-parse", "--short", "HEAD"]),
            versions: versions
                .into_iter()
                .filter(|version| !version.is_empty())
                .collect(),
        }
    }

    /// The date and our own version may differ.
    pub(crate) fn is_same_as(&self, other: &Self) -> bool {
        let place = |machine: &Self| {
            let kernel = (machine.kernel.clone(), machine.congestion_control.clone());
            (machine.processor.clone(), machine.cores, kernel)
        };
        place(self) == place(other)
    }

    /// For people, in a few lines.
    pub(crate) fn describe(&self) -> String {
        format!(
            "{}; {} cores of {}; Linux {}; {}; commit {}; {}.",
            self.date,
            self.cores,
            self.processor,
            self.kernel,
            self.congestion_control,
            self.commit,
            self.versions.join("; ")
        )
    }
}

/// `PATH  version: COMMIT/1.40.0/Clean/RELEASE/BoringSSL`
fn envoy_version() -> String {
    let envoy = std::env::var("MTLS_TEST_ENVOY").unwrap_or_default();
    let said = first_line(&envoy, &["--version"]);
    let version = said.split_once("version: ").and_then(|(_, rest)| {
        let mut parts = rest.split('/').skip(1);
        parts.next()
    });
    version.map_or_else(String::new, |version| format!("Envoy {version}"))
}

/// What a program says first, on whichever stream; nothing if it is not there.
fn first_line(program: &str, words: &[&str]) -> String {
    let Ok(output) = Command::new(program).args(words).output() else {
        return String::new();
    };
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    let mut lines = said.lines().map(str::trim);
    lines
        .find(|line| !line.is_empty())
        .unwrap_or_default()
        .to_owned()
}
