//! The images that a cluster's pods are made of, out of a static busybox and
//! programs of this workspace: a cluster of the harness has no registry.

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::error::Result;
use crate::image::Image;
use crate::programs;

/// What pods of the stories run: a shell and small programs, and for what these
/// cannot do the application of all other stories.
const APP: &str = "local.test/app:1";
/// What holds a pod's namespaces.
const PAUSE: &str = "local.test/pause:1";

const TOOLS: &[&str] = &[
    "cat", "echo", "hostname", "httpd", "id", "ip", "ls", "nc", "ps", "sh", "sleep", "tail",
    "timeout", "test", "wget",
];

/// The daemon, as `cargo xtask image` packs it.
pub fn daemon() -> Result<Image> {
    let version = env!("CARGO_PKG_VERSION");
    Ok(Image::new(&["/usr/bin/mtls-daemon"])
        .labels(&json!({
            "org.opencontainers.image.title": "mtls-daemon",
            "org.opencontainers.image.version": version,
            "org.opencontainers.image.licenses": "Apache-2.0",
        }))
        .program("usr/bin/mtls-daemon", &programs::image_daemon()?)?
        .folder("run", 0o755)
        .folder("tmp", 0o1777))
}

/// The name under which a chart with nothing else said looks for it.
pub fn daemon_name() -> String {
    format!(
        "docker.io/library/mtls-daemon:{}",
        env!("CARGO_PKG_VERSION")
    )
}

/// Their archives, written to the folder at first use.
pub(super) fn all(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut archives = Vec::new();
    for (name, command) in [
        (PAUSE, &["/bin/sleep", "infinity"][..]),
        (APP, &["/bin/sh"]),
    ] {
        let file = name.replace(['/', ':'], "-") + ".tar";
        let archive = folder.join(&file);
        if !archive.exists() {
            let mut image = image(command)?;
            if name == APP {
                image = image.program("bin/mtls-test-app", &programs::test_app()?)?;
            }
            image.write(name, &archive)?;
        }
        archives.push(archive);
    }
    let archive = folder.join("daemon.tar");
    if !archive.exists() {
        daemon()?.write(&daemon_name(), &archive)?;
    }
    archives.push(archive);
    Ok(archives)
}

fn image(command: &[&str]) -> Result<Image> {
    let busybox = programs::container_runtime("bin/busybox")?;
    let mut image = Image::new(command).file("bin/busybox", &busybox)?;
    for tool in TOOLS {
        image = image.link(&format!("bin/{tool}"), "busybox");
    }
    for folder in ["dev", "etc", "proc", "root", "run", "sys", "var", "www"] {
        image = image.folder(folder, 0o755);
    }
    Ok(image
        .folder("tmp", 0o1777)
        .text("etc/passwd", "root:x:0:0::/root:/bin/sh\n"))
}
