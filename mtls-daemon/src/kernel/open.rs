//! Opening: the maps of an earlier daemon are taken over, or made. Enforcement
//! that is attached stays attached throughout.

use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use aya::Pod;
use mtls_common::maps::{
    AddressKey, Answer, AnswerKey, Dialled, FlowKey, LAYOUT, Netns, Node, PortKey, capacity, name,
};

use super::btf::Offsets;
use super::error::{KernelError, While};
use super::host::{self, AttachPoint};
use super::links::{Links, NetnsLinks};
use super::pins::Pins;
use super::programs::{self, Loader};
use super::sys::{self, Map, MapForm};
use super::veths::Veths;
use super::workloads::Workloads;
use super::{Handoff, Kernel, Options};
use crate::netns::Netns as HostNetns;

/// Where things lie below the pins.
#[derive(Clone, Debug)]
pub(super) struct Folders {
    pub(super) maps: PathBuf,
    /// Maps that are being made: they take their name when they are complete.
    maps_new: PathBuf,
    pub(super) links: PathBuf,
    pub(super) netns: PathBuf,
    pub(super) veths: PathBuf,
}

impl Folders {
    pub(super) fn below(pins: &Path) -> Self {
        Self {
            maps: pins.join("maps"),
            maps_new: pins.join("maps-new"),
            links: pins.join("links"),
            netns: pins.join("netns"),
            veths: pins.join("veths"),
        }
    }

    /// Makes `maps_new`.
    pub(super) fn empty_maps_new(&self) -> Result<&Path, KernelError> {
        if self.maps_new.exists() {
            fs::remove_dir_all(&self.maps_new).on("removing", &self.maps_new)?;
        }
        fs::create_dir(&self.maps_new).on("making", &self.maps_new)?;
        Ok(&self.maps_new)
    }
}

pub(super) fn open(options: &Options) -> Result<Kernel, KernelError> {
    host::check()?;
    let offsets = Offsets::of_running_kernel()?;
    let point = AttachPoint::find(options.cgroup.as_deref())?;
    let own_cgroup = sys::own_cgroup_id().doing("asking for the daemon's own cgroup")?;
    if point.id().on("looking at", point.path())? == own_cgroup {
        return Err(KernelError::OwnCgroup {
            path: point.path().to_owned(),
        });
    }
    host::pin_folder(&options.pins)?;
    let lock = host::lock(&options.pins)?;
    let folders = Folders::below(&options.pins);
    let adopted = folders.maps.exists();
    let (loader, programs, object) = if adopted {
        check_layout(&folders.maps)?;
        let loader = Loader::new(&folders.maps);
        let (programs, object) = loader.hooks(&offsets)?;
        (loader, programs, object)
    } else {
        make_maps(&folders, &offsets)?
    };

    let mut kernel = Kernel {
        node: programs::map(&folders.maps, name::NODE)?,
        exempt: programs::map(&folders.maps, name::EXEMPT)?,
        listeners: programs::map(&folders.maps, name::LISTENERS)?,
        counters: programs::counters(&folders.maps)?,
        handoff: Handoff::open(&folders.maps)?,
        workloads: Workloads::adopt(&folders.maps)?,
        links: Links::adopt(folders.links.clone())?,
        netns_links: NetnsLinks::adopt(folders.netns.clone())?,
        veths: Veths::adopt(folders.veths.clone(), &folders.maps, options.veth_gate)?,
        host_cookie: HostNetns::host()
            .doing("asking for the host's network namespace")?
            .cookie()
            .0,
        tunnel_port: options.tunnel_port,
        point,
        prober: options.prober.clone().map(AttachPoint::at),
        own_cgroup,
        pins: Pins::hold(&options.pins, lock, &folders)?,
        pins_restored: 0,
        folders,
        loader,
        programs,
        object: Some(object),
    };
    kernel.start_anew()?;
    let instance = kernel.instance()?;
    tracing::info!(
        pins = %options.pins.display(),
        cgroup = %kernel.point.path().display(),
        adopted,
        instance,
        namespaces = kernel.known().len(),
        "opened the kernel side"
    );
    Ok(kernel)
}

