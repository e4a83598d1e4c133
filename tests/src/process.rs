//! Programs that a scene starts, inside of a network namespace and a cgroup,
//! with a limit on everything that waits for them.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User};

use crate::cgroup::Cgroup;
use crate::deadline::{Deadline, PATIENCE};
use crate::error::{Doing, Error, Result};
use crate::mounts::Mounts;
use crate::netns::Netns;
use crate::place::Place;
use crate::programs;
use crate::talker::Talker;

/// A program about to be started.
#[derive(Debug)]
pub struct Spawn {
    command: Command,
    name: String,
    logs: PathBuf,
    place: Place,
    patience: Duration,
}

impl Spawn {
    /// `program` is a path or a name for `programs::need`; `logs` is the
    /// folder that takes its output.
    pub fn new(program: impl AsRef<OsStr>, logs: &Path) -> Result<Self> {
        let mut path = PathBuf::from(program.as_ref());
        if !path.is_absolute() {
            path = programs::need(&path.to_string_lossy())?;
        }
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        let mut command = Command::new(path);
        // Ctrl-C goes to the harness alone, which then ends its children.
        command.process_group(0).stdin(Stdio::null());
        Ok(Self {
            command,
            name,
            logs: logs.to_owned(),
            place: Place::default(),
            patience: PATIENCE,
        })
    }

    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.command.args(args);
        self
    }

    #[must_use]
    pub fn env(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(key, value);
        self
    }

    /// Runs in the namespace.
    #[must_use]
    pub fn netns(mut self, netns: &Netns) -> Self {
        self.place.netns = Some(netns.clone());
        self
    }

    /// Sees a node's file systems; `program` is found there.
    #[must_use]
    pub fn mounts(mut self, mounts: &Mounts) -> Self {
        self.place.mounts = Some(mounts.clone());
        self
    }

    /// Runs in the cgroup from its first instruction on: the kernel's hooks
    /// follow the cgroup in which a socket was made.
    #[must_use]
    pub fn cgroup(mut self, cgroup: &Cgroup) -> Self {
        self.place.cgroup = Some(cgroup.path().to_owned());
        self
    }

    /// Runs as another user, as PostgreSQL demands.
    pub fn user(mut self, name: &str) -> Result<Self> {
        let user = User::from_name(name)
            .doing(|| format!("looking up the user {name}"))?
            .ok_or_else(|| Error::Unexpected(format!("there is no user {name}")))?;
        self.place.user = Some(user);
        Ok(self)
    }

    /// Gives it a limit of open file descriptors.
    #[must_use]
    pub fn descriptors(mut self, limit: u64) -> Self {
        self.place.descriptors = Some(limit);
        self
    }

    /// System V shared memory goes with the process, also when it is killed.
    #[must_use]
    pub fn private_ipc(mut self) -> Self {
        self.place.private_ipc = true;
        self
    }

    /// Resolves names as this file says, in place of the machine's.
    #[must_use]
    pub fn resolver(mut self, file: &Path) -> Self {
        self.place.resolver = Some(file.to_owned());
        self
    }

    /// Names the log file; without it the program does.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// How long `output` waits for the program's end.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Starts a program whose output goes to its log file.
    pub fn start(mut self) -> Result<Process> {
        let log = self.open_log()?;
        let copy = log.try_clone().doing(|| "copying a descriptor")?;
        self.command.stdout(copy).stderr(log);
        self.launch()
    }

    /// Starts a program that speaks in lines on its standard output.
    pub fn start_talking(mut self) -> Result<Talker> {
        let log = self.open_log()?;
        self.command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log);
        let mut process = self.launch()?;
        let (stdin, stdout) = (process.child.stdin.take(), process.child.stdout.take());
        Ok(Talker::new(process, stdin, stdout))
    }

    /// Runs a program to its end.
    pub fn output(mut self) -> Result<Output> {
        self.command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let patience = self.patience;
        let mut process = self.launch()?;
        let stdout = collect(process.child.stdout.take());
        let stderr = collect(process.child.stderr.take());
        let ended = process.wait(Deadline::after(patience));
        if ended.is_err() {
            process.kill()?;
        }
        let (stdout, stderr) = (joined(stdout), joined(stderr));
        match ended {
            Ok(status) => Ok(Output {
                command: process.command.clone(),
                status,
                stdout,
                stderr,
            }),
            Err(Error::TimedOut { waiting_for, .. }) => Err(Error::TimedOut {
                waiting_for,
                seen: format!("{stdout}{stderr}"),
            }),
            Err(other) => Err(other),
        }
    }

    fn open_log(&self) -> Result<File> {
        let path = self.log_path();
        fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .doing(|| format!("opening {}", path.display()))
    }

    fn log_path(&self) -> PathBuf {
        self.logs.join(format!("{}.log", self.name))
    }

    fn launch(mut self) -> Result<Process> {
        let log = self.log_path();
        let shown = format!("{:?}", self.command);
        self.place.take(&mut self.command)?;
        let child = self
            .command
            .spawn()
            .doing(|| format!("starting {}", self.name))?;
        let pidfd = pidfd_open(child.id()).doing(|| "opening a pidfd")?;
        Ok(Process {
            child,
            pidfd,
            command: shown,
            log,
        })
    }
}

