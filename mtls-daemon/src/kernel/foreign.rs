//! Programs of others where ours run: told to whoever asks, and left alone.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use mtls_common::counters::Hook;

use super::error::{KernelError, While};
use super::host::AttachPoint;
use super::open::Folders;
use super::pinned;
use super::programs::{CGROUP_HOOKS, attach_type};
use super::sys;

/// A program of somebody else at a place where one of ours is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreign {
    pub hook: Hook,
    /// The cgroup, the network namespace or the interface.
    pub at: String,
    pub name: String,
    pub id: u32,
    /// It runs before ours.
    pub is_first: bool,
}

impl Foreign {
    /// What it can do to enforcement, and what to do about it.
    pub const fn remedy(&self) -> &'static str {
        match self.hook {
            Hook::Connect4 | Hook::Connect6 | Hook::SendMsg4 | Hook::SendMsg6 => {
                "it can lead connections elsewhere, and what it leads past the daemon is stopped by the gates: switch it off for enrolled pods (Cilium: socketLB.hostNamespaceOnly=true)"
            }
            Hook::GetPeerName4 | Hook::GetPeerName6 | Hook::GetSockName4 | Hook::GetSockName6 => {
                "it can tell applications other names of their peers than ours does"
            }
            Hook::SkLookup => {
                "it can take connections from the daemon, which the gates then stop: take it off the workload's network namespace"
            }
            Hook::Veth if self.is_first => {
                "what it lets pass, ours does not see: frames of packet sockets may leave in clear; take it off, or attach it behind ours"
            }
            Hook::Veth => "it sees what ours has let pass",
            Hook::SockOps | Hook::SockCreate | Hook::Ingress | Hook::Egress | Hook::Prober => {
                "it can refuse what ours lets pass, not the other way round"
            }
        }
    }
}

/// Programs of others at the hooks that are attached from `pins`, or would be
/// at `cgroup`. Nothing is changed. Those of a folder below the attach point
/// are told with the first one that has them.
pub fn foreign(cgroup: Option<&Path>, pins: &Path) -> Result<Vec<Foreign>, KernelError> {
    let ours = Ours::pinned(pins)?;
    let point = AttachPoint::find(cgroup)?;
    let mut found = Vec::new();
    at_cgroups(point.path(), &ours, &mut found)?;
    if !ours.namespaces.is_empty() {
        in_namespaces(&ours, &mut found)?;
    }
    for &interface in &ours.interfaces {
        let programs = query(interface, attach_type(Hook::Veth), 0);
        // One that has just gone has no programs.
        let programs = programs.unwrap_or_default();
        ours.add(
            Hook::Veth,
            &programs,
            || format!("interface {interface}"),
            &mut found,
        );
    }
    Ok(found)
}

/// Ids of the programs at a place, in the order in which they run: at the
/// cgroup or the network namespace of a descriptor, or an interface.
pub(super) fn query(target: u32, attach_type: u32, flags: u32) -> io::Result<Vec<u32>> {
    const PROG_QUERY: libc::c_long = 16;
    let mut ids = [0_u32; 64];
    let room = u32::try_from(ids.len()).unwrap_or(0);
    let mut words = [
        sys::pair(target, attach_type),
        sys::pair(flags, 0),
        ids.as_mut_ptr() as u64,
        sys::pair(room, 0),
        0,
        0,
        0,
        0,
    ];
    sys::bpf_answer(PROG_QUERY, &mut words)?;
    let [a, b, c, d, ..] = words[3].to_ne_bytes();
    let count = u32::from_ne_bytes([a, b, c, d]) as usize;
    Ok(ids.into_iter().take(count).collect())
}

/// As its maker named it.
fn program_name(id: u32) -> io::Result<String> {
    const PROG_GET_FD_BY_ID: libc::c_long = 13;
    const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
    let program = sys::bpf_fd(PROG_GET_FD_BY_ID, &[sys::pair(id, 0), 0])?;
    // struct bpf_prog_info: after 64 bytes, 16 of the name.
    let mut info = [0_u64; 32];
    let size = u32::try_from(size_of_val(&info)).unwrap_or(0);
    let ask = [
        sys::pair(sys::number(program.as_fd()), size),
        info.as_mut_ptr() as u64,
    ];
    sys::bpf(OBJ_GET_INFO_BY_FD, &ask)?;
    let name: Vec<u8> = info[8..10].iter().flat_map(|it| it.to_ne_bytes()).collect();
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(String::from_utf8_lossy(name).into_owned())
}