impl Kernel {
    /// What an earlier daemon left is true no more where it is about that
    /// daemon's own sockets: they went with it.
    fn start_anew(&mut self) -> Result<(), KernelError> {
        self.exempt
            .put(&self.own_cgroup, &1)
            .of_map(name::EXEMPT, "written")?;
        for id in self.exempt.keys().of_map(name::EXEMPT, "read")? {
            if id != self.own_cgroup {
                self.exempt.remove(&id).of_map(name::EXEMPT, "written")?;
            }
        }
        self.handoff.clear().of_map(name::ORIGINAL_DST, "emptied")?;
        for (cookie, alive) in self.netns_links.all()? {
            if !alive {
                tracing::info!(cookie, "a workload's network namespace is gone");
                self.netns_links.remove(cookie)?;
                self.workloads.forget(cookie)?;
            } else if !self.workloads.is_enrolled(cookie) {
                // Left by a daemon that was killed between two steps.
                self.netns_links.remove(cookie)?;
            }
        }
        let mut node = self.read_node()?;
        node.layout = LAYOUT;
        node.instance += 1;
        self.write_node(&node)?;
        self.workloads.set_not_enrolled(self.host_cookie)
    }

    pub(super) fn read_node(&self) -> Result<Node, KernelError> {
        Ok(self
            .node
            .get(&0)
            .of_map(name::NODE, "read")?
            .unwrap_or_default())
    }

    pub(super) fn write_node(&self, node: &Node) -> Result<(), KernelError> {
        self.node.put(&0, node).of_map(name::NODE, "written")
    }
}

/// All maps or none: they get their name when the last one is there.
fn make_maps(
    folders: &Folders,
    offsets: &Offsets,
) -> Result<(Loader, Vec<programs::Loaded>, aya::Ebpf), KernelError> {
    let maps_new = folders.empty_maps_new()?;
    let mut loader = Loader::new(maps_new);
    let (programs, object) = loader.hooks(offsets)?;
    let node: Map<u32, Node> = programs::map(maps_new, name::NODE)?;
    let fresh = Node {
        layout: LAYOUT,
        ..Node::default()
    };
    node.put(&0, &fresh).of_map(name::NODE, "written")?;
    fs::rename(maps_new, &folders.maps).on("renaming to", &folders.maps)?;
    loader.moved(&folders.maps);
    Ok((loader, programs, object))
}

/// Whether the pinned maps are those that this version knows.
fn check_layout(maps: &Path) -> Result<(), KernelError> {
    let layout = |found: String| KernelError::Layout {
        path: maps.to_owned(),
        found,
    };
    let node: Map<u32, Node> = programs::map(maps, name::NODE)
        .map_err(|error| layout(format!("no NODE map of ours: {error}")))?;
    let found = node
        .get(&0)
        .of_map(name::NODE, "read")?
        .map_or(0, |node| node.layout);
    if found != LAYOUT {
        return Err(layout(format!("layout {found}, not {LAYOUT}")));
    }
    for (name, expected) in forms() {
        let pin = maps.join(name);
        let map = sys::open_pin(&pin).map_err(|error| layout(format!("no map {name}: {error}")))?;
        let found = sys::map_form(map.as_fd()).on("looking at", &pin)?;
        if found != expected {
            return Err(layout(format!("{name} is {found:?}, not {expected:?}")));
        }
    }
    Ok(())
}

/// The forms of the maps whose contents outlive a daemon. aya takes over any
/// map of the right name.
fn forms() -> [(&'static str, MapForm); 9] {
    // From <linux/bpf.h>, enum bpf_map_type.
    const HASH: u32 = 1;
    const ARRAY: u32 = 2;
    const LRU_HASH: u32 = 9;
    const LPM_TRIE: u32 = 11;
    type NetworkKey = aya::maps::lpm_trie::Key<mtls_common::maps::NetworkKey>;
    [
        (name::NETNS, form::<u64, Netns>(HASH, capacity::NETNS)),
        (name::EXEMPT, form::<u64, u32>(HASH, capacity::EXEMPT)),
        (
            name::ADDRESSES,
            form::<AddressKey, u32>(HASH, capacity::ADDRESSES),
        ),
        (
            name::NETWORKS,
            form::<NetworkKey, u32>(LPM_TRIE, capacity::NETWORKS),
        ),
        (name::PORTS, form::<PortKey, u32>(HASH, capacity::PORTS)),
        (name::VETHS, form::<u32, u64>(HASH, capacity::VETHS)),
        (
            name::ORIGINAL_DST,
            form::<FlowKey, Dialled>(HASH, capacity::ORIGINAL_DST),
        ),
        (name::PENDING, form::<u32, i64>(ARRAY, capacity::PENDING)),
        (
            name::ANSWERS,
            form::<AnswerKey, Answer>(LRU_HASH, capacity::ANSWERS),
        ),
    ]
}

fn form<K: Pod, V: Pod>(kind: u32, capacity: usize) -> MapForm {
    let size = |of: usize| u32::try_from(of).unwrap_or(u32::MAX);
    MapForm {
        kind,
        key: size(size_of::<K>()),
        value: size(size_of::<V>()),
        capacity: size(capacity),
    }
}
