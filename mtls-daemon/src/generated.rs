//! Files of the repository that are made from the code, and must not fall
//! behind it. `UPDATE_DOCS=1 cargo test -p mtls-daemon generated` writes them.

use std::fs;
use std::path::Path;

use crate::{config, metrics, reason};

fn holds(path: &str, expected: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, expected).unwrap();
    }
    let found = fs::read_to_string(&file).unwrap_or_default();
    let differs = found
        .lines()
        .zip(expected.lines())
        .find(|(found, expected)| found != expected);
    assert!(
        found == expected,
        "{path} is behind the code: run UPDATE_DOCS=1 cargo test -p mtls-daemon generated\n{differs:#?}"
    );
}

#[test]
fn the_documentation_of_the_configuration() {
    holds("docs/configuration.md", &config::markdown());
}

#[test]
fn the_example_configuration() {
    holds("deploy/mtls-daemon.toml", &config::example());
}

#[test]
fn the_list_of_reasons() {
    holds("docs/reasons.md", &reason::markdown());
}

#[test]
fn the_list_of_metrics() {
    holds("docs/metrics.md", &metrics::families::markdown());
}
