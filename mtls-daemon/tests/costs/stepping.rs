//! Counting instructions where the processor counts none for us, as in most
//! virtual machines: a child is run one instruction at a time.

use std::env;
use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use nix::sys::ptrace;
use nix::sys::signal::{Signal, raise};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, gettid};

/// Set for the child.
const STEPPED: &str = "MTLS_STEPPED";

/// Whether this process is one that somebody steps through.
pub(crate) fn is_stepped() -> bool {
    env::var_os(STEPPED).is_some()
}

/// From here on the calling thread is stepped through, until the last [`lap`].
pub(crate) fn enter() {
    // First of all: who waits for a thread that it does not trace is told that
    // there is none.
    ptrace::traceme().unwrap();
    // A line of its own: the harness writes to the same place.
    let mut said = io::stdout();
    writeln!(said, "\nstepped {}", gettid()).unwrap();
    raise(Signal::SIGSTOP).unwrap();
}

/// What came since `enter`, or since the last one, was one lap.
pub(crate) fn lap() {
    raise(Signal::SIGSTOP).unwrap();
}

/// How many instructions the test of that name needs for the shortest of so
/// many laps. The test has stopped its clock: an instruction takes 30 to 200 us,
/// and what timers add by then differs from machine to machine. Without them
/// laps differ by a hundredth, and by two with fewer features of the processor.
/// A lap of more than `most` is given up.
pub(crate) fn shortest_lap(test: &str, laps: u32, most: u64) -> u64 {
    let mut child = Stepped(
        Command::new(env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env(STEPPED, "1")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut lines = BufReader::new(child.0.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok);
    let thread = lines
        .find_map(|line| line.strip_prefix("stepped ")?.trim().parse().ok())
        .map(Pid::from_raw)
        .expect("the child says which thread to step through");
    assert_eq!(next_stop(thread), Signal::SIGSTOP);
    ptrace::setoptions(thread, ptrace::Options::PTRACE_O_EXITKILL).unwrap();
    let mut shortest = u64::MAX;
    for _ in 0..laps {
        let mut steps = 0;
        let mut signal = None;
        loop {
            ptrace::step(thread, signal).unwrap();
            match next_stop(thread) {
                Signal::SIGTRAP => steps += 1,
                Signal::SIGSTOP => break,
                other => signal = Some(other),
            }
            assert!(steps <= most, "a lap of more than {most} instructions");
        }
        shortest = shortest.min(steps);
    }
    ptrace::detach(thread, None).unwrap();
    lines.for_each(drop);
    assert!(child.0.wait().unwrap().success());
    shortest
}

/// The child, which a test that fails does not leave behind, stopped.
struct Stepped(Child);

impl Drop for Stepped {
    fn drop(&mut self) {
        // It has ended already, unless the test fails.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn next_stop(thread: Pid) -> Signal {
    match waitpid(thread, Some(WaitPidFlag::__WALL)) {
        Ok(WaitStatus::Stopped(_, signal)) => signal,
        other => panic!("the child has ended: {other:?}"),
    }
}
