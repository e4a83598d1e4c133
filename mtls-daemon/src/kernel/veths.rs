//! The gates at the node's ends of the workloads' veths. A workload is
//! enforced without one, too; what only a gate can stop is then not stopped,
//! and the daemon says so.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use mtls_common::counters::Hook;
use mtls_common::maps::name;

use super::error::{KernelError, While};
use super::interfaces::{Asking, Interface};
use super::pinned::{Name, Pinned, Target};
use super::sys::Map;
use super::{foreign, host, programs, sys};
use crate::netns::Netns;

/// Whether a workload has its gate, and why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum VethGate {
    Armed,
    /// `kernel.veth_gate = "off"`.
    Off,
    /// The kernel is older than 6.6.
    NoTcx,
    /// Its interface is no veth with an end in the node's namespace.
    NoVeth,
    /// Native XDP on the node's end hides who sent a frame.
    NativeXdp,
    /// It could not be attached, or somebody took it away.
    Missing,
    /// A program of somebody else runs before it.
    Behind,
}

impl VethGate {
    pub const ALL: [Self; 7] = [
        Self::Armed,
        Self::Off,
        Self::NoTcx,
        Self::NoVeth,
        Self::NativeXdp,
        Self::Missing,
        Self::Behind,
    ];

    pub const fn word(self) -> &'static str {
        match self {
            Self::Armed => "armed",
            Self::Off => "off",
            Self::NoTcx => "no_tcx",
            Self::NoVeth => "no_veth",
            Self::NativeXdp => "native_xdp",
            Self::Missing => "missing",
            Self::Behind => "behind",
        }
    }

    /// What an operator should know of it.
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::Armed | Self::Off => "nothing to do",
            Self::NoTcx => {
                "tcx came with Linux 6.6: a newer kernel, or no CAP_NET_RAW for workloads"
            }
            Self::NoVeth => "only a veth has an end at the node: no CAP_NET_RAW for such workloads",
            Self::NativeXdp => {
                "take the XDP program off the node's end, or attach it in generic mode"
            }
            Self::Missing => "look at the error before this; a reload tries again",
            Self::Behind => {
                "what the program before it lets pass, the gate does not see: `mtls-daemon check` names it; take it off, or attach it behind ours"
            }
        }
    }
}

/// The links, by cookie and interface.
#[derive(Debug)]
pub(super) struct Veths {
    links: Pinned<Gate>,
    owners: Map<u32, u64>,
    wanted: bool,
    states: HashMap<u64, VethGate>,
}

impl Veths {
    /// With what an earlier daemon left: gates at veths that are gone go.
    pub(super) fn adopt(folder: PathBuf, maps: &Path, wanted: bool) -> Result<Self, KernelError> {
        let mut veths = Self {
            links: Pinned::adopt(folder)?,
            owners: programs::map(maps, name::VETHS)?,
            wanted,
            states: HashMap::new(),
        };
        veths.sweep()?;
        Ok(veths)
    }

    /// Puts the gate to every veth of a workload, or takes it off if nobody
    /// wants it. What stands in the way is told, and is no reason not to serve
    /// the workload.
    pub(super) fn arm(
        &mut self,
        cookie: u64,
        netns: &Netns,
        program: BorrowedFd<'_>,
    ) -> Result<(), KernelError> {
        let state = match self.wanted {
            false => self.disarm(cookie).map(|()| VethGate::Off)?,
            true => match self.try_arm(cookie, netns, program) {
                Ok(state) => state,
                Err(error) => {
                    let why = std::error::Error::source(&error).map(ToString::to_string);
                    tracing::error!(cookie, %error, why, "no gate at a workload's veth");
                    VethGate::Missing
                }
            },
        };
        if self.states.insert(cookie, state) != Some(state) {
            match state {
                VethGate::Armed | VethGate::Off => {
                    tracing::debug!(cookie, veth_gate = state.word(), "veth gate");
                }
                _ => tracing::warn!(
                    cookie,
                    veth_gate = state.word(),
                    remedy = state.remedy(),
                    "packet sockets of a workload, and sockets of other cgroups in its network namespace, are not stopped"
                ),
            }
        }
        Ok(())
    }

    fn try_arm(
        &mut self,
        cookie: u64,
        netns: &Netns,
        program: BorrowedFd<'_>,
    ) -> Result<VethGate, KernelError> {
        if !host::has_tcx() {
            return Ok(VethGate::NoTcx);
        }
        let ends = ends(netns).doing("looking for a workload's veth")?;
        if ends.is_empty() {
            return Ok(VethGate::NoVeth);
        }
        // There the frames come without their sockets, and all would be dropped.
        if ends.iter().any(|end| end.native_xdp) {
            self.disarm(cookie)?;
            return Ok(VethGate::NativeXdp);
        }
        for end in &ends {
            // The same, for a workload that has switched its offloads off.
            match sys::switch_gro_off(&end.name) {
                Ok(true) => tracing::info!(interface = end.name, "switched GRO off"),
                Ok(false) => {}
                Err(error) => tracing::debug!(interface = end.name, %error, "GRO"),
            }
            self.owners
                .put(&end.index, &cookie)
                .of_map(name::VETHS, "written")?;
            let target = Target {
                number: end.index,
                id: u64::from(end.index),
                name: format!("interface {}", end.name),
            };
            let gate = Gate {
                cookie,
                interface: end.index,
            };
            self.links.attach(gate, program, &target)?;
        }
        Ok(VethGate::Armed)
    }

