//! Putting workloads into place, again and again: what is there is enrolled,
//! what is gone is withdrawn, what was made anew is enrolled as a new one.

use std::io;
use std::net::{IpAddr, TcpListener};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use crate::config::{self, Connect, Mode, Place};
use crate::kernel::{self, Enrolment, FoundAt, ListenerKind};
use crate::locate::Located;
use crate::netns::{Cookie, Family, Netns};
use crate::reason::Reason;
use crate::worker::Command;
use crate::workload::Workload;

use super::Node;
use super::earlier::Newcomer;
use super::enrolled::{Enrolled, Fault, Placed};

/// Listeners of each kind that a workload has. One home worker measured
/// better than spreading as long as there are more workloads than cores.
const SPREAD: u32 = 1;

impl Node {
    /// Bring every workload to where it should be. Cheap when nothing changed.
    pub fn reconcile(&self) {
        // Nobody is put in a place, or looked for, once all is detached.
        if self.is_leaving() {
            return;
        }
        let mut changed = false;
        let mut workloads = self.workloads.borrow_mut();
        let taken: Vec<(String, Cookie)> = workloads
            .iter()
            .filter_map(|(name, enrolled)| Some((name.clone(), enrolled.cookie()?)))
            .collect();
        for (name, enrolled) in workloads.iter_mut() {
            let others = |cookie| {
                let other = taken
                    .iter()
                    .find(|(other, of)| *of == cookie && other != name);
                other.map(|(other, _)| other.clone())
            };
            if self.settle(enrolled, others) {
                enrolled.since = Some(self.clock.now());
                changed = true;
            }
        }
        self.let_go(&workloads);
        drop(workloads);
        self.cut_earlier_connections();
        if changed {
            self.changes.send_replace(());
        }
    }

    fn found_at(&self, wanted: &config::Workload) -> FoundAt {
        let added = self.origin.added.borrow();
        let is_pod = matches!(wanted.place, Place::Pod(_));
        if is_pod || added.iter().any(|added| added.name == wanted.name) {
            FoundAt::BESIDE
        } else {
            FoundAt::place(&wanted.place)
        }
    }

    /// Take a workload off its worker. Its hooks stay, and with no listener
    /// behind them they refuse.
    pub fn withdraw(&self, enrolled: &mut Enrolled, why: &str) {
        if let Some(cookie) = enrolled.cookie() {
            tracing::info!(
                workload = %enrolled.wanted.name,
                cookie = cookie.0,
                why,
                "workload withdrawn"
            );
            if let Err(error) = self.kernel.borrow_mut().unserve(cookie.0) {
                tracing::error!(cookie = cookie.0, %error, "sweeping what it left");
            }
        }
        if let Placed::Served(workload, home) = &enrolled.placed {
            // A worker that has ended ends the process.
            let _ = self.workers[*home]
                .commands
                .send(Command::Withdraw(workload.netns.cookie()));
        }
        enrolled.placed = Placed::Nowhere(why.to_owned());
    }

    /// Whether anything changed.
    fn settle(&self, enrolled: &mut Enrolled, taken_by: impl Fn(Cookie) -> Option<String>) -> bool {
        let located = match enrolled.locate(&self.cgroup2) {
            Ok(located) => located,
            Err(error) => return self.settle_absent(enrolled, &error.to_string()),
        };
        let here = enrolled
            .netns()
            .is_some_and(|netns| netns.is_at(&located.netns));
        let settled = match &enrolled.placed {
            Placed::LeftAlone(_) => enrolled.mode == Mode::Off,
            Placed::Served(..) => true,
            Placed::Nowhere(_) | Placed::Failed(..) => false,
        };
        if here && settled {
            return false;
        }
        let netns = match Netns::open(&located.netns) {
            Ok(netns) => netns,
            // `ip netns add` makes the file first and mounts the namespace on
            // it a moment later: a plain file cannot be entered.
            Err(error) => {
                return self.settle_absent(enrolled, &format!("not to be entered yet: {error}"));
            }
        };
        if self.is_in_the_making(enrolled, &netns) {
            return self.settle_absent(enrolled, "its sandbox is being made");
        }
        if !here {
            self.withdraw(enrolled, "its network namespace is another one now");
        }
        let placed = match self.enrol_one(&enrolled.wanted, &located, &netns, enrolled, taken_by) {
            Ok(placed) => placed,
            Err(fault) => Placed::Failed(netns, fault),
        };
        let told = match (&enrolled.placed, &placed) {
            (Placed::Failed(_, before), Placed::Failed(_, now)) => before == now,
            (Placed::LeftAlone(_), Placed::LeftAlone(_)) => here,
            _ => false,
        };
        if let (Placed::Failed(_, fault), false) = (&placed, told) {
            let (reason, detail) = (fault.reason, &fault.detail);
            tracing::error!(workload = %enrolled.wanted.name, %reason, detail, "workload failed");
        }
        enrolled.is_placed(placed);
        !told
    }

