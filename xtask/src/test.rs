//! `cargo xtask test`: unit and property tests, then the stories that run the
//! real kernel programs, daemons and applications in network namespaces.

mod results;

use std::path::Path;
use std::process::Command;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::build::{self, Profile};
use crate::command;
use crate::failure::{Failure, Result, While};
use crate::setup::{self, Need, components, envoy};
use results::Results;

/// `words`: where to write what a whole run says of the claims, filters, and
/// then whatever else `cargo test` takes.
pub(crate) fn run(words: &[&str]) -> Result {
    let (record, words) = match words {
        ["--record", file, rest @ ..] => (Some(Path::new(file)), rest),
        _ => (None, words),
    };
    setup::run(&[
        Need::Build,
        Need::Kernel,
        Need::Apps,
        Need::Envoy,
        Need::Authorities,
        Need::Cluster,
    ])?;
    build::run(Profile::Dev)?;
    let daemon = build::image_daemon(Profile::Dev)?;
    let app = build::test_program("mtls-test-app", Profile::Dev)?;
    raise_descriptor_limit()?;
    let filters = words.iter().take_while(|word| !word.starts_with('-'));
    let (filters, options) = words.split_at(filters.count());
    let mut cargo = command::cargo();
    cargo
        .args(["test", "--workspace", "--no-fail-fast"])
        .args(options);
    // Cargo itself takes one filter at most.
    if !options.contains(&"--") {
        cargo.arg("--");
    }
    cargo.args(filters);
    let (authorities, cluster) = (components::authorities()?, components::cluster()?);
    cargo
        .env(build::IMAGE_DAEMON, daemon)
        .env("MTLS_TEST_ENVOY", envoy::ready()?)
        .env("MTLS_TEST_SPIRE", authorities.spire)
        .env("MTLS_TEST_OPENBAO", authorities.openbao)
        .env("MTLS_TEST_ETCD", cluster.etcd)
        .env("MTLS_TEST_KUBERNETES", cluster.kubernetes)
        .env("MTLS_TEST_HELM", cluster.helm)
        .env("MTLS_TEST_KUBECONFORM", cluster.kubeconform)
        .env("MTLS_TEST_ISTIO", cluster.istio)
        .env("MTLS_TEST_CERT_MANAGER", cluster.cert_manager)
        .env("MTLS_TEST_CONTAINER_RUNTIME", cluster.container_runtime);
    let mut results = Results::default();
    command::run_heard(&mut cargo, |line| results.hear(line))?;
    if filters.is_empty() && options.is_empty() {
        results.judge(record)?;
    } else if record.is_some() {
        return Err(Failure::new(
            "--record takes a run of all tests, without filters",
        ));
    }
    // No namespace, mount, pin, cgroup, process or folder of a test stays.
    command::run(Command::new(app).arg("--leftovers"))
}

/// The stories hold thousands of connections; what they start inherits ours.
fn raise_descriptor_limit() -> Result {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).doing("reading RLIMIT_NOFILE")?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).doing("raising RLIMIT_NOFILE")
}