    /// Takes a workload's gates away.
    pub(super) fn disarm(&mut self, cookie: u64) -> Result<(), KernelError> {
        for gate in self.links.names() {
            if gate.cookie == cookie {
                self.remove(gate)?;
            }
        }
        Ok(())
    }

    /// Removes what was left at veths that are gone.
    pub(super) fn sweep(&mut self) -> Result<(), KernelError> {
        for gate in self.links.names() {
            if !self.stands(gate)? {
                self.remove(gate)?;
            }
        }
        Ok(())
    }

    /// A workload is not enrolled any more. If it lives on its gate stays, and
    /// what it sends is judged as anything unknown.
    pub(super) fn forget(&mut self, cookie: u64) -> Result<(), KernelError> {
        self.states.remove(&cookie);
        self.sweep()
    }

    /// It is known, and left alone.
    pub(super) fn release(&mut self, cookie: u64) -> Result<(), KernelError> {
        self.states.remove(&cookie);
        self.disarm(cookie)
    }

    /// How many workloads are in which state now.
    pub(super) fn states(&self) -> Vec<(VethGate, u64)> {
        let gates = self.links.names();
        let of = |(cookie, state): (&u64, &VethGate)| match state {
            VethGate::Armed => {
                let its = gates.iter().filter(|gate| gate.cookie == *cookie);
                let each: Vec<VethGate> = its.map(|gate| self.state(*gate)).collect();
                let worst = [VethGate::Behind, VethGate::Armed].into_iter();
                let mut worst = worst.filter(|state| each.contains(state));
                worst.next().unwrap_or(VethGate::Missing)
            }
            state => *state,
        };
        let now: Vec<VethGate> = self.states.iter().map(of).collect();
        VethGate::ALL
            .into_iter()
            .map(|state| {
                (
                    state,
                    now.iter().filter(|one| **one == state).count() as u64,
                )
            })
            .collect()
    }

    pub(super) fn entries(&self) -> usize {
        self.links.len()
    }

    pub(super) fn in_force(&self) -> Result<usize, KernelError> {
        self.links.in_force()
    }

    pub(super) fn pin_again(&self) -> Result<usize, KernelError> {
        self.links.pin_again()
    }

    /// Now, of one that was armed.
    fn state(&self, gate: Gate) -> VethGate {
        let attached = self.links.attached(gate).ok().flatten();
        let attached = attached.filter(|it| it.now == u64::from(gate.interface));
        let programs = foreign::query(gate.interface, programs::attach_type(Hook::Veth), 0);
        match (attached, programs) {
            (Some(ours), Ok(programs)) if programs.first() == Some(&ours.program) => {
                VethGate::Armed
            }
            (Some(_), Ok(_)) => VethGate::Behind,
            (None, _) | (_, Err(_)) => VethGate::Missing,
        }
    }

    /// Its interface is still there.
    fn stands(&self, gate: Gate) -> Result<bool, KernelError> {
        let attached = self.links.attached(gate)?;
        Ok(attached.is_some_and(|it| it.now == u64::from(gate.interface)))
    }

    fn remove(&mut self, gate: Gate) -> Result<(), KernelError> {
        self.links.remove(gate)?;
        // Its number may be another workload's by now.
        let owner = self
            .owners
            .get(&gate.interface)
            .of_map(name::VETHS, "read")?;
        if owner == Some(gate.cookie) {
            self.owners
                .remove(&gate.interface)
                .of_map(name::VETHS, "written")?;
        }
        Ok(())
    }
}

/// A gate at the node's end of one veth of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Gate {
    cookie: u64,
    interface: u32,
}

impl Name for Gate {
    fn hook(self) -> Hook {
        Hook::Veth
    }

    fn file(self) -> String {
        format!("{}-{}", self.cookie, self.interface)
    }

    fn of_file(file: &str) -> Option<Self> {
        let (cookie, interface) = file.split_once('-')?;
        Some(Self {
            cookie: cookie.parse().ok()?,
            interface: interface.parse().ok()?,
        })
    }
}

/// The node's ends of a namespace's veths.
fn ends(netns: &Netns) -> io::Result<Vec<Interface>> {
    let here = Asking::about(&Netns::host()?)?;
    let inside = Asking::about(netns)?.all()?;
    let mut ends = Vec::new();
    for interface in inside.iter().filter(|one| one.kind == "veth") {
        let Some(peer) = interface.peer else { continue };
        // Numbers are given out in each namespace: it may be another's.
        let Ok(end) = here.one(peer) else { continue };
        if end.kind == "veth"
            && end.peer == Some(interface.index)
            && end.peer_netns.is_some()
            && end.peer_netns == here.number_of(netns.as_fd())?
        {
            ends.push(end);
        }
    }
    Ok(ends)
}
