//! The kernel's side of the walk, as the daemon sees it: loads and pins the
//! programs, attaches them last, replaces them in place, tells them who is who,
//! and takes what they hand over.
//!
//! Enforcement does not depend on this process. Programs, maps and links are
//! pinned and stay when it ends, however it ends: connections of enrolled
//! workloads are then refused. Nor does it depend on the pins while this process
//! lives, which holds what is pinned and pins it again. Only `detach`, or
//! removing the pins when no daemon runs, removes it.

mod btf;
mod detach;
mod enrolment;
mod error;
mod events;
mod foreign;
mod found_at;
mod handoff;
mod host;
mod interfaces;
mod links;
mod log;
mod networks;
mod open;
mod pinned;
mod pins;
mod programs;
mod readable;
mod sys;
mod veths;
mod watch;
mod workloads;

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::maps::{MapData, PerCpuArray};
use ipnet::IpNet;
use mtls_common::counters::index;
use mtls_common::maps::{Instance, NetworkKey, Node, capacity, name};

pub use detach::{Detached, detach};
pub use enrolment::{Enrolment, ListenerKind, OpenPorts, Slots};
pub use error::KernelError;
#[cfg(fuzzing)]
pub use events::fuzz_record;
pub use events::{Event, Events};
pub use foreign::{Foreign, foreign};
pub use found_at::{FoundAt, Standing};
pub use handoff::{ClientName, Handoff};
pub use host::{has_tcx, lacks, mount_bpffs};
pub use interfaces::addresses;
pub use mtls_common::counters::{Hook, Outcome};
pub use veths::VethGate;

use crate::config::{Outside, Udp, Unknown};
use error::While;
use host::AttachPoint;
use links::{Attachment, Links, NetnsLinks};
use open::Folders;
use pins::Pins;
use programs::{CGROUP_HOOKS, Loaded, Loader};
use sys::Map;
use veths::Veths;
use workloads::Workloads;

/// Where enforcement is attached and pinned.
#[derive(Clone, Debug)]
pub struct Options {
    /// Attach point; `None`: the root of the cgroup2 mount.
    pub cgroup: Option<PathBuf>,
    /// Folder on a bpffs that holds the pins.
    pub pins: PathBuf,
    /// Port at which the workloads' tunnels arrive.
    pub tunnel_port: u16,
    /// Cgroup of whoever probes the workloads, there or not.
    pub prober: Option<PathBuf>,
    /// Whether the workloads' veths get a gate.
    pub veth_gate: bool,
}

/// What arming the gate found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Armed {
    /// Nothing was attached, and the gate is armed now.
    Now,
    /// A daemon's enforcement, living or dead, or the gate of earlier.
    Before,
}

/// How full a map is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapUsage {
    pub name: &'static str,
    pub entries: u64,
    pub capacity: u64,
}

/// The hooks, their maps and their pins. One a node; on the control thread.
pub struct Kernel {
    node: Map<u32, Node>,
    exempt: Map<u64, u32>,
    listeners: Map<u32, u32>,
    counters: PerCpuArray<MapData, u64>,
    handoff: Handoff,
    workloads: Workloads,
    links: Links,
    netns_links: NetnsLinks,
    veths: Veths,
    host_cookie: u64,
    tunnel_port: u16,
    point: AttachPoint,
    prober: Option<AttachPoint>,
    own_cgroup: u64,
    folders: Folders,
    pins: Pins,
    pins_restored: u64,
    loader: Loader,
    programs: Vec<Loaded>,
    /// Until somebody reads its log.
    object: Option<Ebpf>,
}

impl Kernel {
    /// Loads the programs, and adopts what is pinned under `options.pins`;
    /// attaches nothing. The daemon's own cgroup is exempt, and the host's
    /// network namespace not ours, from here on.
    pub fn open(options: &Options) -> Result<Self, KernelError> {
        open::open(options)
    }

    /// How many daemons have opened these pins, this one included.
    pub fn instance(&self) -> Result<u64, KernelError> {
        Ok(self.read_node()?.instance)
    }

    /// Leaves the sockets of another cgroup alone: a child's, say, with its own.
    pub fn exempt_cgroup(&mut self, id: u64) -> Result<(), KernelError> {
        self.exempt.put(&id, &1).of_map(name::EXEMPT, "written")
    }