#[expect(unsafe_code, reason = "nix has no pidfd_open")]
fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: plain integers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// What a program that ran to its end said.
#[derive(Debug)]
pub struct Output {
    pub command: String,
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    /// Its standard output, if it succeeded.
    pub fn success(self) -> Result<String> {
        if self.status.success() {
            return Ok(self.stdout);
        }
        Err(Error::Command {
            command: self.command,
            status: self.status.to_string(),
            output: format!("{}{}", self.stdout, self.stderr),
        })
    }
}

/// A running program, killed with its process group when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    pidfd: OwnedFd,
    command: String,
    log: PathBuf,
}

impl Process {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote so far.
    pub fn log(&self) -> String {
        fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    pub fn log_path(&self) -> &Path {
        &self.log
    }

    pub fn signal(&self, signal: Signal) -> Result {
        kill(self.own_pid(), signal).doing(|| format!("sending {signal} to {}", self.command))
    }

    /// Stops it where it is: what waits for it hears nothing, its sockets stay
    /// open, and the kernel goes on to accept at them.
    pub fn freeze(&self) -> Result {
        self.signal(Signal::SIGSTOP)
    }

    pub fn thaw(&self) -> Result {
        self.signal(Signal::SIGCONT)
    }

    /// Kills it with its process group and waits for its end.
    pub fn kill(&mut self) -> Result {
        // It may have ended by itself; the wait below tells.
        let _ = kill(Pid::from_raw(-self.own_pid().as_raw()), Signal::SIGKILL);
        self.wait(Deadline::default()).map(drop)
    }

    /// Waits for its end.
    pub fn wait(&mut self, deadline: Deadline) -> Result<ExitStatus> {
        let mut fds = [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)];
        // One poll waits for a minute at most.
        while poll(&mut fds, deadline.left_for_poll()).doing(|| "waiting for a pidfd")? == 0 {
            if deadline.passed() {
                return Err(Error::TimedOut {
                    waiting_for: format!("the end of {}", self.command),
                    seen: self.log(),
                });
            }
        }
        self.child
            .wait()
            .doing(|| format!("waiting for {}", self.command))
    }

    /// What was run, as in a shell.
    pub fn command(&self) -> &str {
        &self.command
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Says why it ended, with the end of its log; `Ok` while it runs.
    pub fn must_run(&mut self) -> Result {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(Error::Command {
                command: self.command.clone(),
                status: match status.signal() {
                    Some(signal) => format!("ended by signal {signal}"),
                    None => format!("ended too early, {status}"),
                },
                output: tail(&self.log(), 40),
            }),
            Err(e) => Err(e).doing(|| format!("looking at {}", self.command)),
        }
    }

    /// Open descriptors now.
    pub fn descriptors(&self) -> Result<usize> {
        let folder = format!("/proc/{}/fd", self.pid());
        Ok(fs::read_dir(&folder)
            .doing(|| format!("reading {folder}"))?
            .count())
    }

    /// Resident memory now, in bytes.
    pub fn resident(&self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.pid());
        let text = fs::read_to_string(&path).doing(|| format!("reading {path}"))?;
        text.lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|rest| rest.trim().strip_suffix(" kB")?.parse::<u64>().ok())
            .map(|kib| kib * 1024)
            .ok_or_else(|| Error::Unreadable {
                what: path,
                why: "no VmRSS line".into(),
            })
    }

    /// User and system CPU time used so far, by all its threads.
    pub fn cpu(&self) -> Result<Duration> {
        let path = format!("/proc/{}/stat", self.pid());
        let text = fs::read_to_string(&path).doing(|| format!("reading {path}"))?;
        // Fields 14 and 15, in ticks of 10 ms; the name in brackets may hold spaces.
        let ticks = text.rsplit_once(')').and_then(|(_, rest)| {
            let mut fields = rest.split_whitespace().skip(11);
            let user: u64 = fields.next()?.parse().ok()?;
            let system: u64 = fields.next()?.parse().ok()?;
            Some(user + system)
        });
        ticks
            .map(|ticks| Duration::from_millis(ticks * 10))
            .ok_or_else(|| Error::Unreadable {
                what: path,
                why: "it has too few fields".into(),
            })
    }

    fn own_pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The scene's cgroup kills and counts what this does not reach.
        let _ = self.kill();
    }
}

type Collected = Option<JoinHandle<Vec<u8>>>;

fn collect(pipe: Option<impl Read + Send + 'static>) -> Collected {
    pipe.map(|mut pipe| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            // What was read before an error is what there is to show.
            let _ = pipe.read_to_end(&mut bytes);
            bytes
        })
    })
}

fn joined(collected: Collected) -> String {
    let bytes = collected
        .and_then(|thread| thread.join().ok())
        .unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The last lines of a log.
pub(crate) fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Spawn {
        Spawn::new("sh", &std::env::temp_dir())
            .unwrap()
            .args(["-c", script])
    }

    #[test]
    fn collects_what_a_program_says() {
        let output = shell("echo out; echo err >&2; exit 3").output().unwrap();
        assert_eq!(output.stdout, "out\n");
        assert_eq!(output.stderr, "err\n");
        let failed = output.success().unwrap_err().to_string();
        assert!(failed.contains("exit status: 3") && failed.contains("err"));
    }

    #[test]
    fn does_not_wait_for_ever() {
        let stuck = shell("echo so far; exec sleep 600")
            .patience(Duration::from_millis(300))
            .output();
        let message = stuck.unwrap_err().to_string();
        assert!(message.contains("timed out") && message.contains("so far"));
    }
}
