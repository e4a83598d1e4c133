//! Loading: the objects that were built into this daemon become programs and
//! maps in the kernel. Maps that are pinned already are taken over with what
//! they hold.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use aya::maps::{Map as AyaMap, MapData, PerCpuArray, RingBuf};
use aya::programs::{
    CgroupSkb, CgroupSock, CgroupSockAddr, Program, ProgramError, SchedClassifier, SkLookup,
    SockOps,
};
use aya::{Ebpf, EbpfLoader};
use mtls_common::counters::Hook;
use mtls_common::maps::{Instance, name};

use super::btf::Offsets;
use super::error::{KernelError, While};
use super::sys;

static HOOKS: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/hooks"));
static SK_LOOKUP: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/sk_lookup"));

/// A loaded program of a cgroup hook.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) hook: Hook,
    pub(super) program: OwnedFd,
}

/// The hooks of a cgroup, in the order in which they are attached: a
/// connection is turned only when all that it will need is in place.
pub(super) const CGROUP_HOOKS: [Hook; 12] = [
    Hook::SockOps,
    Hook::GetPeerName4,
    Hook::GetPeerName6,
    Hook::GetSockName4,
    Hook::GetSockName6,
    Hook::SockCreate,
    Hook::Connect4,
    Hook::Connect6,
    Hook::SendMsg4,
    Hook::SendMsg6,
    Hook::Ingress,
    Hook::Egress,
];

/// All that is loaded: those, and what is attached at the prober's cgroup and
/// at the workloads' veths.
fn loaded_hooks() -> impl Iterator<Item = Hook> {
    CGROUP_HOOKS.into_iter().chain([Hook::Prober, Hook::Veth])
}

/// The programs' names in the object.
fn program_name(hook: Hook) -> &'static str {
    match hook {
        Hook::Ingress => "ingress",
        Hook::Egress => "egress",
        Hook::SkLookup => "steer",
        hook => hook.word(),
    }
}

/// From <linux/bpf.h>, enum bpf_attach_type.
pub(super) const fn attach_type(hook: Hook) -> u32 {
    match hook {
        Hook::Ingress => 0,
        Hook::Egress => 1,
        Hook::SockCreate => 2,
        Hook::SockOps | Hook::Prober => 3,
        Hook::Connect4 => 10,
        Hook::Connect6 => 11,
        Hook::SendMsg4 => 14,
        Hook::SendMsg6 => 15,
        Hook::GetPeerName4 => 29,
        Hook::GetPeerName6 => 30,
        Hook::GetSockName4 => 31,
        Hook::GetSockName6 => 32,
        Hook::SkLookup => 36,
        Hook::Veth => 46,
    }
}

/// Loads what is loaded once and what is loaded again for each workload.
pub(super) struct Loader {
    /// Reading the kernel's type information takes some 25 ms: once.
    loader: EbpfLoader<'static>,
    maps: PathBuf,
}

impl std::fmt::Debug for Loader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loader")
            .field("maps", &self.maps)
            .finish_non_exhaustive()
    }
}

impl Loader {
    /// For programs that share the maps pinned in `maps`.
    pub(super) fn new(maps: &Path) -> Self {
        let mut loader = EbpfLoader::new();
        // Nothing is relocated by the kernel's types: their memory is not kept.
        loader.btf(None);
        pin_maps(&mut loader, maps);
        Self {
            loader,
            maps: maps.to_owned(),
        }
    }

    /// The folder was renamed.
    pub(super) fn moved(&mut self, maps: &Path) {
        pin_maps(&mut self.loader, maps);
        maps.clone_into(&mut self.maps);
    }

