//! The disk that takes a daemon's log is full: connections go on as if nothing
//! were, the lines that are lost are counted, and when there is room the log
//! goes on.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};

use mtls_tests::script::{Connect, Step};
use mtls_tests::{Doing, Family, Pair, Result, ensure, play};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

#[test]
fn disk_full() -> Result {
    play("disk-full", |scene| {
        let disk = SmallDisk::mount(scene.dir().join("disk"))?;
        let log = disk.0.join("log");
        let mut pair = Pair::start_after(scene, |mesh, a| {
            let place = mesh.daemon(a)?.log_path();
            std::os::unix::fs::symlink(&log, &place)
                .doing(|| format!("linking {}", place.display()))
        })?;
        let _server = pair.server.serve(8080, [Step::Echo])?;
        let script = [
            Step::Say("hi".into()),
            Step::Hear("hi".into()),
            Step::HalfClose,
            Step::ExpectEnd,
        ];
        let some = |pair: &Pair, count| {
            let servers = Family::BOTH.map(|family| pair.server.at(family, 8080));
            let task = Connect::to(servers[0], script.clone()).to_each(&servers);
            pair.client.connect_as(task.many(count, 16))?.ended_well()
        };

        some(&pair, 2000)?;
        ensure(disk.is_full()?, || "the log has room left".to_owned())?;
        let lost =
            |metrics: &mtls_tests::mesh::Metrics| metrics.sum("mtls_log_lines_dropped_total", &[]);
        let daemon = pair.clients_daemon()?;
        daemon.wait_for_metrics("lines that are lost", |metrics| lost(metrics) > 0.0)?;

        OpenOptions::new()
            .write(true)
            .truncate(true)
            .open(&log)
            .doing(|| "making room")?;
        some(&pair, 1)?;
        pair.clients_daemon()?
            .wait_for_access("a line after there is room", |line| {
                line["reason"] == "done"
            })?;
        pair.ensure_private().map(drop)
    })
}

/// Unmounted when it is dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: PathBuf) -> Result<Self> {
        fs::create_dir(&at).doing(|| "making a mount point")?;
        let none: Option<&Path> = None;
        mount(
            none,
            &at,
            Some("tmpfs"),
            MsFlags::empty(),
            Some("size=256k"),
        )
        .doing(|| "mounting a small disk")?;
        Ok(Self(at))
    }

    fn is_full(&self) -> Result<bool> {
        let about = nix::sys::statvfs::statvfs(&self.0).doing(|| "looking at a disk")?;
        Ok(about.blocks_available() == 0)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // The scene's own end sees to what stays.
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}
