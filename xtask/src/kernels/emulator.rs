//! One run of an emulated machine, watched over its serial console.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use super::image::Kernel;
use super::initramfs::VERDICT;
use crate::failure::{Failure, Result, While};
use crate::say::Stopwatch;

/// How much of the console a failure shows.
const LAST_LINES: usize = 40;

/// Boots it and waits for the verdict; never longer than the limit.
pub(super) fn run(kernel: &Kernel, initramfs: &Path, limit: Duration) -> Result {
    let mut log = create(&kernel.log())?;
    let mut machine = Machine(start(kernel, initramfs)?);
    let console = machine
        .0
        .stdout
        .take()
        .ok_or_else(|| Failure::new("the emulator has no console"))?;
    let (lines, console_lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(console)
            .split(b'\n')
            .map_while(std::result::Result::ok)
        {
            // The receiver is gone once the verdict is in.
            let _ = lines.send(String::from_utf8_lossy(&line).trim_end().to_owned());
        }
    });
    let clock = Stopwatch::start();
    let mut said = Vec::new();
    loop {
        let line = match console_lines.recv_timeout(limit.saturating_sub(clock.elapsed())) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => {
                return Err(unfinished(
                    &said,
                    &format!("no verdict within {} s", limit.as_secs()),
                ));
            }
            Err(RecvTimeoutError::Disconnected) => {
                return Err(unfinished(&said, "the machine stopped without a verdict"));
            }
        };
        let _ = writeln!(log, "{line}");
        if line.starts_with("test ") {
            println!("{line}");
        }
        match line.split_once(VERDICT).map(|(_, verdict)| verdict.trim()) {
            Some("0") => return ran_something(&said),
            Some(code) => {
                return Err(unfinished(
                    &said,
                    &format!("the stories ended with exit code {code}"),
                ));
            }
            None => said.push(line),
        }
    }
}

/// A filter that matches nothing is no pass.
fn ran_something(said: &[String]) -> Result {
    let passed = said
        .iter()
        .any(|line| line.starts_with("test result: ok.") && !line.contains(" 0 passed"));
    if passed {
        Ok(())
    } else {
        Err(unfinished(said, "no story ran"))
    }
}

fn unfinished(said: &[String], what: &str) -> Failure {
    // What went well is on the terminal already.
    let telling: Vec<_> = said
        .iter()
        .filter(|line| !line.ends_with(" ... ok"))
        .map(String::as_str)
        .collect();
    let last = &telling[telling.len().saturating_sub(LAST_LINES)..];
    Failure::new(format!(
        "{what}; the console's last lines:\n  {}",
        last.join("\n  ")
    ))
}

fn start(kernel: &Kernel, initramfs: &Path) -> Result<Child> {
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args([
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        "-display",
        "none",
        "-serial",
        "stdio",
    ]);
    // No hardware help: where machines are nested, /dev/kvm may be there and hang.
    qemu.args([
        "-machine",
        "pc,accel=tcg",
        "-cpu",
        "max",
        "-smp",
        "2",
        "-m",
        "2048",
    ]);
    qemu.args(["-append", "console=ttyS0 quiet panic=-1 oops=panic"]);
    qemu.arg("-kernel")
        .arg(kernel.image())
        .arg("-initrd")
        .arg(initramfs);
    qemu.stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    qemu.spawn().doing("starting qemu-system-x86_64")
}

fn create(log: &Path) -> Result<File> {
    if let Some(folder) = log.parent() {
        fs::create_dir_all(folder).doing(format_args!("making {}", folder.display()))?;
    }
    File::create(log).doing(format_args!("making {}", log.display()))
}

/// Stops when it is dropped.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
