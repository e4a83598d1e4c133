//! A run of the harness that is killed in the middle.

use std::convert::Infallible;
use std::io::Write as _;

use mtls_tests::script::Step;
use mtls_tests::{Result, Scene, run, two_nodes};

/// Sets a scene, prints the name of the run, and dies with everything open.
pub(crate) fn a_scene() -> Result<Infallible> {
    let scene = Scene::new("abandoned")?;
    let (a, _b) = two_nodes(&scene)?;
    let pod = a.pod("server")?;
    let _server = pod.serve(8080, [Step::Echo])?;
    let _ = writeln!(std::io::stdout(), "{}", run::current()?.name());
    std::process::abort()
}