    /// The programs of the cgroup's hooks, and the object for its log.
    pub(super) fn hooks(&self, offsets: &Offsets) -> Result<(Vec<Loaded>, Ebpf), KernelError> {
        let Offsets {
            v6only_offset,
            v6only_mask,
            net_offset,
            cookie_offset,
            has_mptcp,
        } = offsets;
        // A loader of its own: what these values borrow ends here.
        let mut loader = EbpfLoader::new();
        pin_maps(&mut loader, &self.maps);
        let mut object = loader
            .override_global("V6ONLY_OFFSET", v6only_offset, true)
            .override_global("V6ONLY_MASK", v6only_mask, true)
            .override_global("NET_OFFSET", net_offset, true)
            .override_global("COOKIE_OFFSET", cookie_offset, true)
            .override_global("HAS_MPTCP", has_mptcp, true)
            .load(HOOKS)?;
        let programs = loaded_hooks()
            .map(|hook| {
                let program = load(&mut object, hook)?;
                Ok(Loaded { hook, program })
            })
            .collect::<Result<_, KernelError>>()?;
        Ok((programs, object))
    }

    /// The sk_lookup program for one network namespace.
    pub(super) fn sk_lookup(&mut self, instance: Instance) -> Result<OwnedFd, KernelError> {
        let mut object = self.loader.load(SK_LOOKUP)?;
        let map = object.take_map(name::INSTANCE).ok_or(KernelError::Build {
            what: "map INSTANCE",
        })?;
        let mut map =
            aya::maps::Array::<_, Instance>::try_from(map).map_err(aya::EbpfError::from)?;
        // Before the program can run: an empty instance refuses everything.
        map.set(0, instance, 0).map_err(aya::EbpfError::from)?;
        load(&mut object, Hook::SkLookup)
    }
}

fn pin_maps(loader: &mut EbpfLoader<'_>, folder: &Path) {
    for &map in name::PINNED {
        loader.map_pin_path(map, folder.join(map));
    }
}

/// Loads one program; the descriptor outlives the object.
fn load(object: &mut Ebpf, hook: Hook) -> Result<OwnedFd, KernelError> {
    let refused = |source| KernelError::Program { hook, source };
    let program = object
        .program_mut(program_name(hook))
        .ok_or(KernelError::Build {
            what: "program for one of its hooks",
        })?;
    verify(program).map_err(refused)?;
    let fd = program.fd().map_err(refused)?;
    fd.as_fd()
        .try_clone_to_owned()
        .doing("keeping a program's descriptor")
}

fn verify(program: &mut Program) -> Result<(), ProgramError> {
    match program {
        Program::CgroupSkb(_) => <&mut CgroupSkb>::try_from(program)?.load(),
        Program::CgroupSock(_) => <&mut CgroupSock>::try_from(program)?.load(),
        Program::CgroupSockAddr(_) => <&mut CgroupSockAddr>::try_from(program)?.load(),
        Program::SockOps(_) => <&mut SockOps>::try_from(program)?.load(),
        Program::SkLookup(_) => <&mut SkLookup>::try_from(program)?.load(),
        Program::SchedClassifier(_) => <&mut SchedClassifier>::try_from(program)?.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

/// A pinned map, as aya knows it.
fn pinned(folder: &Path, name: &str) -> Result<MapData, KernelError> {
    MapData::from_pin(folder.join(name)).map_err(|error| KernelError::Object(error.into()))
}

pub(super) fn counters(folder: &Path) -> Result<PerCpuArray<MapData, u64>, KernelError> {
    PerCpuArray::try_from(AyaMap::PerCpuArray(pinned(folder, name::COUNTERS)?))
        .map_err(|error| KernelError::Object(error.into()))
}

pub(super) fn ring(folder: &Path, name: &'static str) -> Result<RingBuf<MapData>, KernelError> {
    RingBuf::try_from(AyaMap::RingBuf(pinned(folder, name)?))
        .map_err(|error| KernelError::Object(error.into()))
}

/// A pinned map that is looked up and changed from here.
pub(super) fn map<K: aya::Pod, V: aya::Pod>(
    folder: &Path,
    name: &'static str,
) -> Result<sys::Map<K, V>, KernelError> {
    sys::open_pin(&folder.join(name))
        .and_then(sys::Map::new)
        .of_map(name, "opened")
}
