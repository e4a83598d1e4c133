//! PostgreSQL, the database.

use std::fs;
use std::os::unix::fs::chown;
use std::path::PathBuf;

use nix::sys::signal::Signal;
use nix::unistd::User;

use crate::deadline::{Deadline, wait_for};
use crate::error::{Doing, Error, Result};
use crate::pod::Pod;
use crate::process::Process;

/// PostgreSQL refuses to run as root; its Debian package brings this user.
const USER: &str = "postgres";

/// A new database cluster that trusts everybody, without durability.
#[derive(Debug)]
pub struct Postgres {
    process: Process,
    folder: PathBuf,
}

impl Postgres {
    /// Listens on the port of all addresses of both families.
    pub fn start(pod: &Pod, port: u16) -> Result<Self> {
        let folder = pod
            .node()
            .scene()
            .data(&format!("postgres-{}", pod.name()))?;
        let user = User::from_name(USER)
            .doing(|| format!("looking up the user {USER}"))?
            .ok_or_else(|| Error::Missing {
                program: "initdb".into(),
                package: "postgresql",
            })?;
        chown(&folder, Some(user.uid.as_raw()), Some(user.gid.as_raw()))
            .doing(|| format!("giving {} to {USER}", folder.display()))?;
        pod.spawn("initdb")?
            .user(USER)?
            .args(["--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C"])
            .args(["--username=postgres", "--pgdata"])
            .arg(folder.join("cluster"))
            .output()?
            .success()?;
        let hba = folder.join("cluster/pg_hba.conf");
        fs::write(
            &hba,
            "local all all trust\nhost all all 0.0.0.0/0 trust\nhost all all ::/0 trust\n",
        )
        .doing(|| format!("writing {}", hba.display()))?;
        let settings = [
            "listen_addresses=*".to_owned(),
            format!("port={port}"),
            format!("unix_socket_directories={}", folder.display()),
            "fsync=off".into(),
            "shared_buffers=16MB".into(),
            "max_connections=200".into(),
            // Nothing of it outside of its folder.
            "dynamic_shared_memory_type=mmap".into(),
        ];
        let process = settings
            .into_iter()
            .fold(pod.spawn("postgres")?, |spawn, setting| {
                spawn.arg("-c").arg(setting)
            })
            .user(USER)?
            .private_ipc()
            .arg("-D")
            .arg(folder.join("cluster"))
            .start()?;
        let mut postgres = Self { process, folder };
        wait_for(
            Deadline::default(),
            || "PostgreSQL to be ready",
            || {
                postgres.process.must_run()?;
                Ok(postgres.is_ready().then_some(()))
            },
        )?;
        Ok(postgres)
    }

    /// The last line of its pid file says so.
    fn is_ready(&self) -> bool {
        fs::read_to_string(self.folder.join("cluster/postmaster.pid"))
            .is_ok_and(|text| text.lines().nth(7).is_some_and(|s| s.trim() == "ready"))
    }

    /// Folder of its Unix socket, for work that must not cross the network.
    pub fn socket_folder(&self) -> &PathBuf {
        &self.folder
    }

    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // Its backends have process groups of their own; quitting ends them.
        if self.process.signal(Signal::SIGQUIT).is_ok() {
            let _ = self.process.wait(Deadline::default());
        }
    }
}
