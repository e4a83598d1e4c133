//! Telling systemd that the daemon is ready, alive or stopping (sd_notify(3)).

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::rc::Rc;
use std::time::Duration;

use tokio::time::timeout;

use super::Desk;
use super::view::{Phase, WorkloadState};

/// The socket that systemd gave us, and how often it wants to hear from us.
pub(super) struct Systemd {
    socket: UnixDatagram,
    address: SocketAddr,
    watchdog: Option<Duration>,
}

impl Systemd {
    /// `None` when something else started us.
    pub(super) fn from_environment() -> Option<Self> {
        let name = env::var_os("NOTIFY_SOCKET")?;
        let for_us = env::var("WATCHDOG_PID")
            .ok()
            .is_none_or(|pid| pid == std::process::id().to_string());
        let watchdog = env::var("WATCHDOG_USEC")
            .ok()
            .and_then(|micros| micros.parse().ok())
            .map(Duration::from_micros)
            .filter(|_| for_us);
        Self::new(&name, watchdog)
            .inspect_err(|error| tracing::warn!(%error, "systemd cannot be told anything"))
            .ok()
    }

    fn new(name: &OsStr, watchdog: Option<Duration>) -> io::Result<Self> {
        let address = match name.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(name)?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            address,
            watchdog,
        })
    }

    fn send(&self, message: &str) {
        if let Err(error) = self.socket.send_to_addr(message.as_bytes(), &self.address) {
            tracing::debug!(%error, "systemd was not told: {message}");
        }
    }
}

/// Ready once enforcement is attached, whatever single workloads lack.
pub(super) async fn tell(systemd: Systemd, desk: Rc<Desk>) {
    let every = systemd
        .watchdog
        .map_or(Duration::from_secs(5), |limit| limit / 3);
    let mut changes = desk.view.changes();
    let (mut ready, mut stopping) = (false, false);
    let mut said = String::new();
    loop {
        let status = desk.view.status();
        if !ready && matches!(status.phase, Phase::Serving) {
            ready = true;
            systemd.send("READY=1");
        }
        if !stopping && matches!(status.phase, Phase::Draining { .. }) {
            stopping = true;
            systemd.send("STOPPING=1");
        }
        let failed = |state: &WorkloadState| matches!(state, WorkloadState::Failed { .. });
        let failures = status.workloads.iter().filter(|w| failed(&w.state)).count();
        let phase = match status.phase {
            Phase::Starting => "Starting",
            Phase::Serving => "Serving",
            Phase::Detached { .. } => "Detached",
            Phase::Draining { .. } => "Draining",
        };
        let all = status.workloads.len();
        let line = format!("STATUS={phase}: {all} workloads, {failures} of them failed");
        if line != said {
            systemd.send(&line);
            said = line;
        }
        // Without it, systemd restarts a daemon that is stuck.
        if systemd.watchdog.is_some() && desk.healthy().good() {
            systemd.send("WATCHDOG=1");
        }
        if let Ok(Err(_gone)) = timeout(every, changes.changed()).await {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_abstract_name_and_a_path_are_both_addresses() {
        let listener = UnixDatagram::bind_addr(
            &SocketAddr::from_abstract_name(format!("mtls-notify-{}", std::process::id())).unwrap(),
        )
        .unwrap();
        let name = format!("@mtls-notify-{}", std::process::id());
        Systemd::new(OsStr::new(&name), None)
            .unwrap()
            .send("READY=1");
        let mut buffer = [0; 64];
        let length = listener.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"READY=1");
        assert!(Systemd::new(OsStr::new("/run/nobody"), None).is_ok());
    }
}