    /// Whether something is attached already, by whomever.
    pub fn is_attached(pins: &Path) -> bool {
        std::fs::read_dir(Folders::below(pins).links).is_ok_and(|mut links| links.next().is_some())
    }

    /// Leaves no sockets alone any more: whoever opened this is no daemon.
    pub fn exempt_nobody(&mut self) -> Result<(), KernelError> {
        for id in self.exempt.keys().of_map(name::EXEMPT, "read")? {
            self.exempt.remove(&id).of_map(name::EXEMPT, "written")?;
        }
        Ok(())
    }

    /// Whether sockets of that cgroup are the daemon's own, or left alone as they are.
    pub fn is_exempt(&self, cgroup: u64) -> Result<bool, KernelError> {
        let exempt = self.exempt.get(&cgroup).of_map(name::EXEMPT, "read")?;
        Ok(exempt.is_some())
    }

    /// Replaces the node's networks under traffic.
    pub fn set_networks(&mut self, mesh: &[IpNet], excluded: &[IpNet]) -> Result<(), KernelError> {
        self.workloads
            .set_networks(NetworkKey::NODE, mesh, excluded)
    }

    /// The networks of the mesh, as the hooks know them: this daemon's, or the
    /// one's before.
    pub fn mesh(&self) -> Vec<IpNet> {
        self.workloads.mesh()
    }

    /// Until the first call after the maps were made, all of it is refused.
    pub fn set_policy(
        &mut self,
        unknown: Unknown,
        outside: Outside,
        udp: Udp,
    ) -> Result<(), KernelError> {
        let node = Node {
            pass_unknown: u32::from(unknown == Unknown::Pass),
            pass_outside: u32::from(outside == Outside::Direct),
            refuse_udp: u32::from(udp == Udp::Refuse),
            ..self.read_node()?
        };
        self.write_node(&node)
    }

    /// Captures a workload's connections, or brings what is known about an
    /// enrolled one up to date. Without listeners its connections are refused.
    pub fn enrol(&mut self, enrolment: &Enrolment<'_>) -> Result<Slots, KernelError> {
        let cookie = enrolment.cookie;
        if cookie == self.host_cookie {
            return Err(KernelError::HostNetwork { cookie });
        }
        if let Some(id) = enrolment.cgroup_id
            && self.is_exempt(id)?
        {
            return Err(KernelError::SharesCgroup);
        }
        // A map that is not there would be made, and not be the hooks'.
        self.pins.ensure_maps(&self.folders)?;
        let netns = self.workloads.plan(enrolment)?;
        let program = self.loader.sk_lookup(Instance {
            cookie,
            slot_base: netns.slot_base,
            spread: netns.spread,
            flags: netns.flags,
            tunnel_port: u32::from(self.tunnel_port),
        })?;
        for (kind, listener) in &enrolment.listeners {
            let place = netns.slot_base + kind.number() * netns.spread;
            self.put(place, *listener)?;
        }
        // Each step only takes something away from the workload until the
        // last one, which gives it the daemon.
        self.workloads.prepare(enrolment)?;
        self.netns_links
            .attach(cookie, enrolment.netns.as_fd(), program.as_fd())?;
        let gate = self.programs.iter().find(|it| it.hook == Hook::Veth);
        if let Some(gate) = gate {
            let program = gate.program.as_fd();
            self.veths.arm(cookie, enrolment.netns, program)?;
        }
        self.workloads.commit(enrolment, netns)
    }

    /// The network namespace is known, and not ours.
    pub fn not_enrolled(&mut self, cookie: u64) -> Result<(), KernelError> {
        self.workloads.set_not_enrolled(cookie)?;
        self.veths.release(cookie)?;
        self.netns_links.remove(cookie)
    }

    /// Nobody serves a network namespace for now: its connections are refused.
    /// What its applications have opened and nobody took is forgotten.
    pub fn unserve(&mut self, cookie: u64) -> Result<(), KernelError> {
        self.handoff
            .forget(cookie)
            .of_map(name::ORIGINAL_DST, "swept")
    }

    /// Forgets a network namespace. If it still lives it is unknown from now on.
    pub fn remove(&mut self, cookie: u64) -> Result<(), KernelError> {
        self.workloads.forget(cookie)?;
        self.netns_links.remove(cookie)?;
        self.veths.forget(cookie)?;
        self.unserve(cookie)
    }

