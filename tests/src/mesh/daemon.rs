//! A node's daemon: the real program, started, killed, asked.

use std::fs;
use std::net::IpAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::http;
use super::metrics::Metrics;
use crate::cgroup::Cgroup;
use crate::deadline::{Deadline, wait_for};
use crate::error::{Doing, Error, Result, ensure};
use crate::node::Node;
use crate::pod::Pod;
use crate::process::{Output, Process, Spawn};
use crate::programs;

/// Where the daemon runs, seen from where it attaches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Position {
    /// As a pod of a DaemonSet: its own hooks would see it, if it did not
    /// exempt itself.
    #[default]
    Below,
    /// As a system service.
    Outside,
}

/// A daemon with its files. Dropping it removes its pins, too, and with them
/// all enforcement.
#[derive(Debug)]
pub struct Daemon {
    node: Node,
    process: Option<Process>,
    cgroup: Cgroup,
    bpffs: PathBuf,
    config: PathBuf,
    admin: PathBuf,
    descriptors: Option<u64>,
    /// File that says how far its clock is from the machine's.
    clock: Option<PathBuf>,
    resolver: Option<PathBuf>,
}

impl Daemon {
    /// Makes what the daemon needs, and starts nothing.
    pub(super) fn prepare(node: &Node, position: Position) -> Result<Self> {
        let folder = node.scene().dir().join(format!("daemon-{}", node.name()));
        let bpffs = folder.join("bpf");
        fs::create_dir_all(&bpffs).doing(|| format!("making {}", bpffs.display()))?;
        mount_bpffs(&bpffs)?;
        let cgroup = match position {
            Position::Below => node.cgroup().child("daemon")?,
            Position::Outside => node
                .scene()
                .cgroup()
                .child(&format!("daemon-{}", node.name()))?,
        };
        Ok(Self {
            node: node.clone(),
            process: None,
            cgroup,
            config: folder.join("config.toml"),
            admin: folder.join("admin.sock"),
            bpffs,
            descriptors: None,
            clock: None,
            resolver: None,
        })
    }

    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Folder of the pins, on a bpffs of its own.
    pub fn pins(&self) -> PathBuf {
        self.bpffs.join("mtls-daemon")
    }

    pub fn admin(&self) -> &Path {
        &self.admin
    }

    pub fn config(&self) -> &Path {
        &self.config
    }

    /// Text of the configuration's file.
    pub fn configuration(&self) -> Result<String> {
        fs::read_to_string(&self.config).doing(|| format!("reading {}", self.config.display()))
    }

    /// Replaces the configuration's file; the daemon reads it at its next
    /// start or reload.
    pub fn configure(&self, toml: &str) -> Result {
        fs::write(&self.config, toml).doing(|| format!("writing {}", self.config.display()))
    }

    /// Limits the open descriptors, from its next start on.
    pub fn limit_descriptors(&mut self, limit: u64) {
        self.descriptors = Some(limit);
    }

    /// Gives it a clock of its own, from its next start on.
    pub fn own_clock(&mut self) -> Result {
        self.clock = Some(self.config.with_file_name("clock"));
        self.step_clock("+0")
    }

    /// Lets it resolve names at a server of its own, from its next start on.
    pub fn resolve_at(&mut self, server: IpAddr) -> Result {
        let file = self.config.with_file_name("resolv.conf");
        fs::write(&file, format!("nameserver {server}\n"))
            .doing(|| format!("writing {}", file.display()))?;
        self.resolver = Some(file);
        Ok(())
    }

    /// Arms its node as it is done at a boot, before it starts.
    pub fn arm_gate(&self) -> Result {
        let config = self.config.to_string_lossy();
        let said = self.command(&["gate", "--config", &config])?.success()?;
        ensure(said.starts_with("armed"), || said.clone())
    }

    /// Steps its own clock to so far from the machine's: `+3h`, `-90m`.
    pub fn step_clock(&self, offset: &str) -> Result {
        let Some(file) = &self.clock else {
            return Err(Error::Unexpected("it has the machine's clock".into()));
        };
        // Read at any moment: half an offset would be another one.
        let new = file.with_extension("new");
        fs::write(&new, offset)
            .and_then(|()| fs::rename(&new, file))
            .doing(|| "stepping a daemon's clock")
    }

    /// Starts it and waits until it is ready, with all its workloads.
    pub fn start(&mut self) -> Result {
        self.launch()?;
        self.wait_until_ready()
    }

    /// Starts it.
    pub fn launch(&mut self) -> Result {
        ensure(self.process.is_none(), || "the daemon runs already")?;
        let mut spawn = self.program()?.cgroup(&self.cgroup);
        if let Some(limit) = self.descriptors {
            spawn = spawn.descriptors(limit);
        }
        if let Some(file) = &self.resolver {
            spawn = spawn.resolver(file);
        }
        let process = spawn.args(["run", "--config"]).arg(&self.config).start()?;
        self.process = Some(process);
        Ok(())
    }