    /// The first process of a pod's sandbox joins the pod's network namespace a
    /// moment after its cgroup.
    fn is_in_the_making(&self, enrolled: &Enrolled, netns: &Netns) -> bool {
        matches!(enrolled.wanted.place, Place::Pod(_)) && netns.cookie() == self.host.cookie()
    }

    fn settle_absent(&self, enrolled: &mut Enrolled, why: &str) -> bool {
        match &enrolled.placed {
            Placed::Nowhere(before) if before == why => false,
            Placed::Nowhere(_) => {
                enrolled.placed = Placed::Nowhere(why.to_owned());
                true
            }
            _ => {
                self.withdraw(enrolled, why);
                true
            }
        }
    }

    fn enrol_one(
        &self,
        wanted: &config::Workload,
        located: &Located,
        netns: &Netns,
        enrolled: &Enrolled,
        taken_by: impl Fn(Cookie) -> Option<String>,
    ) -> Result<Placed, Fault> {
        if netns.cookie() == self.host.cookie() {
            let what = "its processes share the host's network namespace";
            return Err(Fault::new(Reason::NamespaceTaken, what));
        }
        if let Some(other) = taken_by(netns.cookie()) {
            let what = format!("its network namespace is already enrolled as {other}");
            return Err(Fault::new(Reason::NamespaceTaken, what));
        }
        if enrolled.mode == Mode::Off {
            let known = self.kernel.borrow_mut().not_enrolled(netns.cookie().0);
            known.map_err(|error| Fault::new(Reason::AttachFailed, error))?;
            return Ok(Placed::LeftAlone(netns.clone()));
        }
        if self.is_better_left_alone(enrolled, netns) {
            return Ok(Placed::LeftAlone(netns.clone()));
        }
        let cgroup = located.cgroup.as_deref().and_then(cgroup_id);
        let listeners = listen(netns)?;
        let addresses = self.hook(enrolled, netns, cgroup, &listeners)?;
        let workload = Arc::new(Workload {
            name: wanted.name.as_str().into(),
            id: wanted.spiffe_id.clone(),
            addresses: addresses
                .into_iter()
                .filter(|ip| match wanted.addresses.as_slice() {
                    [] => is_global(ip),
                    configured => configured.contains(ip),
                })
                .collect(),
            netns: netns.clone(),
            identity: enrolled.identity.clone(),
            connections: AtomicUsize::new(0),
        });
        let home = self.home(&wanted.name);
        let serve = Command::Serve {
            workload: Arc::clone(&workload),
            listeners,
        };
        // A worker that has ended ends the process.
        let _ = self.workers[home].commands.send(serve);
        tracing::info!(workload = %wanted.name, identity = %wanted.spiffe_id, "workload enrolled");
        Ok(Placed::Served(workload, home))
    }

    /// Whether it was off and goes on so, as long as it has no certificate: what
    /// is to become permissive is not to lose a connection over it.
    fn is_better_left_alone(&self, enrolled: &Enrolled, netns: &Netns) -> bool {
        enrolled.mode == Mode::Permissive
            && enrolled.identity.borrow().svid.is_none()
            && self.kernel.borrow().is_left_alone(netns.cookie().0)
    }

    /// Tell the hooks all that is known about a workload, for the first time,
    /// with its listeners, or anew. Returns its addresses, the configured ones
    /// first. One whose addresses are not all there is not served, and refused
    /// meanwhile.
    fn hook(
        &self,
        enrolled: &Enrolled,
        netns: &Netns,
        cgroup_id: Option<u64>,
        listeners: &[(ListenerKind, TcpListener)],
    ) -> Result<Vec<IpAddr>, Fault> {
        let wanted = &enrolled.wanted;
        let (addresses, missing) = own_addresses(wanted, netns)?;
        let config = self.config.borrow();
        let network = &config.network;
        let mut kernel = self.kernel.borrow_mut();
        let cookie = netns.cookie().0;
        let is_new = !kernel.is_enrolled(cookie);
        if let (Some(fault), false) = (&missing, is_new) {
            return Err(fault.clone());
        }
        let were_open = kernel.open_ports(cookie);
        let ports_in = |mode| config.ports_in(mode, wanted).collect::<Vec<_>>();
        let (strict_ports, permissive_ports) = (ports_in(Mode::Strict), ports_in(Mode::Permissive));
        // What is said of a port of the workload goes before what is said of
        // the port everywhere.
        let mut plain_ports = both(
            &network.excluded_inbound_ports,
            &wanted.excluded_inbound_ports,
        );
        plain_ports.retain(|port| !strict_ports.contains(port) && !permissive_ports.contains(port));
        plain_ports.extend(ports_in(Mode::Off));
        let served = match missing {
            None => listeners,
            Some(_) => &[],
        };
        let enrolment = Enrolment {
            cookie,
            netns,
            found_at: self.found_at(wanted),
            cgroup_id,
            addresses: addresses.clone(),
            excluded: wanted.excluded.clone(),
            excluded_outbound_ports: both(
                &network.excluded_outbound_ports,
                &wanted.excluded_outbound_ports,
            ),
            excluded_inbound_ports: plain_ports,
            permissive: enrolled.mode == Mode::Permissive,
            strict_ports,
            permissive_ports,
            truthful: config.connect_of(wanted) == Connect::Truthful,
            probe_ports: wanted.probe_ports.clone(),
            spread: SPREAD,
            listeners: served
                .iter()
                .map(|(kind, listener)| (*kind, listener.as_fd()))
                .collect(),
        };
        kernel
            .enrol(&enrolment)
            .map_err(|error| Fault::new(Reason::AttachFailed, error))?;
        if kernel.open_ports(cookie).are_fewer_than(&were_open) {
            let newcomer = Newcomer::new(wanted, netns, &enrolment);
            self.newcomers.borrow_mut().push(newcomer);
        }
        match missing {
            Some(fault) => Err(fault),
            None => Ok(addresses),
        }
    }