    /// The network namespaces that the hooks know, by cookie, with those that
    /// an earlier daemon classified, but for the host's.
    pub fn known(&self) -> Vec<(u64, Standing)> {
        let mut known = self.workloads.standings();
        known.retain(|(cookie, _)| *cookie != self.host_cookie);
        known
    }

    /// Where plain text comes in, as far as the hooks know.
    pub fn open_ports(&self, cookie: u64) -> OpenPorts {
        self.workloads.open_ports(cookie)
    }

    /// Whether it is known as not enrolled: its connections pass.
    pub fn is_left_alone(&self, cookie: u64) -> bool {
        self.workloads.is_left_alone(cookie)
    }

    pub fn is_enrolled(&self, cookie: u64) -> bool {
        self.workloads.is_enrolled(cookie)
    }

    /// Whether the kernel has freed an enrolled network namespace: nothing
    /// runs in it and nothing ever will.
    pub fn is_gone(&self, cookie: u64) -> Result<bool, KernelError> {
        Ok(self.netns_links.target(cookie)? == Some(0))
    }

    /// An enrolled network namespace, as other tools name it.
    pub fn inode(&self, cookie: u64) -> Option<u64> {
        let target = self.netns_links.target(cookie).ok()?;
        target.filter(|inode| *inode != 0)
    }

    /// Gives a listener what its kind takes. It must have SO_REUSEADDR, or a
    /// port that it is reached at looks taken to the workload. The `nth` 0 of
    /// a kind comes last: when it is there connect() is no longer refused.
    pub fn put_listener(
        &mut self,
        slots: &Slots,
        kind: ListenerKind,
        nth: u32,
        listener: BorrowedFd<'_>,
    ) -> Result<(), KernelError> {
        if nth >= slots.spread || !self.workloads.is_enrolled(slots.cookie) {
            return Err(KernelError::NotEnrolled {
                cookie: slots.cookie,
            });
        }
        self.put(slots.base + kind.number() * slots.spread + nth, listener)
    }

    fn put(&mut self, place: u32, listener: BorrowedFd<'_>) -> Result<(), KernelError> {
        self.listeners
            .put(&place, &listener.as_raw_fd().cast_unsigned())
            .of_map(name::LISTENERS, "written")
    }

    /// Attaches every program, or replaces the attached ones in place. Called
    /// last, when maps and listeners are ready.
    pub fn attach(&mut self) -> Result<(), KernelError> {
        self.pins.ensure_maps(&self.folders)?;
        for loaded in self
            .programs
            .iter()
            .filter(|it| CGROUP_HOOKS.contains(&it.hook))
        {
            self.links.attach(loaded, &self.point)?;
        }
        match &self.prober {
            Some(prober) if !prober.exists() => {
                tracing::warn!(cgroup = %prober.path().display(),
                    "the prober's cgroup is not there yet: until it is, its probes are refused");
                Ok(())
            }
            Some(_) => self.attach_prober(),
            None => Ok(()),
        }
    }

    fn attach_prober(&mut self) -> Result<(), KernelError> {
        let Some(prober) = &self.prober else {
            return Ok(());
        };
        for loaded in self.programs.iter().filter(|it| it.hook == Hook::Prober) {
            self.links.attach(loaded, prober)?;
        }
        Ok(())
    }

    /// A kubelet that its service manager starts again has another cgroup of
    /// the same name.
    fn follow_prober(&mut self) -> Result<(), KernelError> {
        match &self.prober {
            Some(prober)
                if prober.exists()
                    && self.links.state(Hook::Prober, prober) != Attachment::Attached =>
            {
                tracing::info!(cgroup = %prober.path().display(), "attaching to the prober's cgroup");
                self.attach_prober()
            }
            _ => Ok(()),
        }
    }

