//! The harness itself: whatever it makes it takes away, also when the process
//! that made it is killed.

use std::process::Command;

use mtls_tests::deadline::{Deadline, wait_for};
use mtls_tests::{Doing, Result, ensure, leftovers, programs};

#[test]
fn harness_cleans_up_after_a_run_that_died() -> Result {
    let died = Command::new(programs::test_app()?)
        .arg("--abandon")
        .output()
        .doing(|| "running a run that dies")?;
    let said = String::from_utf8_lossy(&died.stdout).into_owned();
    ensure(!died.status.success(), || "it did not die")?;
    let run = said.trim();
    ensure(run.contains('-'), || format!("it set no scene: {said}"))?;
    // The janitor works while its owner is gone already.
    wait_for(
        Deadline::default(),
        || format!("the end of run {run}: {:?}", leftovers::of_run(run)),
        || Ok(leftovers::of_run(run)?.is_empty().then_some(())),
    )
}
