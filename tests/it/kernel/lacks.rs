//! What the machine or the configuration lacks is said in so many words, and
//! nothing is attached.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::thread;

use mtls_daemon::kernel::{Kernel, KernelError, Options};
use mtls_tests::bpf::{Instruction, Place, Program};
use mtls_tests::error::Doing;
use mtls_tests::{Error, Result, ensure, play, two_nodes};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use super::stage::{Stage, TUNNEL_PORT};

#[test]
fn kernel_needs_cgroup2() -> Result {
    without("lacks-cgroup2", "no cgroup2 is mounted", |options| {
        options.cgroup = None;
        let mount_point = mtls_tests::cgroup::mount_point()?;
        in_own_mounts(|| {
            umount2(mount_point, MntFlags::MNT_DETACH).doing(|| "unmounting cgroup2")?;
            Ok(opened(options))
        })
    })
}

#[test]
fn kernel_needs_a_folder_of_cgroup2() -> Result {
    let words = "/proc/self is not a folder of a cgroup2 mount";
    without("lacks-folder", words, |options| {
        options.cgroup = Some("/proc/self".into());
        Ok(opened(options))
    })
}

#[test]
fn kernel_needs_another_cgroup_than_the_daemons() -> Result {
    without("lacks-own", "the daemon runs in", |options| {
        options.cgroup = Some(own_cgroup()?);
        Ok(opened(options))
    })
}

#[test]
fn kernel_needs_type_information() -> Result {
    without("lacks-btf", "CONFIG_DEBUG_INFO_BTF=y", |options| {
        in_own_mounts(|| {
            hide("/sys/kernel/btf")?;
            Ok(opened(options))
        })
    })
}

#[test]
fn kernel_needs_rights() -> Result {
    let words = "missing capabilities: CAP_NET_ADMIN;";
    without("lacks-rights", words, |options| {
        on_own_thread(|| {
            give_up(CAP_NET_ADMIN).doing(|| "giving up a capability")?;
            Ok(opened(options))
        })
    })
}

#[test]
fn kernel_needs_a_bpffs() -> Result {
    let words = "no bpffs is mounted at /sys/fs/bpf, and mounting one failed";
    without("lacks-bpffs", words, |options| {
        options.pins = "/sys/fs/bpf/mtls-tests".into();
        let mount_point = mtls_tests::cgroup::mount_point()?;
        let path = options.cgroup.clone().unwrap_or_default();
        let below = path.strip_prefix(mount_point).unwrap_or(&path).to_owned();
        in_own_mounts(|| {
            hide("/sys/fs")?;
            // The attach point would be hidden, too.
            let cgroup2 = Path::new("/sys/fs/cgroup2");
            options.cgroup = Some(cgroup2.join(&below));
            fs::create_dir(cgroup2).doing(|| "making a mount point")?;
            mount(
                Some("none"),
                cgroup2,
                Some("cgroup2"),
                MsFlags::empty(),
                NONE,
            )
            .doing(|| "mounting cgroup2")?;
            Ok(opened(options))
        })
    })
}

#[test]
fn kernel_needs_pins_on_a_bpffs() -> Result {
    without("lacks-pins", "/run/mtls is not on a bpffs", |options| {
        options.pins = "/run/mtls".into();
        Ok(opened(options))
    })
}

/// A bpffs that goes with the daemon's mount namespace would take enforcement
/// with it.
#[test]
fn kernel_refuses_a_private_bpffs() -> Result {
    let words = "only this mount namespace has";
    without("lacks-host", words, |options| {
        in_own_mounts(|| {
            let bpffs = options.pins.parent().unwrap_or_else(|| Path::new("/"));
            mount(Some("bpf"), bpffs, Some("bpf"), MsFlags::empty(), NONE)
                .doing(|| "mounting a bpffs")?;
            Ok(opened(options))
        })
    })
}

type Opened = std::result::Result<(), KernelError>;

fn opened(options: &Options) -> Opened {
    Kernel::open(options).map(drop)
}

/// What `open` says where one thing is missing; nothing is pinned then.
/// Somebody's program that suffers no other beside it.
#[test]
fn kernel_needs_a_cgroup_to_share() -> Result {
    play("lacks-share", |scene| {
        let (a, _) = two_nodes(scene)?;
        let mut stage = Stage::open(&a)?;
        let alone = [Instruction::set(0, 1), Instruction::EXIT];
        let cgroup = File::open(a.cgroup().path()).doing(|| "opening a cgroup")?;
        Program::load(Place::Connect4, "alone", &alone)?
            .attach_for_good(cgroup.as_fd(), 0)
            .doing(|| "attaching for itself alone")?;
        let attached = stage.kernel().attach();
        let told = attached.map_err(|error| error.to_string());
        ensure(
            told.as_ref()
                .is_err_and(|error| error.contains("somebody else is there")),
            || format!("{told:?}"),
        )
    })
}

fn without(label: &str, words: &str, open: impl FnOnce(&mut Options) -> Result<Opened>) -> Result {
    play(label, |scene| {
        let (a, _) = two_nodes(scene)?;
        let stage = Stage::open(&a)?;
        let mut options = Options {
            cgroup: Some(a.cgroup().path().to_owned()),
            pins: stage.pins().with_file_name("other"),
            tunnel_port: TUNNEL_PORT,
            prober: None,
            veth_gate: true,
        };
        match open(&mut options)? {
            Err(error) if error.to_string().contains(words) => {}
            other => return Err(Error::Unexpected(format!("not {words:?}: {other:?}"))),
        }
        ensure(
            !options.pins.join("maps").exists(),
            || "something was pinned all the same",
        )
    })
}

const NONE: Option<&str> = None;

/// Runs `work` where mounts come and go unseen by others.
fn in_own_mounts<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    on_own_thread(|| {
        unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS)
            .doing(|| "leaving the mount namespace")?;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(NONE, "/", NONE, private, NONE).doing(|| "keeping mounts private")?;
        work()
    })
}

fn hide(folder: &str) -> Result {
    mount(Some("none"), folder, Some("tmpfs"), MsFlags::empty(), NONE)
        .doing(|| format!("hiding {folder}"))
}

fn on_own_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| match scope.spawn(work).join() {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

fn own_cgroup() -> Result<PathBuf> {
    let own = fs::read_to_string("/proc/self/cgroup").doing(|| "reading /proc/self/cgroup")?;
    let path = own
        .lines()
        .find_map(|line| line.strip_prefix("0::/"))
        .unwrap_or_default();
    Ok(mtls_tests::cgroup::mount_point()?.join(path))
}

const CAP_NET_ADMIN: u32 = 12;

/// Takes a capability from the calling thread.
#[expect(unsafe_code, reason = "nothing below speaks capset(2)")]
fn give_up(capability: u32) -> io::Result<()> {
    // struct __user_cap_header_struct: version 3, this thread; then effective,
    // permitted and inheritable, of the lower and the higher capabilities.
    let mut header = [0x2008_0522_u32, 0];
    let mut sets = [[0_u32; 3]; 2];
    // SAFETY: both have the size that version 3 says, and outlive the calls.
    unsafe {
        if libc::syscall(libc::SYS_capget, header.as_mut_ptr(), sets.as_mut_ptr()) != 0 {
            return Err(io::Error::last_os_error());
        }
        sets[0][0] &= !(1 << capability);
        if libc::syscall(libc::SYS_capset, header.as_mut_ptr(), sets.as_ptr()) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
