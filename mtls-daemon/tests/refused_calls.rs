//! What this process may not do any more once its calls are refused. That is
//! for good, so a copy of this test is what it happens to.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::File;
use std::io;
use std::process::Command;

use mtls_daemon::rights::{Caller, refuse_calls};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl;

fn in_a_copy(test: &str) {
    let copy = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--test-threads=1"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&copy.stdout);
    assert!(copy.status.success() && said.contains("1 passed"), "{said}");
}

#[test]
fn the_daemon() {
    in_a_copy("as_the_daemon");
}

#[test]
fn the_helper() {
    in_a_copy("as_the_helper");
}

#[test]
#[ignore = "ends what this process can do: `the_daemon` runs it in a copy"]
fn as_the_daemon() {
    refuse(Caller::Daemon);
    // Its own namespace would be no change, and needs CAP_SYS_ADMIN.
    let own = File::open("/proc/self/ns/net").unwrap();
    assert_eq!(setns(own, CloneFlags::CLONE_NEWNET), Err(nix::Error::EPERM));
    what_nobody_may();
}

#[test]
#[ignore = "ends what this process can do: `the_helper` runs it in a copy"]
fn as_the_helper() {
    let own = File::open("/proc/self/ns/net").unwrap();
    let before = setns(&own, CloneFlags::CLONE_NEWNET);
    refuse(Caller::Helper);
    // As the kernel would have it of whoever runs this.
    assert_eq!(setns(own, CloneFlags::CLONE_NEWNET), before);
    what_nobody_may();
}

fn refuse(caller: Caller) {
    let before = std::thread::spawn(|| {
        // Of a thread from before, too.
        std::thread::park();
        program()
    });
    prctl::set_no_new_privs().unwrap();
    refuse_calls(caller).unwrap();
    before.thread().unpark();
    assert_eq!(before.join().unwrap(), Some(libc::EPERM));
}

fn what_nobody_may() {
    assert_eq!(program(), Some(libc::EPERM));
    // Whatever its rights, whoever asks: without the filter this makes one.
    assert_eq!(unshare(CloneFlags::CLONE_NEWUSER), Err(nix::Error::EPERM));
    assert_eq!(
        call(libc::SYS_clone, libc::CLONE_NEWUSER),
        Some(libc::EPERM)
    );
    assert_eq!(call(libc::SYS_clone3, 0), Some(libc::ENOSYS));
    assert_eq!(call(libc::SYS_keyctl, -1), Some(libc::EPERM));
    #[cfg(target_arch = "x86_64")]
    assert_eq!(call(0x4000_0000 | libc::SYS_getpid, 0), Some(libc::EPERM));

    // Everything else goes on: threads, files, sockets.
    let thread = std::thread::spawn(|| File::open("/proc/self/status").is_ok());
    assert!(thread.join().unwrap());
    assert!(std::net::TcpListener::bind("127.0.0.1:0").is_ok());
}

/// The error of running one.
fn program() -> Option<i32> {
    let error = Command::new("true").status().err()?;
    error.raw_os_error()
}

fn call(number: libc::c_long, argument: i32) -> Option<i32> {
    #[expect(unsafe_code, reason = "calls that no library makes")]
    // SAFETY: each is refused before it reads its arguments.
    let answer = unsafe { libc::syscall(number, argument, 0, 0, 0, 0) };
    (answer == -1)
        .then(io::Error::last_os_error)?
        .raw_os_error()
}
