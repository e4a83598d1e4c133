//! The small application that stories put into pods: it plays a task given as
//! its one argument, in JSON, and reports in lines of JSON. Also the janitor
//! that cleans up after a run of the harness, the check that nothing was left
//! behind, and a run that dies, for the story of the janitor.

mod abandon;
mod connect;
mod health;
mod play;
mod report;
mod serve;
mod sockets;
mod udp;
mod uring;

use std::process::ExitCode;

use mtls_tests::script::{Event, Task};
use mtls_tests::{leftovers, run};
use tokio::task::LocalSet;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    match (args.next(), args.next()) {
        (Some(flag), Some(name)) if flag == "--janitor" => match run::clean_up_after(&name) {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => fail("cleaning up", &e.to_string()),
        },
        (Some(flag), None) if flag == "--abandon" => match abandon::a_scene() {
            Ok(never) => match never {},
            Err(e) => fail("making a scene", &e.to_string()),
        },
        (Some(flag), None) if flag == "--leftovers" => match leftovers::ensure_none() {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => fail("looking for leftovers", &e.to_string()),
        },
        (Some(task), None) => match serde_json::from_str(&task) {
            Ok(task) => play(task),
            Err(e) => fail("reading the task", &e.to_string()),
        },
        _ => fail("reading the arguments", "expected one task, in JSON"),
    }
}

fn play(task: Task) -> ExitCode {
    sockets::raise_descriptor_limit();
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(e) => return fail("starting", &e.to_string()),
    };
    let local = LocalSet::new();
    let result = local.block_on(&runtime, async {
        match task {
            Task::Serve(serve) => serve::run(serve).await,
            Task::Connect(connect) => connect::run(connect).await,
            Task::HealthServe { listen } => health::serve(listen).await,
            Task::HealthAsk { to } => health::ask(to).await,
            Task::UdpEcho { listen } => udp::echo(listen).await,
            Task::UdpAsk { from, to, how } => udp::ask(from, to, how).await,
        }
    });
    // A thread may still wait for standard input, for ever.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => fail("playing the task", &report::error_name(&e)),
    }
}

fn fail(what: &str, error: &str) -> ExitCode {
    report::say(&Event::Failed {
        what: what.to_owned(),
        error: error.to_owned(),
    });
    ExitCode::FAILURE
}
