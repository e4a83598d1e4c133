//! A capture of one interface, written to a file as it comes, and judged
//! afterwards: was every byte of TCP inside of TLS 1.3?
//!
//! `socket` takes the frames, `pcap` keeps them, `packet` reads their headers,
//! `stream` puts connections together, `tls` judges their bytes, `report` says
//! what was seen.

mod packet;
mod pcap;
mod report;
mod socket;
mod stream;
mod tls;

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::error::{Doing, Error, Result};
use crate::netns::Netns;

pub use report::{Connection, Report};

/// A capture under way.
#[derive(Debug)]
pub struct Capture {
    thread: Option<JoinHandle<Result<u64>>>,
    stop: EventFd,
    file: PathBuf,
}

impl Capture {
    /// Everything that crosses the interface after this returns is in `file`.
    pub fn start(netns: &Netns, interface: &str, file: &Path) -> Result<Self> {
        let socket: OwnedFd = netns
            .run(|| socket::open(interface))?
            .doing(|| format!("capturing on {interface}"))?;
        let writer = pcap::Writer::create(file)?;
        let stop = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .doing(|| "making an eventfd")?;
        let stopped = stop
            .as_fd()
            .try_clone_to_owned()
            .doing(|| "copying an eventfd")?;
        let thread = std::thread::spawn(move || socket::record(&socket, &stopped, writer));
        Ok(Self {
            thread: Some(thread),
            stop,
            file: file.to_owned(),
        })
    }

    /// Stops after what has crossed until now, and judges it.
    pub fn finish(mut self) -> Result<Report> {
        let lost = self.stop()?;
        report::analyse(&self.file, lost)
    }

    /// How many frames the kernel had no room for.
    fn stop(&mut self) -> Result<u64> {
        let Some(thread) = self.thread.take() else {
            return Ok(0);
        };
        self.stop.write(1).doing(|| "stopping the capture")?;
        match thread.join() {
            Ok(lost) => lost,
            Err(_) => Err(Error::Unexpected("the capture's thread panicked".into())),
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        // A story that failed before it looked: the file is for the reader.
        let _ = self.stop();
    }
}