    /// Waits until it says that it is ready, and that all workloads are.
    pub fn wait_until_ready(&mut self) -> Result {
        let deadline = Deadline::default();
        let node = self.node.clone();
        let mut last = String::from("nothing answered");
        let ready = wait_for(
            deadline,
            || format!("the daemon of node {} to be ready", node.name()),
            || {
                self.process()?.must_run()?;
                last = match self.get("/readyz") {
                    Ok((200, _)) => return Ok(Some(())),
                    Ok((status, body)) => format!("/readyz said {status}: {body}"),
                    // Not listening yet.
                    Err(e) => e.to_string(),
                };
                Ok(None)
            },
        );
        match ready {
            Err(Error::TimedOut { waiting_for, .. }) => Err(Error::TimedOut {
                waiting_for,
                seen: last,
            }),
            Err(e) => Err(e),
            Ok(()) => self.ensure_workloads_are_ready(),
        }
    }

    /// Waits until it says that it is not, and why.
    pub fn wait_until_not_ready(&self, why: &str) -> Result {
        wait_for(
            Deadline::default(),
            || format!("the daemon of node {} to say: {why}", self.node.name()),
            || {
                let (status, body) = self.get("/readyz")?;
                Ok((status == 503 && body.contains(why)).then_some(()))
            },
        )
    }

    /// Ready, for a node, means that a workload may have failed for a reason.
    fn ensure_workloads_are_ready(&self) -> Result {
        let status = self.status()?;
        let ill: Vec<&Value> = workloads(&status)
            .filter(|workload| workload["state"] != "ready")
            .collect();
        ensure(ill.is_empty(), || {
            format!("workloads are not ready: {ill:?}")
        })
    }

    /// kill -9, as a crash would end it.
    pub fn kill(&mut self) -> Result {
        match self.process.take() {
            Some(mut process) => process.kill(),
            None => Ok(()),
        }
    }

    /// Lets it take so many bytes of memory more than it has now.
    pub fn limit_memory(&self, more: Option<u64>) -> Result {
        self.cgroup.limit_memory(more)
    }

    /// Waits until it has ended; the signal that ended it, unless it ended itself.
    pub fn ended_by(&mut self, within: Duration) -> Result<Option<i32>> {
        let status = self.process()?.wait(Deadline::after(within))?;
        self.process = None;
        Ok(status.signal())
    }

    /// SIGTERM: drains, and ends within `within`.
    pub fn terminate(&mut self, within: Duration) -> Result {
        self.begin_drain()?;
        self.ensure_ends_well(within)
    }

    /// SIGTERM.
    pub fn begin_drain(&mut self) -> Result {
        self.process()?.signal(Signal::SIGTERM)
    }

    pub fn ensure_ends_well(&mut self, within: Duration) -> Result {
        let Some(mut process) = self.process.take() else {
            return Ok(());
        };
        let status = process.wait(Deadline::after(within))?;
        ensure(status.success(), || format!("after SIGTERM: {status}"))
    }

    /// Waits until its status shows the phase: starting, serving, draining.
    pub fn wait_for_phase(&self, phase: &str) -> Result {
        wait_for(
            Deadline::default(),
            || format!("the daemon of node {} to be {phase}", self.node.name()),
            || Ok((self.status()?["status"]["phase"] == phase).then_some(())),
        )
    }

    /// Takes its enforcement away, by its own command.
    pub fn detach(&self) -> Result {
        let pins = self.pins().to_string_lossy().into_owned();
        self.command(&["detach", "--pins", &pins])?
            .success()
            .map(drop)
    }

    /// Takes its enforcement away without it.
    pub fn remove_pins(&self) -> Result {
        crate::run::remove_folder(&self.pins())
    }

    /// Takes the file system with the pins out of its place.
    pub fn unmount_bpffs(&self) -> Result {
        umount2(&self.bpffs, MntFlags::MNT_DETACH)
            .doing(|| format!("unmounting {}", self.bpffs.display()))
    }

    /// Mounts a new one there.
    pub fn mount_bpffs(&self) -> Result {
        mount_bpffs(&self.bpffs)
    }

    /// What its commands give as --socket.
    pub fn admin_socket(&self) -> String {
        self.admin.to_string_lossy().into_owned()
    }

    /// `enrol --wait`: returns when the pod's hooks, listeners and first
    /// certificate are in place.
    pub fn enrol_and_wait(&self, pod: &Pod) -> Result {
        let netns = pod.netns().path().to_string_lossy().into_owned();
        let socket = self.admin.to_string_lossy().into_owned();
        self.command(&["enrol", "--wait", "--socket", &socket, "--netns", &netns])?
            .success()
            .map(drop)
    }

