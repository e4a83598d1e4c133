//! What the machine or the configuration lacks is said in so many words, and
//! nothing is attached.

use std::fs;
use std::path::{Path, PathBuf};

use mtls_daemon::kernel::{Kernel, KernelError, Options};
use mtls_tests::error::Doing;
use mtls_tests::{Error, Result, ensure, play, two_nodes};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::stage::{Stage, TUNNEL_PORT};

#[test]
fn kernel_says_what_is_missing() -> Result {
    play("kernel-lacks", |scene| {
        let (a, _) = two_nodes(scene)?;
        let stage = Stage::open(&a)?;
        let pins = stage.pins().with_file_name("other");
        let said = |cgroup: &Path, pins: &Path, words: &str| -> Result {
            let options = Options {
                cgroup: Some(cgroup.to_owned()),
                pins: pins.to_owned(),
                tunnel_port: TUNNEL_PORT,
            };
            match Kernel::open(&options) {
                Err(error) if error.to_string().contains(words) => Ok(()),
                other => Err(Error::Unexpected(format!("not {words:?}: {other:?}"))),
            }
        };
        said(scene.dir(), &pins, "is not a folder of a cgroup2 mount")?;
        let elsewhere = scene.dir().join("pins");
        said(a.cgroup().path(), &elsewhere, "is not on a bpffs")?;
        said(&own_cgroup()?, &pins, "the daemon runs in")?;
        ensure(!pins.exists(), || "something was pinned all the same")
    })
}

/// A bpffs that goes with the daemon's mount namespace would take enforcement
/// with it.
#[test]
fn kernel_refuses_a_private_bpffs() -> Result {
    play("kernel-private", |scene| {
        let (a, _) = two_nodes(scene)?;
        let place = scene.dir().join("private");
        fs::create_dir(&place).doing(|| format!("making {}", place.display()))?;
        let options = Options {
            cgroup: Some(a.cgroup().path().to_owned()),
            pins: place.join("mtls"),
            tunnel_port: TUNNEL_PORT,
        };
        let opened = std::thread::scope(|scope| {
            let thread = scope.spawn(|| -> Result<_> {
                unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS)
                    .doing(|| "leaving the mount namespace")?;
                let none = None::<&str>;
                let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
                mount(none, "/", none, private, none).doing(|| "keeping mounts private")?;
                mount(Some("bpf"), &place, Some("bpf"), MsFlags::empty(), none)
                    .doing(|| "mounting a bpffs")?;
                Ok(Kernel::open(&options).map(drop))
            });
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })?;
        ensure(
            matches!(opened, Err(KernelError::PrivateBpffs { .. })),
            || format!("{opened:?}"),
        )
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