/// What is pinned: the ids of the programs, and where they run.
#[derive(Debug, Default)]
struct Ours {
    programs: Vec<u32>,
    /// Inodes.
    namespaces: Vec<u64>,
    interfaces: Vec<u32>,
}

impl Ours {
    fn pinned(pins: &Path) -> Result<Self, KernelError> {
        let folders = Folders::below(pins);
        let mut ours = Self::default();
        for folder in [&folders.links, &folders.netns, &folders.veths] {
            if !folder.exists() {
                continue;
            }
            for file in pinned::files(folder)? {
                let path = folder.join(file);
                let info = sys::open_pin(&path).and_then(|link| sys::link_info(link.as_fd()));
                let info = info.on("looking at", &path)?;
                ours.programs.push(info.program);
                if *folder == folders.netns {
                    ours.namespaces.push(info.target);
                } else if *folder == folders.veths {
                    ours.interfaces.extend(u32::try_from(info.target));
                }
            }
        }
        Ok(ours)
    }

    /// Those that are not ours, in the order in which they run.
    fn add(&self, hook: Hook, programs: &[u32], at: impl Fn() -> String, to: &mut Vec<Foreign>) {
        let first_of_ours = programs.iter().position(|id| self.programs.contains(id));
        for (place, &id) in programs.iter().enumerate() {
            let is_known = to.iter().any(|it| it.id == id && it.hook == hook);
            if !self.programs.contains(&id) && !is_known {
                to.push(Foreign {
                    hook,
                    at: at(),
                    name: program_name(id).unwrap_or_default(),
                    id,
                    is_first: first_of_ours.is_some_and(|ours| place < ours),
                });
            }
        }
    }
}

/// In force at the attach point, or attached below it, where workloads are.
fn at_cgroups(point: &Path, ours: &Ours, found: &mut Vec<Foreign>) -> Result<(), KernelError> {
    /// From <linux/bpf.h>: with those of the cgroups above.
    const EFFECTIVE: u32 = 1;
    let mut folders = vec![point.to_owned()];
    while let Some(path) = folders.pop() {
        let flags = if path == point { EFFECTIVE } else { 0 };
        // What goes meanwhile has nothing to tell.
        let Ok(folder) = File::open(&path) else {
            continue;
        };
        for hook in CGROUP_HOOKS {
            let programs = query(sys::number(folder.as_fd()), attach_type(hook), flags)
                .on("asking for the programs of", &path)?;
            ours.add(
                hook,
                &programs,
                || format!("cgroup {}", path.display()),
                found,
            );
        }
        folders.extend(below(&path));
    }
    Ok(())
}

fn below(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.map(|entry| entry.path()).collect()
}

/// In those of the enrolled workloads that a process is in: without one there
/// is nobody to attack.
fn in_namespaces(ours: &Ours, found: &mut Vec<Foreign>) -> Result<(), KernelError> {
    let processes = fs::read_dir("/proc").on("reading", Path::new("/proc"))?;
    let mut namespaces: BTreeMap<u64, (PathBuf, File)> = BTreeMap::new();
    for process in processes.flatten() {
        let path = process.path().join("ns/net");
        let opened = |path: &Path| -> io::Result<(u64, File)> {
            let file = File::open(path)?;
            Ok((file.metadata()?.ino(), file))
        };
        if let Ok((inode, file)) = opened(&path)
            && ours.namespaces.contains(&inode)
        {
            namespaces.entry(inode).or_insert((path, file));
        }
    }
    for (inode, (path, file)) in namespaces {
        let programs = query(sys::number(file.as_fd()), attach_type(Hook::SkLookup), 0)
            .on("asking for the programs of", &path)?;
        ours.add(
            Hook::SkLookup,
            &programs,
            || format!("network namespace {inode}"),
            found,
        );
    }
    Ok(())
}