    /// SIGHUP: reads its configuration again.
    pub fn reload(&mut self) -> Result {
        self.process()?.signal(Signal::SIGHUP)
    }

    pub fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(Process::is_running)
    }

    /// The running program.
    pub fn process(&mut self) -> Result<&mut Process> {
        self.process
            .as_mut()
            .ok_or_else(|| Error::Unexpected("the daemon does not run".into()))
    }

    /// A subcommand of the program, run in the node's namespace.
    pub fn command(&self, words: &[&str]) -> Result<Output> {
        self.program()?
            .named(&format!("cli-{}", self.node.name()))
            .args(words)
            .output()
    }

    /// A subcommand that speaks to this daemon and answers in JSON; also when
    /// it fails because the node is not well.
    pub fn ask(&self, word: &str) -> Result<Value> {
        let socket = self.admin.to_string_lossy().into_owned();
        let answer = self.command(&[word, "--socket", &socket, "--output", "json"])?;
        match serde_json::from_str(&answer.stdout) {
            Ok(answer) => Ok(answer),
            Err(e) => Err(Error::Unreadable {
                what: format!("the answer to {word}: {}{}", answer.stdout, answer.stderr),
                why: e.to_string(),
            }),
        }
    }

    pub fn status(&self) -> Result<Value> {
        self.ask("status")
    }

    pub fn metrics(&self) -> Result<Metrics> {
        let (status, body) = self.get("/metrics")?;
        ensure(status == 200, || format!("/metrics said {status}: {body}"))?;
        Metrics::parse(&body)
    }

    /// Scrapes until the metrics satisfy `holds`: counters are summed a
    /// moment after what they count.
    pub fn wait_for_metrics(
        &self,
        what: &str,
        holds: impl Fn(&Metrics) -> bool,
    ) -> Result<Metrics> {
        wait_for(
            Deadline::default(),
            || format!("metrics of node {}: {what}", self.node.name()),
            || Ok(Some(self.metrics()?).filter(&holds)),
        )
    }

    /// Lines of the access log so far.
    pub fn access_log(&self) -> Vec<Value> {
        self.log_events()
            .into_iter()
            .filter(|event| event["target"] == "access")
            .collect()
    }

    /// Waits for a line of the access log: it is written at the end of a
    /// connection, which its client may see first.
    pub fn wait_for_access(&self, what: &str, is_it: impl Fn(&Value) -> bool) -> Result<Value> {
        wait_for(
            Deadline::default(),
            || format!("a line of node {}'s access log: {what}", self.node.name()),
            || Ok(self.access_log().into_iter().find(&is_it)),
        )
    }

    /// Waits for an event of its log.
    pub fn wait_for_log(&self, what: &str, is_it: impl Fn(&Value) -> bool) -> Result<Value> {
        wait_for(
            Deadline::default(),
            || format!("an event of node {}'s log: {what}", self.node.name()),
            || Ok(self.log_events().into_iter().find(&is_it)),
        )
    }

    /// Lines of its log that are JSON.
    pub fn log_events(&self) -> Vec<Value> {
        self.log()
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// Where its log goes, from its next start on.
    pub fn log_path(&self) -> PathBuf {
        let logs = self.node.scene().logs();
        logs.join(format!("{}.log", self.log_name()))
    }

    /// All that it logged, over its restarts.
    pub fn log(&self) -> String {
        let path = self.node.scene().logs().join(self.log_name() + ".log");
        fs::read(path)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// GET from its metrics address, inside of the node's namespace.
    pub fn get(&self, path: &str) -> Result<(u16, String)> {
        let answer = self.node.netns().run(|| http::get(path))?;
        answer.doing(|| {
            format!(
                "getting {path} from the daemon of node {}",
                self.node.name()
            )
        })
    }

    fn program(&self) -> Result<Spawn> {
        let mut spawn = self
            .node
            .spawn(programs::daemon()?)?
            .named(&self.log_name())
            .env("RUST_BACKTRACE", "1");
        if let Some(file) = &self.clock {
            spawn = spawn
                .env("LD_PRELOAD", programs::libfaketime()?)
                .env("FAKETIME_TIMESTAMP_FILE", file)
                .env("FAKETIME_NO_CACHE", "1")
                .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        }
        Ok(spawn)
    }

    fn log_name(&self) -> String {
        format!("daemon-{}", self.node.name())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.kill();
        // Without its bpffs the pins go, and with them links and maps.
        let _ = umount2(&self.bpffs, MntFlags::MNT_DETACH);
    }
}

fn mount_bpffs(at: &Path) -> Result {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("bpf"), at, Some("bpf"), flags, Some("mode=0700"))
        .doing(|| format!("mounting a bpffs on {}", at.display()))
}

/// The workloads of a status.
pub fn workloads(status: &Value) -> impl Iterator<Item = &Value> {
    status["status"]["workloads"]
        .as_array()
        .into_iter()
        .flatten()
}