    /// After a change of exclusions, or between permissive and strict: the
    /// workloads that stay learn of it without losing a connection.
    pub fn hook_again(&self, concerns: impl Fn(&str) -> bool) {
        for (name, enrolled) in self.workloads.borrow().iter() {
            if !concerns(name) {
                continue;
            }
            let Placed::Served(workload, _) = &enrolled.placed else {
                continue;
            };
            if let Err(fault) = self.hook(enrolled, &workload.netns, None, &[]) {
                let (reason, detail) = (fault.reason, &fault.detail);
                tracing::error!(workload = %workload.name, %reason, detail, "hooks keep the former rules");
            }
        }
    }

    /// The worker that serves a workload: always the same one for a name, so
    /// that one that comes back finds its way.
    fn home(&self, name: &str) -> usize {
        let config = self.config.borrow();
        let position = config.workloads.iter().position(|w| w.name == name);
        // A pod has no place in a list that stays.
        let of_name = || {
            let step = |sum: usize, byte| sum.wrapping_mul(31).wrapping_add(usize::from(byte));
            name.bytes().fold(0, step)
        };
        position.unwrap_or_else(of_name) % self.workers.len().max(1)
    }
}

/// A listener of each kind.
fn listen(netns: &Netns) -> Result<Vec<(ListenerKind, TcpListener)>, Fault> {
    let listen = || {
        let mut made = Vec::new();
        for kind in ListenerKind::ALL {
            let family = match kind.is_v4() {
                true => Family::V4,
                false => Family::V6,
            };
            match netns.loopback_listener(family) {
                Ok(listener) => made.push((kind, TcpListener::from(listener))),
                // A namespace without IPv6 has no v6 connections; the empty
                // slots would refuse them.
                Err(error) if family == Family::V6 && is_without_v6(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(made)
    };
    listen().map_err(|error| {
        let what = format!("listening on the workload's loopback: {error}");
        Fault::new(Reason::AttachFailed, what)
    })
}

/// The node's and the workload's.
fn both(node: &[u16], workload: &[u16]) -> Vec<u16> {
    [node, workload].concat()
}

/// The configured addresses, then whatever else is assigned; and what is wrong
/// if some of the configured ones are not.
fn own_addresses(
    wanted: &config::Workload,
    netns: &Netns,
) -> Result<(Vec<IpAddr>, Option<Fault>), Fault> {
    let assigned = kernel::addresses(netns).map_err(|error| {
        Fault::new(
            Reason::Internal,
            format!("reading the namespace's addresses: {error}"),
        )
    })?;
    let (mut addresses, missing): (Vec<_>, Vec<_>) = wanted
        .addresses
        .iter()
        .partition(|address| assigned.contains(address));
    let missing: Vec<String> = missing.iter().map(ToString::to_string).collect();
    if wanted.addresses.is_empty() && !assigned.iter().any(is_global) {
        let what = "its network namespace has no address yet";
        return Err(Fault::new(Reason::AddressNotAssigned, what));
    }
    let fault = (!missing.is_empty()).then(|| {
        let what = format!(
            "{} is not assigned in its network namespace",
            missing.join(", ")
        );
        Fault::new(Reason::AddressNotAssigned, what)
    });
    addresses.extend(
        assigned
            .into_iter()
            .filter(|address| !wanted.addresses.contains(address)),
    );
    Ok((addresses, fault))
}

/// Assigned by an operator, not made by the kernel for the link.
pub(super) fn is_global(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !v4.is_link_local(),
        IpAddr::V6(v6) => !v6.is_unicast_link_local(),
    }
}

fn is_without_v6(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)
    )
}

fn cgroup_id(cgroup: &Path) -> Option<u64> {
    cgroup.metadata().ok().map(|metadata| metadata.ino())
}
