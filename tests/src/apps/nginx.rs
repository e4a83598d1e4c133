//! nginx, the web server.

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;

use crate::deadline::{Deadline, wait_for};
use crate::error::{Doing, Result};
use crate::pod::Pod;
use crate::process::Process;
use crate::script::pattern;

/// An nginx that serves the files of a folder.
#[derive(Debug)]
pub struct Nginx {
    process: Process,
    folder: PathBuf,
}

impl Nginx {
    /// Listens on the port of all addresses of both families.
    pub fn start(pod: &Pod, port: u16) -> Result<Self> {
        let folder = pod.node().scene().data(&format!("nginx-{}", pod.name()))?;
        let files = folder.join("files");
        fs::create_dir(&files).doing(|| format!("making {}", files.display()))?;
        let at = folder.display();
        let config = format!(
            "daemon off; user root; worker_processes 1; pid {at}/pid; error_log stderr;\n\
             events {{ worker_connections 4096; }}\n\
             http {{\n\
               log_format plain '$remote_addr $remote_port $status $request';\n\
               access_log {at}/access.log plain;\n\
               client_body_temp_path {at}/body; proxy_temp_path {at}/proxy;\n\
               fastcgi_temp_path {at}/fastcgi; uwsgi_temp_path {at}/uwsgi; scgi_temp_path {at}/scgi;\n\
               keepalive_requests 1000000;\n\
               server {{ listen {port}; listen [::]:{port}; root {at}/files;\n\
                 location = /hello {{ return 200 'hello from {name}\\n'; }} }}\n\
             }}\n",
            name = pod.name(),
        );
        let file = folder.join("nginx.conf");
        fs::write(&file, config).doing(|| format!("writing {}", file.display()))?;
        let process = pod
            .spawn("nginx")?
            .args(["-e", "stderr", "-c"])
            .arg(&file)
            .start()?;
        let mut nginx = Self { process, folder };
        nginx.wait_until_listens(pod, port)?;
        Ok(nginx)
    }

    fn wait_until_listens(&mut self, pod: &Pod, port: u16) -> Result {
        wait_for(
            Deadline::default(),
            || format!("nginx to listen on port {port} of {}", pod.name()),
            || {
                self.process.must_run()?;
                Ok(pod.netns().listens(port)?.then_some(()))
            },
        )
    }

    /// Puts a file of the pattern `seed` into its folder.
    pub fn put(&self, name: &str, bytes: usize, seed: u64) -> Result {
        let mut content = vec![0; bytes];
        pattern(seed, 0, &mut content);
        let path = self.folder.join("files").join(name);
        fs::write(&path, content).doing(|| format!("writing {}", path.display()))
    }

    /// Its access log: `address port status request` a line.
    pub fn access_log(&self) -> String {
        fs::read_to_string(self.folder.join("access.log")).unwrap_or_default()
    }

    /// Waits until its access log names a client, and gives it all: it answers
    /// first and writes then.
    pub fn wait_for_client(&self, client: IpAddr) -> Result<String> {
        let start = format!("{client} ");
        wait_for(
            Deadline::default(),
            || format!("nginx to log a request of {client}"),
            || {
                let log = self.access_log();
                let logged = log.lines().any(|line| line.starts_with(&start));
                Ok(logged.then_some(log))
            },
        )
    }

    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}