    /// Attaches again the hooks whose cgroup was removed and made again. Those
    /// that were taken off it stay off: somebody wanted that.
    pub fn repair(&mut self) -> Result<Vec<Hook>, KernelError> {
        let mut repaired = Vec::new();
        for loaded in self
            .programs
            .iter()
            .filter(|it| CGROUP_HOOKS.contains(&it.hook))
        {
            if self.links.state(loaded.hook, &self.point) == Attachment::Husk {
                self.links.attach(loaded, &self.point)?;
                repaired.push(loaded.hook);
            }
        }
        // Not where somebody has removed enforcement.
        if self.links.state(Hook::SockOps, &self.point) == Attachment::Attached {
            self.follow_prober()?;
        }
        Ok(repaired)
    }

    /// Whether somebody has taken hooks off their cgroup, as `detach` does.
    pub fn is_detached(&self) -> bool {
        CGROUP_HOOKS
            .iter()
            .any(|&hook| self.links.state(hook, &self.point) == Attachment::Removed)
    }

    /// How many of the links that this process holds are in force. `detach`
    /// leaves none.
    pub fn links_in_force(&self) -> Result<usize, KernelError> {
        Ok(self.links.in_force()? + self.netns_links.in_force()? + self.veths.in_force()?)
    }

    /// Pins again what is in force and not pinned any more; how many. Without
    /// its pins all ends with this process. Not after `detach`, which takes off
    /// what it unpins.
    pub fn keep_pins(&mut self) -> Result<usize, KernelError> {
        if self.is_detached() {
            return Ok(0);
        }
        // Only at the end does the former folder go, and all that is pinned there.
        let former = self.pins.follow()?;
        let restored = self.links.pin_again()?
            + self.netns_links.pin_again()?
            + self.veths.pin_again()?
            + self.pins.pin_maps_again(&self.folders)?;
        drop(former);
        self.pins_restored += restored as u64;
        Ok(restored)
    }

    /// How many pins this process has put back.
    pub fn pins_restored(&self) -> u64 {
        self.pins_restored
    }

    /// Whether each hook is attached where it should be: not if it was taken
    /// off, nor if its cgroup was removed.
    pub fn attached(&self) -> Vec<(Hook, bool)> {
        CGROUP_HOOKS
            .iter()
            .map(|&hook| {
                let state = self.links.state(hook, &self.point);
                (hook, state == Attachment::Attached)
            })
            .collect()
    }

    /// How many enrolled workloads have a gate at their veth, and why others
    /// have none.
    pub fn veth_gates(&self) -> Vec<(VethGate, u64)> {
        self.veths.states()
    }

    /// The news from the hooks; to be taken once, within a runtime.
    pub fn events(&mut self) -> Result<Events, KernelError> {
        let ring = programs::ring(&self.folders.maps, name::EVENTS)?;
        let held = programs::ring(&self.folders.maps, name::HELD)?;
        Events::new(ring, held, self.object.take(), self.point.path())
            .doing("listening to the kernel programs")
    }

    /// What the hooks counted since the maps were made, without zeroes.
    pub fn counters(&self) -> io::Result<Vec<(Hook, Outcome, u64)>> {
        let mut counters = Vec::new();
        for &hook in Hook::ALL {
            for &outcome in Outcome::ALL {
                let each = self
                    .counters
                    .get(&index(hook, outcome), 0)
                    .map_err(io::Error::other)?;
                let sum = each.iter().fold(0_u64, |sum, one| sum.wrapping_add(*one));
                if sum != 0 {
                    counters.push((hook, outcome, sum));
                }
            }
        }
        Ok(counters)
    }

    /// How full the maps are that can be full, without a system call.
    pub fn map_usage(&self) -> Vec<MapUsage> {
        let handed = [
            (
                name::ORIGINAL_DST,
                self.handoff.waiting(),
                capacity::ORIGINAL_DST,
            ),
            (
                name::CLIENT_NAMES,
                self.handoff.named(),
                capacity::CLIENT_NAMES,
            ),
            (name::VETHS, self.veths.entries(), capacity::VETHS),
        ];
        let kept = self.workloads.usage().into_iter();
        kept.chain(handed)
            .map(|(name, entries, capacity)| MapUsage {
                name,
                entries: entries as u64,
                capacity: capacity as u64,
            })
            .collect()
    }

    /// For the workers.
    pub fn handoff(&self) -> Handoff {
        self.handoff.clone()
    }
}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kernel")
            .field("pins", &self.pins.path())
            .field("point", &self.point)
            .field("workloads", &self.workloads)
            .finish_non_exhaustive()
    }
}
