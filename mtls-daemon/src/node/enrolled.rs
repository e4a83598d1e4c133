//! One workload of the configuration, and what has become of it.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::Instant;

use crate::admin::view::WorkloadState;
use crate::cni::Sandbox;
use crate::config::{self, Mode, Place};
use crate::identity::WorkloadIdentity;
use crate::locate::{LocateError, Located, locate, locate_again};
use crate::netns::{Cookie, Netns};
use crate::reason::Reason;
use crate::workload::Workload;

pub struct Enrolled {
    pub wanted: config::Workload,
    pub mode: Mode,
    pub identity: watch::Receiver<WorkloadIdentity>,
    pub placed: Placed,
    /// Since when it is placed so.
    pub since: Option<SystemTime>,
    /// Since when what it says and hears in clear passes by the daemon's eyes.
    watched_since: Option<Instant>,
    /// Where a pod was found.
    pod: Option<PathBuf>,
    /// What its network plug-in has brought, until a process of it is found.
    pub sandbox: Option<Sandbox>,
}

/// How far a workload's network namespace has come.
pub enum Placed {
    /// It is not there yet.
    Nowhere(String),
    /// Found, and its mode is off, or was till now.
    LeftAlone(Netns),
    /// Hooks and listeners are in place, on the worker of that index.
    Served(Arc<Workload>, usize),
    /// Found, and could not be served.
    Failed(Netns, Fault),
}

/// Why a workload that was found cannot be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub reason: Reason,
    pub detail: String,
}

impl Fault {
    pub fn new(reason: Reason, detail: impl ToString) -> Self {
        Self {
            reason,
            detail: detail.to_string(),
        }
    }
}

impl Enrolled {
    pub fn new(
        wanted: config::Workload,
        mode: Mode,
        identity: watch::Receiver<WorkloadIdentity>,
    ) -> Self {
        let placed = Placed::Nowhere("not looked for yet".to_owned());
        Self {
            wanted,
            mode,
            identity,
            placed,
            since: None,
            watched_since: None,
            pod: None,
            sandbox: None,
        }
    }

    /// Where its network namespace is now. The sandbox that its runtime makes
    /// takes the place of what may be left of an earlier one.
    pub fn locate(&mut self, cgroup2: &Path) -> Result<Located, LocateError> {
        let found = self.look(cgroup2);
        let Some(sandbox) = &self.sandbox else {
            return found;
        };
        let netns = &sandbox.netns;
        if matches!(&found, Ok(located) if netns.is_at(&located.netns)) {
            self.sandbox = None;
            return found;
        }
        Ok(Located {
            netns: netns.path(),
            cgroup: None,
        })
    }

    /// All cgroups are looked through for a pod only as long as it was not
    /// found.
    fn look(&mut self, cgroup2: &Path) -> Result<Located, LocateError> {
        if let Some(pod) = &self.pod
            && let Ok(located) = locate_again(pod)
        {
            return Ok(located);
        }
        let located = locate(&self.wanted.place, cgroup2)?;
        if let Place::Pod(_) = self.wanted.place {
            self.pod.clone_from(&located.cgroup);
        }
        Ok(located)
    }

    /// The network namespace that is known to the kernel's hooks.
    pub fn netns(&self) -> Option<&Netns> {
        match &self.placed {
            Placed::Nowhere(_) => None,
            Placed::LeftAlone(netns) | Placed::Failed(netns, _) => Some(netns),
            Placed::Served(workload, _) => Some(&workload.netns),
        }
    }

    pub fn cookie(&self) -> Option<Cookie> {
        self.netns().map(Netns::cookie)
    }

    /// For how long the daemon carries what it says and hears.
    pub fn watched(&self) -> Duration {
        (self.watched_since).map_or(Duration::ZERO, |since| since.elapsed())
    }

    pub fn is_placed(&mut self, placed: Placed) {
        let is_served = matches!(placed, Placed::Served(..));
        self.watched_since = is_served.then(|| self.watched_since.unwrap_or_else(Instant::now));
        self.placed = placed;
    }

    /// Those of its network namespace.
    pub fn addresses(&self) -> Vec<IpAddr> {
        match &self.placed {
            Placed::Served(workload, _) => workload.addresses.clone(),
            _ => self.wanted.addresses.clone(),
        }
    }

    /// Open ones, both directions.
    pub fn connections(&self) -> usize {
        match &self.placed {
            Placed::Served(workload, _) => workload.connections.load(Ordering::Relaxed),
            _ => 0,
        }
    }

    /// Ready means hooks, listeners and a certificate.
    pub fn state(&self) -> WorkloadState {
        match &self.placed {
            Placed::Nowhere(detail) => WorkloadState::Absent {
                detail: detail.clone(),
            },
            Placed::LeftAlone(_) if self.mode == Mode::Off => WorkloadState::Ready,
            Placed::LeftAlone(_) => WorkloadState::Waiting {
                detail: "for its first certificate; it is left alone until then".to_owned(),
            },
            Placed::Failed(_, Fault { reason, detail }) => WorkloadState::Failed {
                reason: *reason,
                detail: detail.clone(),
            },
            Placed::Served(..) => {
                let identity = self.identity.borrow();
                match (&identity.svid, &identity.failure) {
                    (Some(_), _) => WorkloadState::Ready,
                    (None, Some(failure)) => WorkloadState::Failed {
                        reason: Reason::NoCert,
                        detail: failure.to_string(),
                    },
                    (None, None) => WorkloadState::Waiting {
                        detail: "for its first certificate".to_owned(),
                    },
                }
            }
        }
    }
}
